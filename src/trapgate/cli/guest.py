"""A machine with a guest in it, ready to run: the one place where the command line meets boot, machine and CPU."""

import gc
from collections.abc import Callable, Sequence
from functools import partial

import click

from trapgate.arch.models import CpuModel, ModelError
from trapgate.boot import BootOptions, BootPlan, CpuStart, ImageError, Module, load, plan_boot, read_image
from trapgate.cli.errors import Failure
from trapgate.debug.buslock import Mode
from trapgate.machine import ClockKind, Machine, MachineConfig
from trapgate.memory import MemoryError_, Ram
from trapgate.soft import borrowed
from trapgate.soft import cpu as soft
from trapgate.soft.blocks.kept import TranslationCache
from trapgate.soft.crash import Crashes
from trapgate.soft.exact.segments import put_segment
from trapgate.soft.loops.hot import HotLoops
from trapgate.stencil.cache import Cache, CacheError
from trapgate.stencil.library import Library, load_library

_told: set[str] = set()  # what the user knows already: a run opens the cache at its start and at its end


class Compiling:
    """A bar on standard error for the compilation of stencils; nothing (and no library loaded for it) until it moves."""

    def __init__(self) -> None:
        self._stop: Callable[[], None] = lambda: None
        self._update: Callable[[int, int], None] | None = None

    def __enter__(self) -> Callable[[int, int], None]:
        return self._move

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _move(self, done: int, total: int) -> None:
        if self._update is None:
            self._update = self._start()
        self._update(done, total)

    def _start(self) -> Callable[[int, int], None]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("compiling the CPU, once:"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        task = bar.add_task("")
        bar.start()
        self._stop = bar.stop
        return lambda done, total: bar.update(task, completed=done, total=total)


def open_cache() -> Cache:
    """The cache on disk; Failure when it cannot be trusted."""
    try:
        return Cache()
    except CacheError as error:
        raise Failure(str(error)) from error


def stencils(cache: Cache | None = None) -> Library:
    """The software CPU's stencils, compiled now or in an earlier run; Failure when the cache cannot be trusted."""
    cache = cache or open_cache()
    with Compiling() as move:
        library = load_library(cache, move)
    tell_notes(cache)
    return library


def tell_notes(cache: Cache) -> None:
    """What the cache could not do, a line each, once."""
    for note in cache.notes:
        if note not in _told:
            click.echo(f"trapgate: {note}", err=True)
            _told.add(note)
    cache.notes.clear()


def make_machine(config: MachineConfig, engine: str) -> Machine:
    """An empty machine; Failure when the host or the options do not allow it."""
    if engine == "kvm":
        from trapgate.cli import guest_kvm  # each engine is loaded only where it is used

        return guest_kvm.make_machine(config)
    try:
        counting = config.clock is ClockKind.INSTRUCTIONS
        cache = open_cache()
        machine = Machine(config, partial(soft.make, library=stencils(cache), counting=counting))
    except (ModelError, MemoryError_) as error:
        raise Failure(str(error)) from error
    if lacked := borrowed.lacked(CpuModel.parse(config.cpu)):
        click.echo(f"trapgate: this host's CPU lacks {', '.join(lacked)}: the guest's does, too", err=True)
    _equip(machine, cache)
    return machine


def _equip(machine: Machine, cache: Cache) -> None:
    """Give a new software CPU what the run needs besides: crashes told, bus locks seen, translations of earlier runs."""
    vcpu = machine.vcpu
    assert isinstance(vcpu, soft.SoftVcpu)
    vcpu.crashes = Crashes(vcpu)
    vcpu.crashes.catch()
    vcpu.state.bus_lock_report = machine.config.bus_locks is not Mode.OFF
    if not vcpu.translator.counting:  # where blocks end must not depend on earlier runs when time is counted by blocks
        TranslationCache(cache, vcpu.model).load(vcpu.translator)
        vcpu.hot = HotLoops(vcpu, failed=machine.fail)
        vcpu.hot.known.load(cache)
    tell_notes(cache)


def restart(machine: Machine, plan: BootPlan) -> None:
    """Switch a machine off and on, with a guest in it as `plan` says. HostError."""
    keep_translations(machine)
    machine.power_cycle()
    gc.collect()  # the CPU of before, which refers to itself, holds many MiB
    if isinstance(machine.vcpu, soft.SoftVcpu):
        _equip(machine, open_cache())
    else:
        from trapgate.cli import guest_kvm  # each engine is loaded only where it is used

        guest_kvm.equip(machine)
    put_guest(machine, plan)


def keep_translations(machine: Machine) -> None:
    """Write back what the software CPU has translated, once the machine has stopped for good."""
    if not isinstance(machine.vcpu, soft.SoftVcpu) or machine.vcpu.translator.counting:
        return
    cache = open_cache()
    TranslationCache(cache, machine.vcpu.model).store(machine.vcpu.translator.known_blocks)
    if machine.vcpu.hot is not None:
        machine.vcpu.hot.known.store(cache)
    tell_notes(cache)


def plan_guest(
    ram: Ram,
    image: str,
    command_line: str = "",
    initrd: str | None = None,
    cpus: int = 1,
    modules: Sequence[str] = (),
    load_address: int | None = None,
) -> BootPlan:
    """Read an image and decide how it starts in a machine with such RAM. Failure.

    Each of `modules` is a path and, behind a space, the text that the module gets. `load_address` is where a flat binary goes
    and starts; None: 7C00h.
    """
    try:
        extra = read_image(initrd) if initrd is not None else None
        options = BootOptions(tuple(ram.regions()), command_line, extra, _modules(modules), cpus, load_address)
        return plan_boot(read_image(image), options)
    except ImageError as error:
        raise Failure(str(error)) from error


def put_guest(machine: Machine, plan: BootPlan) -> None:
    """Put a guest into a machine whose RAM is zero, and set the boot processor on its entry. Failure."""
    try:
        load(plan, machine.ram)
    except MemoryError_ as error:
        raise Failure(str(error)) from error
    if isinstance(machine.vcpu, soft.SoftVcpu):
        start(machine.vcpu, plan.start)
    else:
        from trapgate.cli import guest_kvm
        from trapgate.kvm.cpu import KvmVcpu

        assert isinstance(machine.vcpu, KvmVcpu)
        guest_kvm.start(machine.vcpu, plan.start)


def load_guest(machine: Machine, image: str, command_line: str = "", initrd: str | None = None) -> BootPlan:
    """`plan_guest` and `put_guest` in one, for a machine that is not started again. Failure."""
    plan = plan_guest(machine.ram, image, command_line, initrd)
    put_guest(machine, plan)
    return plan


def _modules(words: Sequence[str]) -> tuple[Module, ...]:
    parts = (word.partition(" ") for word in words)
    return tuple(Module(read_image(path), text.strip()) for path, _, text in parts)


def start(vcpu: soft.SoftVcpu, first: CpuStart) -> None:
    """Bring a vCPU from its reset state to the first registers that a loader chose, hidden parts of the segments included."""
    for name in ("gdt_base", "gdt_limit", "idt_base", "idt_limit", "cr3", "cr4", "efer", "cr0"):
        vcpu.set(name, getattr(first, name))
    for name, segment in first.segments.items():
        put_segment(vcpu, name, segment.selector, segment.base, segment.limit, segment.attributes)
    for name, value in first.registers():
        vcpu.set(name, value)
    vcpu.update_mode()
