"""What the targets of image formats share: an input is eight bytes that choose the options, and the image behind them.

Right is a plan that keeps to the guest's RAM and to itself, or an ImageError of one line. Its words tell how a run ended.
"""

import struct
from collections.abc import Callable
from itertools import pairwise

from fuzz.target import Target, without_numbers
from trapgate.boot import BootOptions, BootPlan, Image, ImageError, Module, loader, plan_boot

MIB = 1 << 20
CHOICE = struct.Struct("<BBHI")  # RAM, what else is given, size of the initrd, load address
RAMS = (
    ((0, 64 * MIB),),
    ((0, 3 << 30), (4 << 30, 5 << 30)),
    ((0, MIB),),
    ((0, 4096),),
    ((0, 0xE_1000),),
    ((0, 2 * MIB),),
)
INITRD, MODULE, LINE, LOAD_AT, CPUS, LONG_LINE = (1 << bit for bit in range(6))


def chosen(image: bytes, ram: int = 0, given: int = 0, initrd: int = 100, load_at: int = 0) -> bytes:
    """An input."""
    return CHOICE.pack(ram, given, initrd, load_at) + image


def options_of(data: bytes) -> BootOptions:
    """The options that an input chooses."""
    ram, given, initrd, load_at = CHOICE.unpack(data[: CHOICE.size].ljust(CHOICE.size, b"\0"))
    return BootOptions(
        RAMS[ram % len(RAMS)],
        "console=ttyS0" * (1 + 80 * bool(given & LONG_LINE)) if given & LINE else "",
        Image(bytes(initrd), "initrd") if given & INITRD else None,
        (Module(Image(bytes(initrd), "a module"), "text"),) * (given >> 6) if given & MODULE else (),
        255 if given & CPUS else 1,
        load_at if given & LOAD_AT else None,
    )


def run(data: bytes) -> str:
    """Plan the start of an image by the options that an input chooses."""
    return planned(data[CHOICE.size :], options_of(data))


def planned(image: bytes, options: BootOptions) -> str:
    """Plan the start of an image."""
    try:
        plan = plan_boot(Image(image), options)
    except ImageError as error:
        text = str(error)
        assert text.isprintable(), f"not one line: {text!r}"
        assert len(text) < 400, f"{len(text)} characters of an error"
        return without_numbers(text)
    check(plan, options)
    return f"{plan.kind} {plan.code} {plan.start.mode}"


def check(plan: BootPlan, options: BootOptions) -> None:
    """Every piece lies in RAM and over no other; the first instruction and the tables do, too."""
    spans = sorted((piece.address, piece.address + len(piece.data)) for piece in plan.pieces if len(piece.data))
    assert all(in_ram(start, end, options) for start, end in spans), "a piece outside RAM"
    assert all(before[1] <= behind[0] for before, behind in pairwise(spans)), "one piece over another"
    start = plan.start
    first = start.segments["cs"].base + start.rip
    assert in_ram(first, first + 1, options), f"starts at {first:#x}, where no RAM is"
    assert all(0 <= value < 1 << 64 for _, value in start.registers())
    if start.mode != "real16":
        assert in_ram(start.gdt_base, start.gdt_base + start.gdt_limit + 1, options)
    assert all(entry.size > 0 for entry in plan.memory_map)


def in_ram(start: int, end: int, options: BootOptions) -> bool:
    """Whether all of a range is RAM."""
    return any(low <= start and end <= high for low, high in options.ram)


def broken(names: str, room: object = loader) -> Callable[[], None]:
    """A plant: a module forgets the check that a function of it makes; what it would have refused is an error of another kind."""

    def plant() -> None:
        right = getattr(room, names)

        def forgets(*arguments: object) -> object:
            try:
                return right(*arguments)
            except ImageError as error:
                raise IndexError(str(error)) from error

        setattr(room, names, forgets)

    return plant


def target(first: list[bytes], plant: Callable[[], None], words: tuple[bytes, ...] = ()) -> Target:
    """A target of images."""
    return Target(run, first, plant, words=words)
