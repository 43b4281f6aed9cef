"""Keeps a machine at moments of its run: all but RAM whole, of RAM the pages that were written since the moment kept before."""

from trapgate.machine import Machine, MachineState
from trapgate.memory import PAGE_SIZE
from trapgate.values import dataclass

STATE_BYTES = 64 << 10  # what a moment takes besides pages, more or less
MOST = 160  # moments that are kept, however small they are
BLANK = bytes(PAGE_SIZE)


@dataclass(slots=True, eq=False)
class Kept:
    """A moment. `pages` by address, as they are then: those written since the one before; of the first, all but blank ones.

    `events`: how many had happened.
    """

    executed: int
    now: int
    events: int
    state: MachineState
    pages: dict[int, bytes]

    @property
    def moment(self) -> tuple[int, int]:
        """When it is."""
        return self.executed, self.now


class Moments:
    """Moments of one run, in their order, thinned out with their distance from where the machine is.

    `limit` is how many bytes they take besides one copy of RAM: past that, moments go; at last the first ones, and the run begins
    later. The machine is always at one of them or behind it, and RAM's dirty pages are those written since.
    """

    def __init__(self, machine: Machine, limit: int) -> None:
        self._machine, self._limit = machine, limit
        self._written()
        ram = machine.ram.save()
        pages = {
            one.address + at: one.data[at : at + PAGE_SIZE] for one in ram.extents for at in range(0, len(one.data), PAGE_SIZE)
        }
        self.kept = [Kept(machine.executed(), machine.clock.now(), 0, machine.save(), pages)]
        self._size = 0
        self._at = 0  # the moment that the machine is at or behind

    @property
    def first(self) -> Kept:
        """Where the run begins."""
        return self.kept[0]

    @property
    def next(self) -> Kept | None:
        """The moment that the machine comes to next."""
        return self.kept[self._at + 1] if self._at + 1 < len(self.kept) else None

    def passing(self) -> bool:
        """Whether the machine, between two runs, has come to the next moment kept: the CPU forgets its pages, as it did before."""
        here, one = (self._machine.executed(), self._machine.clock.now()), self.next
        if one is None or one.moment > here:
            return False
        if one.moment < here:  # the machine slept past it
            self._drop(self._at + 1)
            return False
        self._written()
        self._at += 1
        return True

    def before(self, executed: int) -> int:
        """The number of the last moment with at most so many instructions."""
        return max(n for n, one in enumerate(self.kept) if one.executed <= executed or not n)

    def keep(self, events: int) -> None:
        """Keep this moment, between two runs of the vCPU, which forgets its pages."""
        machine = self._machine
        pages = {page: machine.ram.take_page(page) for page in self._written()}
        one = Kept(machine.executed(), machine.clock.now(), events, machine.save(), pages)
        self._at += 1
        self.kept.insert(self._at, one)
        self._size += len(pages) * PAGE_SIZE + STATE_BYTES
        self._thin()

    def drop_behind(self) -> None:
        """What was kept of later moments is no more."""
        for one in self.kept[self._at + 1 :]:
            self._size -= len(one.pages) * PAGE_SIZE + STATE_BYTES
        del self.kept[self._at + 1 :]

    def restore(self, number: int) -> Kept:
        """Put the machine to a moment. StateError."""
        machine, one = self._machine, self.kept[number]
        low, high = sorted((self._at, number))
        differ = set(self._written()).union(*(kept.pages for kept in self.kept[low + 1 : high + 1]))
        for kept in reversed(self.kept[: number + 1]):
            for page in differ & kept.pages.keys():
                machine.ram.put_page(page, kept.pages[page])
            differ -= kept.pages.keys()
        for page in differ:
            machine.ram.put_page(page, BLANK)
        machine.load(one.state)
        self._written()
        self._at = number
        return one

    def _written(self) -> list[int]:
        """The pages that were written since this was called last."""
        self._machine.forget_pages()
        return self._machine.ram.take_dirty()

    # --- how many there are

    def _thin(self) -> None:
        while len(self.kept) > 2 and (self._size > self._limit or len(self.kept) > MOST):
            self._drop(min(range(1, len(self.kept) - 1), key=self._worth))
        while len(self.kept) > 1 and self._size > self._limit:
            self._begin_later()

    def _worth(self, number: int) -> float:
        """How much later it would be that a run to some moment begins, for how far away that is."""
        executed = self._machine.executed()
        one = self.kept[number]
        return (self.kept[number + 1].executed - self.kept[number - 1].executed) / (abs(executed - one.executed) + 1)

    def _drop(self, number: int) -> None:
        """Forget a moment: its pages belong to the next one."""
        one = self.kept[number]
        self._size -= len(one.pages) * PAGE_SIZE + STATE_BYTES
        for following in self.kept[number + 1 : number + 2]:
            self._size -= len(following.pages) * PAGE_SIZE
            following.pages = {**one.pages, **following.pages}
            self._size += len(following.pages) * PAGE_SIZE
        self._leave(number, one)

    def _begin_later(self) -> None:
        """The first moment goes, and the second one has all of RAM."""
        one, following = self.kept[0], self.kept[1]
        self._size -= len(following.pages) * PAGE_SIZE + STATE_BYTES
        following.pages = {page: data for page, data in {**one.pages, **following.pages}.items() if data != BLANK}
        if self._at == 0:
            raise AssertionError("where the machine is has been kept")
        del self.kept[0]
        self._at -= 1

    def _leave(self, number: int, one: Kept) -> None:
        if self._at == number:  # what was written since the one before counts as written since that one
            for page in one.pages:
                self._machine.ram.dirty[page // PAGE_SIZE] = 1
        if self._at >= number:
            self._at -= 1
        del self.kept[number]
