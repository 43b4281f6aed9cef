"""Tasks and modules out of a pretend kernel's memory, whole and broken."""

import pytest

from trapgate.linux.btf import TypesError
from trapgate.linux.kallsyms import KernelSymbol
from trapgate.linux.kernel import WIDE, Kernel, NoKernel
from trapgate.linux.tasks import Tasks
from unit.linux.types import Btf

VIRTUAL = 0xFFFF_FFFF_8100_0000
SIZE = 2 << 20  # one large page, at physical SIZE
ROOT, BTF, AREA, INIT, SIGNALS, MM, MODULES = 0x1000, 0x4000, 0x8000, 0x10000, 0x20000, 0x30000, 0x40000
TASK = {"__state": 0, "flags": 4, "tasks": 8, "mm": 24, "pid": 32, "tgid": 36, "real_parent": 40, "signal": 48, "comm": 56,
        "thread_node": 72, "exit_state": 88}  # fmt: skip
STEP = 0x100


class Guest:
    """RAM of four mebibytes whose second half is the kernel's image; it runs `tasks`, (pid, process, name), and has two modules."""

    cr4 = 0x20

    def __init__(self, old: bool = False) -> None:
        self.ram = bytearray(2 * SIZE)
        self.old = old
        table = SIZE + ROOT
        self.put(ROOT + 511 * 8, table + 0x1000 | 3)
        self.put(ROOT + 0x1000 + 510 * 8, table + 0x2000 | 3)
        self.put(ROOT + 0x2000 + 8 * 8, SIZE | 0x83)
        data = self.types()
        self.ram[SIZE + BTF : SIZE + BTF + len(data)] = data
        self.symbols = {"_text": 0, "init_top_pgt": ROOT, "__start_BTF": BTF, "__stop_BTF": BTF + len(data), "init_task": INIT,
                        "__per_cpu_offset": AREA, "modules": MODULES}  # fmt: skip

    def put(self, at: int, value: int, size: int = 8) -> None:
        self.ram[SIZE + at : SIZE + at + size] = value.to_bytes(size, "little")

    def types(self) -> bytes:
        btf = Btf()
        word = btf.integer("long", 8)
        btf.structure("task_struct", [(name, word, 8 * at) for name, at in TASK.items()])
        btf.structure("signal_struct", [("thread_head", word, 8 * 16)])
        btf.structure("mm_struct", [("pgd", word, 8 * 8)])
        btf.structure("pcpu_hot", [("current_task", word, 8 * 24)])
        place = btf.structure("place", [("base", word, 8 * 8)])
        base = ("core_layout", place, 8 * 64) if self.old else ("mem", btf.array(place, 7), 8 * 64)
        btf.structure("module", [("list", word, 8 * 8), ("name", word, 8 * 24), base])
        return btf.data()

    def link(self, places: list[int]) -> None:
        for at, to in zip(places, [*places[1:], places[0]], strict=True):
            self.put(at, VIRTUAL + to)

    def run(self, processes: list[list[tuple[int, str]]]) -> None:
        number, tasks = 0, []
        for index, threads in enumerate(processes):
            signal = SIGNALS + STEP * index
            nodes = [signal + 16]
            for pid, name in threads:
                at = INIT + STEP * number
                number += 1
                self.ram[SIZE + at + 56 : SIZE + at + 72] = name.encode().ljust(16, b"\0")
                self.put(at + 32, pid, 4)
                self.put(at + 36, threads[0][0], 4)
                self.put(at + 40, VIRTUAL + INIT)
                self.put(at + 48, VIRTUAL + signal)
                nodes.append(at + 72)
            tasks.append(INIT + STEP * (number - len(threads)) + 8)
            self.link(nodes)
        self.link(tasks)

    def read_msr(self, index: int) -> int:
        return 0

    def translate(self, address: int) -> int | None:
        return None

    def read_physical(self, address: int, length: int) -> bytes:
        return bytes(self.ram[address : address + length])

    def kernel(self) -> Kernel:
        symbols = sorted(KernelSymbol(VIRTUAL + at, f"D{name}") for name, at in self.symbols.items())
        return Kernel(WIDE, self, tuple(symbols), VIRTUAL, VIRTUAL - SIZE)


def started() -> Guest:
    guest = Guest()
    guest.run([[(0, "swapper/0")], [(1, "init")], [(7, "server"), (8, "worker"), (9, "worker")]])
    return guest


def test_every_task_of_every_process() -> None:
    guest = started()
    server = INIT + 2 * STEP
    guest.put(server, 0x2, 4)
    guest.put(server + 24, VIRTUAL + MM)
    guest.put(MM + 8, VIRTUAL + 0x1234000 % SIZE)
    guest.put(INIT + 4, 0x200000, 4)
    found = list(Tasks(guest.kernel()).all())
    assert [(task.pid, task.process, task.name) for task in found] == [
        (0, 0, "swapper/0"), (1, 1, "init"), (7, 7, "server"), (8, 7, "worker"), (9, 7, "worker"),
    ]  # fmt: skip
    assert [task.state for task in found] == ["R", "R", "D", "R", "R"]
    assert found[2].space == SIZE + 0x1234000 % SIZE and not found[1].space
    assert [task.of_kernel for task in found] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("state", "exiting", "letter"), [(1, 0, "S"), (0x402, 0, "I"), (4, 0, "T"), (8, 0, "t"), (0, 0x20, "Z"), (0, 0x10, "X")]
)
def test_states_as_ps_shows_them(state: int, exiting: int, letter: str) -> None:
    guest = started()
    guest.put(INIT + STEP, state, 4)
    guest.put(INIT + STEP + 88, exiting, 4)
    assert list(Tasks(guest.kernel()).all())[1].state == letter


@pytest.mark.parametrize("per_cpu", [0x8, VIRTUAL + 0x8], ids=["from zero", "in the image"])
@pytest.mark.parametrize("hot", [False, True])
def test_what_each_vcpu_runs(per_cpu: int, hot: bool) -> None:
    guest = started()
    symbol = per_cpu - 24 * hot
    for vcpu, task in enumerate((INIT + STEP, INIT + 3 * STEP)):
        area = 0x50000 + 0x1000 * vcpu
        guest.put(AREA + 8 * vcpu, VIRTUAL + area - per_cpu & (1 << 64) - 1)
        guest.put(area, VIRTUAL + task)
    kernel = guest.kernel()
    name = "pcpu_hot" if hot else "current_task"
    tasks = Tasks(Kernel(WIDE, guest, (*kernel.symbols, KernelSymbol(symbol, f"A{name}")), kernel.entry, kernel.moved))
    assert [(one := tasks.current(vcpu)) and one.pid for vcpu in (0, 1)] == [1, 8]


def test_nobody_runs_where_nobody_says() -> None:
    assert Tasks(started().kernel()).current(0) is None


@pytest.mark.parametrize("old", [True, False], ids=["core_layout", "mem"])
def test_modules(old: bool) -> None:
    guest = Guest(old)
    guest.run([[(0, "swapper/0")]])
    guest.link([MODULES, MODULES + 0x108, MODULES + 0x208])
    for at, name in ((0x100, b"virtio_mmio"), (0x200, b"overlay")):
        guest.ram[SIZE + MODULES + at + 24 : SIZE + MODULES + at + 24 + len(name)] = name
        guest.put(MODULES + at + 72, 0xFFFFFFFFC0000000 + at)
    assert [(one.name, one.start) for one in Tasks(guest.kernel()).modules()] == [
        ("virtio_mmio", 0xFFFFFFFFC0000100), ("overlay", 0xFFFFFFFFC0000200),
    ]  # fmt: skip


LINKS = [INIT + 8, INIT + STEP + 8, SIGNALS + 2 * STEP + 16, INIT + 2 * STEP + 72, INIT + 48, INIT + STEP + 40]


@pytest.mark.parametrize("broken", [0, 1, 0x7FFF_0000_0000, VIRTUAL + SIZE - 4, VIRTUAL + INIT + STEP + 8, VIRTUAL + INIT + 3])
@pytest.mark.parametrize(
    "at", [INIT + 8, INIT + STEP + 8, SIGNALS + 2 * STEP + 16, INIT + 2 * STEP + 72, INIT + 48, INIT + STEP + 40]
)
def test_broken_lists_end(at: int, broken: int) -> None:
    guest = started()
    guest.put(at, broken)
    found = list(Tasks(guest.kernel()).all())
    assert len(found) <= 6
    assert found[0].name == "swapper/0"


def test_a_name_cannot_play_with_a_terminal() -> None:
    guest = started()
    guest.ram[SIZE + INIT + 56 : SIZE + INIT + 72] = b"\x1b[2J\xff\n".ljust(16, b"\0")
    assert next(Tasks(guest.kernel()).all()).name.isprintable()


@pytest.mark.parametrize("lost", ["init_task", "init_top_pgt", "__stop_BTF"])
def test_what_a_kernel_does_not_say(lost: str) -> None:
    guest = started()
    del guest.symbols[lost]
    with pytest.raises((NoKernel, TypesError)):
        list(Tasks(guest.kernel()).all())


def test_pages_of_a_guest_without_memory() -> None:
    guest = started()
    guest.ram[SIZE + ROOT :] = b""
    with pytest.raises(TypesError):
        list(Tasks(guest.kernel()).all())
