"""A small C guest on the software CPU under a real gdb: built at test time, run in this process, driven by gdb's batch mode."""

import subprocess
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType

from trapgate.build import default_cpu, make_machine, plan_guest, put_guest, restart
from trapgate.gdb.address import Address, TcpAddress
from trapgate.gdb.architecture import Architecture
from trapgate.gdb.host import DebugHost
from trapgate.machine import ClockKind, MachineConfig
from trapgate.record.recording import Recording
from trapgate.stops import MachineExit

SOURCES = Path(__file__).with_name("gdb_guest")
FLAGS = (
    "-g -O0 -ffreestanding -nostdlib -static -no-pie -mno-red-zone -fno-stack-protector -fno-asynchronous-unwind-tables "
    "-fcf-protection=none -Wl,-Ttext=0x100000,--build-id=none,-e,pvh_entry"
)
PLAIN = "-mgeneral-regs-only"


@cache
def image(plain: bool = False) -> str:
    """The guest as an ELF file with symbols; a `plain` one uses no floating point, which not every host's KVM can emulate."""
    out = Path(mkdtemp()) / "guest.elf"
    sources = [str(SOURCES / name) for name in ("start.S", "main.c")]
    subprocess.run(["gcc", *FLAGS.split(), *([PLAIN] if plain else []), "-o", str(out), *sources], check=True, timeout=60)
    return str(out)


class GuestUnderGdb:
    """The guest on a thread of its own, with a stub."""

    def __init__(
        self, wait: bool = True, path: str | None = None, address: Address | None = None, append: str = "", memory: int = 8,
        initrd: str | None = None, engine: str = "soft", architecture: Architecture | None = None, file: str | None = None,
        clock: ClockKind | None = None, cpus: int = 1, recorded: bool = False, save: str = "",
    ) -> None:  # fmt: skip
        config = MachineConfig(memory=memory << 20, cpus=cpus)
        if engine == "kvm":
            config = replace(config, cpu=default_cpu("kvm"))
        if clock is not None or recorded:
            config = replace(config, clock=clock or ClockKind.INSTRUCTIONS)
        self.machine = make_machine(config, engine)
        plan = plan_guest(self.machine.ram, path or image(), append, initrd, cpus)
        put_guest(self.machine, plan)

        def reset() -> int:
            again = plan_guest(self.machine.ram, path or image(), append, initrd, cpus)
            restart(self.machine, again)
            return again.code

        self.recording = Recording(self.machine) if recorded else None
        self.file = file or image()
        """What gdb is given, where it is given symbols."""
        self.host = DebugHost(
            self.machine,
            address or TcpAddress("127.0.0.1", 0),
            wait=wait,
            reset=None if recorded else reset,
            recording=self.recording,
            file=save,
            architecture=architecture,
            code=plan.code,
        )
        self.end: MachineExit | BaseException | None = None
        self.thread = threading.Thread(target=self._main, daemon=True)

    def _main(self) -> None:
        try:
            self.end = self.host.run()
        except BaseException as error:
            self.end = error

    def __enter__(self) -> "GuestUnderGdb":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.thread.is_alive():
            self.host.post(self.host.target.kill)
        self.thread.join(20)
        assert not self.thread.is_alive()
        assert not isinstance(self.end, BaseException), self.end
        self.machine.close()

    def gdb(
        self, *commands: str, timeout: float = 60, symbols: bool = True, first: Sequence[str] = (), target: str = "remote"
    ) -> str:
        """What gdb prints for these commands after it attached to a `target` of this kind; `first` come before that."""
        where = str(self.host.address).removeprefix("unix:")
        connect = f"target {target} {where}"
        return run_gdb(*first, connect, *commands, file=self.file if symbols else None, timeout=timeout)


def run_gdb(*commands: str, file: str | None = None, timeout: float = 60) -> str:
    """What gdb prints for these commands, with symbols from a file."""
    arguments = ["gdb", "-nx", "-nh", "-batch"]
    for command in ("set confirm off", "set pagination off", *commands):
        arguments += ["-ex", command]
    done = subprocess.run(
        [*arguments, *([file] if file else [])], capture_output=True, text=True, timeout=timeout, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout + done.stderr
