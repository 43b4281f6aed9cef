"""Boots the guest, or takes the machine that an earlier run has booted, and runs one program of the host in it."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from trapgate import snapshot
from trapgate.arch.layout import READY_PORT
from trapgate.boot import BootOptions, load, plan_boot
from trapgate.boot.image import Image
from trapgate.build import Hearing, make_machine
from trapgate.config import MachineConfig
from trapgate.debug.buslock import Mode
from trapgate.devices.parts import Maker, Stateless, Wiring
from trapgate.devices.virtio.console import ConsolePort, virtio_console
from trapgate.devices.virtio.net import NetworkPort, virtio_net
from trapgate.exec import messages
from trapgate.exec.errors import GuestFailed
from trapgate.exec.kernel import Kernel, Progress
from trapgate.exec.messages import Port, Report, Reports, Request
from trapgate.exec.source import KernelSource
from trapgate.guests import INIT
from trapgate.snapshot import SnapshotError
from trapgate.stencil.cache import Cache
from trapgate.stencil.identity import digest
from trapgate.stops import MachineExit, Paused, Stop
from trapgate.values import dataclass

KIND = "machines"
KEPT = 3  # booted machines
ROOMS = ("", "soft", "boot", "devices", "exec")
"""What decides how a machine is when it is kept, beside its configuration."""
COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 nokaslr mitigations=off init_on_alloc=0 nowatchdog audit=0 apparmor=0 selinux=0 "
    "8250.nr_uarts=1 cryptomgr.notests random.trust_cpu=on rcupdate.rcu_expedited=1"
)
LAST_WORDS = 4096  # bytes of the kernel's console that are kept
TELLING = ("trapgate init:", "Kernel panic", "Out of memory")  # in lines that say more than the trace behind them
ENDS = (messages.Exited, messages.Killed, messages.NotStarted, messages.Failed)


@dataclass(frozen=True, slots=True)
class Setup:
    """What the guest is: `memory` in bytes, `cpu` as `CpuModel.parse` reads it, `shares` to be the devices of the host's files.

    `network`: where frames go and come from, if the guest has a network.
    """

    kernel: KernelSource
    memory: int = 1 << 30
    cpus: int = 1
    cpu: str = MachineConfig().cpu
    shares: tuple[Maker, ...] = ()
    bus_locks: Mode = Mode.OFF
    network: NetworkPort | None = None


def _nothing(*anything: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears of a run, each called on the machine's thread: of what arrives at ports, and of reports that are no end."""

    outputs: Mapping[Port, Callable[[bytes], None]]
    report: Callable[[Report], None] = _nothing


class Guest:
    """A machine with Linux in it, for one run of one program. TrapgateError where it cannot be made.

    `ports` lead to the program's streams. `boot` first, then `run`; both on one thread.
    """

    def __init__(self, setup: Setup, listeners: Listeners, hearing: Hearing) -> None:
        self._setup, self._listeners, self._hearing = setup, listeners, hearing
        self._cache = Cache()
        self._console = bytearray()
        self._reports = Reports()
        self._ready = False
        self._kernel: Kernel | None = None
        self._end: Report | None = None
        outputs = {**listeners.outputs, Port.CONTROL: self._told}
        self.ports = {port: ConsolePort(outputs.get(port, _nothing), port.name.lower()) for port in Port}
        devices = [virtio_console(ConsolePort(_nothing), *self.ports.values()), self._bell, *setup.shares]
        if setup.network is not None:
            devices.append(virtio_net(setup.network))
        self.machine = make_machine(
            MachineConfig(
                memory=setup.memory,
                cpus=setup.cpus,
                cpu=setup.cpu,
                serial=self._printed,
                devices=tuple(devices),
                bus_locks=setup.bus_locks,
            ),
            "soft",
            hearing,
        )

    def close(self) -> None:
        """Give back what the machine holds of the host, with what was translated kept."""
        self.machine.engine.keep()
        self.machine.close()

    # Booting

    def prepare(self) -> None:
        """Read what a first boot takes, where it is needed: `boot` then opens files of the cache alone. ExecError."""
        if not self.place.exists():
            self._kernel = self._setup.kernel.get()

    @property
    def place(self) -> Path:
        """Where such a machine is kept."""
        parts = (
            self._setup.kernel.identity,
            str(self._setup.memory),
            str(self._setup.cpus),
            self._setup.cpu,
            str(len(self._setup.shares)),
            str(self._setup.network is not None),
            COMMAND_LINE,
            digest(ROOMS),
            hashlib.sha256(INIT.read_bytes()).hexdigest(),
        )
        name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
        return self._cache.directory / f"{KIND}-{name}"

    def boot(self, progress: Progress) -> None:
        """Be a machine that waits for a request: one that was kept, or, the first time, one that boots. GuestFailed, ExecError."""
        with suppress(SnapshotError):  # none, or an unsound one: it is made anew
            snapshot.restore(self.machine, self.place)
            return
        progress("booting the guest, once", 0, 0)
        self._put()
        stop = self.machine.resume()
        if not self._ready:
            raise self._failed(stop)
        progress("keeping the booted guest", 0, 0)
        try:
            snapshot.save_plain(self.machine, self.place)
        except SnapshotError as error:
            self._hearing.note(f"the booted guest is not kept: {error}")
        self._prune()

    def _put(self) -> None:
        from trapgate.exec.initramfs import packed, places  # most runs boot nothing

        kernel = self._kernel or self._setup.kernel.get()
        ram = self.machine.ram
        words = " ".join([COMMAND_LINE, "--", *places(kernel)])
        initrd = Image(packed(kernel), "initramfs")
        options = BootOptions(tuple(ram.regions()), words, initrd, cpus=self._setup.cpus, virtio=self.machine.board.virtio)
        plan = plan_boot(Image(kernel.image, f"vmlinuz-{kernel.release}"), options)
        load(plan, ram)  # without fw_cfg's copy of all of it, which would be kept as well, and nobody asks for
        self.machine.vcpu.start(plan.start)

    def _prune(self) -> None:
        with suppress(OSError):
            found = sorted(self._cache.directory.glob(f"{KIND}-*"), key=lambda path: path.stat().st_mtime)
            for path in found[:-KEPT]:
                path.unlink(missing_ok=True)

    def _bell(self, wiring: Wiring) -> "Doorbell":
        bell = Doorbell(self._rung)
        wiring.ports(READY_PORT, 1, bell)
        return bell

    def _rung(self) -> None:
        self._ready = True
        self.machine.stop(Paused())

    # Running

    def run(self, request: Request) -> Report:
        """Run a program to its end, which is told: Exited, Killed, NotStarted. GuestFailed; ExecError: too long a request.

        `machine.pause` ends it as well, with GuestFailed: whoever pauses knows why.
        """
        self.send(request.encode(time.time_ns()))
        stop = self.machine.resume()
        for port in self._listeners.outputs:  # a slow reader had them held: what is written there since is in their queues
            self.ports[port].drain()
        match self._end:
            case None:
                raise self._failed(stop)
            case messages.Failed(what, number):
                raise GuestFailed(f"the guest could not begin: {what}: {os.strerror(number)}")
        return self._end

    def send(self, message: bytes) -> None:
        """Tell the first program something; from any thread."""
        self.ports[Port.CONTROL].feed(message)

    def _told(self, data: bytes) -> None:
        try:
            for report in self._reports.feed(data):
                self._listeners.report(report)
                if isinstance(report, ENDS):
                    self._end = report
                    self.machine.stop(Paused())
        except messages.Nonsense as error:
            self._end = messages.Failed(f"what its first program says is nonsense ({error})", 0)
            self.machine.stop(Paused())

    def _printed(self, data: bytes) -> None:
        self._console += data
        del self._console[:-LAST_WORDS]

    def _failed(self, stop: Stop) -> GuestFailed:
        """What became of the machine, with the last that its kernel printed."""
        how = stop.kind.value if isinstance(stop, MachineExit) else type(stop).__name__
        lines = [line.strip() for line in self._console.decode(errors="replace").splitlines() if line.strip()]
        said = [line for line in lines if any(word in line for word in TELLING)] or lines[-3:]
        return GuestFailed(f"the guest ended before the program did ({how}); its last words: {' | '.join(said) or 'none'}")


class Doorbell(Stateless):
    """One port; a write to it rings."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring

    def read(self, offset: int, size: int) -> int:
        """Nothing to read."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Ring."""
        self._ring()
