"""Puts guests into machines: images from files, with what belongs to them."""

from collections.abc import Sequence
from pathlib import Path

from trapgate.boot import BootOptions, BootPlan, Module, firmware, fwcfg, load, plan_boot, read_image
from trapgate.devices.fwcfg import FwCfg
from trapgate.machine import Machine
from trapgate.memory import Ram


def plan_guest(
    ram: Ram,
    image: str | Path,
    command_line: str = "",
    initrd: str | Path | None = None,
    cpus: int = 1,
    modules: Sequence[str] = (),
    load_address: int | None = None,
    virtio: int = 0,
) -> BootPlan:
    """Read an image and decide how it starts in a machine with such RAM. ImageError when it cannot be booted.

    Each of `modules` is a path and, after a space, the text that the module gets. `load_address` is where a flat binary goes and
    starts; None: 7C00h. `virtio` is how many such devices the guest is told of: `Board.virtio`.
    """
    extra = read_image(initrd) if initrd is not None else None
    options = BootOptions(tuple(ram.regions()), command_line, extra, _modules(modules), cpus, load_address, virtio)
    return plan_boot(read_image(image), options)


def plan_firmware(machine: Machine, path: str | Path | None = None) -> BootPlan:
    """Read firmware, or this host's where no path is given, and decide how it starts, to boot what disks hold. ImageError."""
    image = firmware.read(path or firmware.find())
    options = BootOptions(tuple(machine.ram.regions()), cpus=machine.config.cpus, virtio=machine.board.virtio)
    return firmware.plan(image, options)


def _modules(words: Sequence[str]) -> tuple[Module, ...]:
    parts = (word.partition(" ") for word in words)
    return tuple(Module(read_image(path), text.strip()) for path, _, text in parts)


def put_guest(machine: Machine, plan: BootPlan) -> None:
    """Put a guest into a machine whose RAM is zero, and set the boot processor on its entry. RamError: RAM is too small."""
    load(plan, machine.ram)
    configuration = machine.board.part(FwCfg)
    configuration.put(fwcfg.items(plan))
    for name, data in plan.files:
        configuration.put_file(name, data)
    machine.vcpu.start(plan.start)


def load_guest(machine: Machine, image: str | Path, command_line: str = "", initrd: str | Path | None = None) -> BootPlan:
    """`plan_guest` and `put_guest` in one."""
    plan = plan_guest(machine.ram, image, command_line, initrd, machine.config.cpus, virtio=machine.board.virtio)
    put_guest(machine, plan)
    return plan


def restart(machine: Machine, plan: BootPlan) -> None:
    """Switch a machine off and on, with a guest in it as `plan` says. HostError."""
    machine.engine.keep()
    machine.power_cycle()
    put_guest(machine, plan)
