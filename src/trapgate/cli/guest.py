"""A machine with a guest in it, ready to run: the one place where the command line meets boot, machine and CPU."""

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trapgate.arch.models import ModelError
from trapgate.boot import BootOptions, CpuStart, ImageError, load, plan_boot, read_image
from trapgate.cli.errors import Failure
from trapgate.machine import Machine, MachineConfig
from trapgate.memory import MemoryError_
from trapgate.stencil.cache import CacheError
from trapgate.vcpu import Vcpu


def stencil_progress() -> tuple[Progress, Callable[[int, int], None]]:
    """A progress bar on standard error for the compilation of stencils, and what moves it; it is shown only once it moves."""
    columns = (TextColumn("compiling the CPU, once"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("", start=True)

    def move(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    return bar, move


def make_machine(config: MachineConfig, engine: str) -> Machine:
    """An empty machine; Failure when the host or the options do not allow it."""
    if engine != "soft":
        raise Failure(f"--engine {engine} is not in this version; leave the option out: the software CPU runs everywhere")
    from trapgate.soft.cpu import SoftVcpu

    bar, _ = stencil_progress()
    try:
        return Machine(config, SoftVcpu)
    except (ModelError, MemoryError_, CacheError, ValueError) as error:
        raise Failure(str(error)) from error
    finally:
        bar.stop()


def load_guest(machine: Machine, image: str, command_line: str = "", initrd: str | None = None, cpus: int = 1) -> str:
    """Put an image into a machine and set the boot processor on its entry; returns how the image was recognised. Failure."""
    try:
        extra = read_image(initrd) if initrd is not None else None
        plan = plan_boot(read_image(image), BootOptions(tuple(machine.ram.regions()), command_line, extra, cpus))
        load(plan, machine.ram)
    except (ImageError, MemoryError_) as error:
        raise Failure(str(error)) from error
    start(machine.vcpu, plan.start)
    return plan.kind


def start(vcpu: Vcpu, first: CpuStart) -> None:
    """Bring a vCPU from its reset state to the first registers that a loader chose."""
    for name in ("gdt_base", "gdt_limit", "idt_base", "idt_limit", "cr3", "cr4", "efer", "cr0"):
        vcpu.set(name, getattr(first, name))
    for name, segment in first.segments.items():
        vcpu.set(name, segment.selector)
    for name, value in first.registers():
        vcpu.set(name, value)
