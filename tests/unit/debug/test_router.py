"""The router: every cause alone and every pair, armed by guest, debugger, both and nobody; an oracle; rules that lose."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.arch.debugregs import DR6_BD, DR6_BLD, DR6_BS, DR6_BT
from trapgate.debug.router import Share, Verdict, route
from trapgate.exits import DebugException
from trapgate.vcpu import Breakpoint, GuestDebug, Kind, Owner

BITS = {"BLD": DR6_BLD, "BD": DR6_BD, "BS": DR6_BS, "BT": DR6_BT}
BREAKPOINTS = ("exec", "data")
CAUSES = (*BREAKPOINTS, *BITS)
CAN_ARM = {"exec": "gd", "data": "gd", "BS": "gd", "BLD": "g", "BD": "g", "BT": "g"}  # g the guest, d the debugger
GUEST_DR = {"exec": 2, "data": 0}
DEBUGGER_NUMBER = {"exec": 0, "data": 5}  # not what any DR is called


@dataclass(frozen=True)
class Scene:
    """What happened and who armed what: `armers` maps a cause to some of "g" and "d"."""

    happened: frozenset[str]
    armers: dict[str, str]
    icebp: bool = False

    def armed(self) -> list[Breakpoint]:
        found = []
        for name in BREAKPOINTS:
            kind = Kind.EXEC if name == "exec" else Kind.WRITE
            if "d" in self.armers.get(name, ""):
                found.append(Breakpoint(Owner.DEBUGGER, DEBUGGER_NUMBER[name], kind, 0x1000, 1))
            if "g" in self.armers.get(name, ""):
                found.append(Breakpoint(Owner.GUEST, GUEST_DR[name], kind, 0x1000, 1))
        return found

    def event(self) -> DebugException:
        hits = 0
        for n, one in enumerate(self.armed()):
            if ("exec" if one.kind is Kind.EXEC else "data") in self.happened:
                hits |= 1 << n
        causes = sum(BITS[name] for name in self.happened if name in BITS)
        return DebugException(causes, hits, self.icebp, fault="exec" in self.happened or "BD" in self.happened)

    def guest(self) -> GuestDebug:
        def by_guest(name: str) -> bool:
            return "g" in self.armers.get(name, "")

        return GuestDebug(tf=by_guest("BS"), gd=by_guest("BD"), task_trap=by_guest("BT"), bus_lock=by_guest("BLD"))

    def stepping(self) -> bool:
        return "d" in self.armers.get("BS", "")

    def route(self) -> Verdict:
        return route(self.event(), self.armed(), self.guest(), self.stepping())

    def oracle(self, owner: str) -> Share:
        """The share by section and letter: one happened cause at a time, asked only who armed it."""
        numbers = GUEST_DR if owner == "g" else DEBUGGER_NUMBER
        causes = hits = 0
        for name in self.happened:
            if owner in self.armers.get(name, ""):
                if name in BITS:
                    causes += BITS[name]
                else:
                    hits += 1 << numbers[name]
        return Share(causes, hits, self.icebp and owner == "g")


def scenes(count: int) -> list[Scene]:
    """Every choice of `count` causes, each armed in every way it can be; only a breakpoint must have been armed to match."""
    found = []
    for names in itertools.combinations(CAUSES, count):
        ways = [["", *CAN_ARM[name][:1], *(["d", "gd"] if CAN_ARM[name] == "gd" else [])] for name in names]
        for armers in itertools.product(*ways):
            if all(who or name in BITS for name, who in zip(names, armers, strict=True)):
                found.append(Scene(frozenset(names), dict(zip(names, armers, strict=True))))
    return found


def name_of(scene: Scene) -> str:
    return "+".join(f"{name}:{scene.armers[name] or 'nobody'}" for name in CAUSES if name in scene.happened)


@pytest.mark.parametrize("scene", [*scenes(1), *scenes(2)], ids=name_of)
def test_every_cause_and_every_pair(scene: Scene) -> None:
    verdict = scene.route()
    assert verdict.debugger == scene.oracle("d")
    assert verdict.guest == scene.oracle("g")


def test_all_rows_are_there() -> None:
    assert len(scenes(1)) == 2 * 3 + 4 + 3 * 2
    assert len(scenes(2)) == 105  # all products of 3, 3, 4, 2, 2, 2 ways taken in pairs


# What a row of the specification's tables says, written out.
@pytest.mark.parametrize(
    ("happened", "armers", "debugger", "guest"),
    [
        ({"BS"}, {"BS": "d"}, Share(DR6_BS), Share()),
        ({"BS"}, {"BS": "g"}, Share(), Share(DR6_BS)),
        ({"BS"}, {"BS": "gd"}, Share(DR6_BS), Share(DR6_BS)),
        ({"BLD"}, {"BLD": "g"}, Share(), Share(DR6_BLD)),
        ({"BLD", "BS"}, {"BLD": "g", "BS": "d"}, Share(DR6_BS), Share(DR6_BLD)),
        ({"BLD", "BS"}, {"BLD": "g", "BS": "g"}, Share(), Share(DR6_BLD | DR6_BS)),
        ({"BLD", "data"}, {"BLD": "g", "data": "d"}, Share(0, 1 << 5), Share(DR6_BLD)),
        ({"BLD", "data"}, {"BLD": "g", "data": "g"}, Share(), Share(DR6_BLD, 1)),
        ({"data"}, {"data": "gd"}, Share(0, 1 << 5), Share(0, 1)),
        ({"exec"}, {"exec": "g"}, Share(), Share(0, 1 << 2)),
        ({"BD"}, {"BD": "g"}, Share(), Share(DR6_BD)),
        ({"BT", "BS"}, {"BT": "g", "BS": "d"}, Share(DR6_BS), Share(DR6_BT)),
        ({"BLD"}, {}, Share(), Share()),
    ],
)
def test_rows_by_hand(happened: set[str], armers: dict[str, str], debugger: Share, guest: Share) -> None:
    verdict = Scene(frozenset(happened), armers).route()
    assert (verdict.debugger, verdict.guest) == (debugger, guest)


@pytest.mark.parametrize("armers", [{}, {"BS": "d"}, {"BS": "gd", "data": "d"}])
def test_icebp_is_the_guests_whatever_the_debugger_armed(armers: dict[str, str]) -> None:
    scene = Scene(frozenset(), armers, icebp=True)
    assert scene.route() == Verdict(Share(), Share(icebp=True))
    marked_by_nothing = DebugException(0, 0, icebp=False, fault=False)
    assert route(marked_by_nothing, scene.armed(), scene.guest(), scene.stepping()).guest == Share(icebp=True)


def test_stepping_over_icebp_gives_both_their_own() -> None:
    verdict = Scene(frozenset({"BS"}), {"BS": "d"}, icebp=True).route()
    assert verdict == Verdict(Share(DR6_BS), Share(icebp=True))


def test_unarmed_matches_go_to_nobody() -> None:
    armed = [Breakpoint(Owner.GUEST, 3, Kind.WRITE, 0x1000, 8)]
    quiet = GuestDebug(tf=False, gd=False, task_trap=False, bus_lock=False)
    verdict = route(DebugException(DR6_BS, 0b1001, False, False), armed, quiet, stepping=False)
    assert verdict == Verdict(Share(), Share(0, 1 << 3), Share(DR6_BS, 0b1000))


def test_shares_are_true_when_they_hold_something() -> None:
    assert not Share()
    assert Share(DR6_BS)
    assert Share(hits=1)
    assert Share(icebp=True)


def test_breakpoint_bits_among_the_causes_are_an_engines_mistake() -> None:
    with pytest.raises(AssertionError):
        route(DebugException(1, 0, False, False), [], GuestDebug(False, False, False, False), False)


some_causes = st.lists(st.sampled_from(sorted(BITS.values())), unique=True).map(sum)


@st.composite
def situations(draw: st.DrawFn) -> tuple[DebugException, list[Breakpoint], GuestDebug, bool]:
    guests = draw(st.lists(st.integers(0, 3), unique=True))
    debuggers = draw(st.lists(st.integers(0, 20), unique=True, max_size=8))
    armed = [Breakpoint(Owner.GUEST, n, Kind.WRITE, 0x1000 * n, 8) for n in guests]
    armed += [Breakpoint(Owner.DEBUGGER, n, Kind.ACCESS, 0x1000 * n, 8) for n in debuggers]
    armed = draw(st.permutations(armed))
    hits = draw(st.integers(0, (1 << len(armed)) - 1))
    guest = GuestDebug(*(draw(st.booleans()) for _ in range(4)))
    return DebugException(draw(some_causes), hits, draw(st.booleans()), draw(st.booleans())), armed, guest, draw(st.booleans())


def arms(guest: GuestDebug) -> int:
    return guest.tf * DR6_BS | guest.gd * DR6_BD | guest.task_trap * DR6_BT | guest.bus_lock * DR6_BLD


@given(situations())
def test_nothing_of_the_debuggers_reaches_the_guest(situation: tuple[DebugException, list[Breakpoint], GuestDebug, bool]) -> None:
    event, armed, guest, stepping = situation
    share = route(event, armed, guest, stepping).guest
    own = {one.slot for n, one in enumerate(armed) if one.owner is Owner.GUEST and event.hits >> n & 1}
    assert not share.causes & ~arms(guest)
    assert {n for n in range(64) if share.hits >> n & 1} <= own
    # And it cannot tell whether a debugger was there at all.
    alone = [one for one in armed if one.owner is Owner.GUEST]
    hits = sum(1 << alone.index(one) for n, one in enumerate(armed) if one in alone and event.hits >> n & 1)
    causes = event.causes if guest.tf else event.causes & ~DR6_BS
    if causes or hits or event.icebp:
        assert route(DebugException(causes, hits, event.icebp, event.fault), alone, guest, False).guest == share
    else:
        assert share == Share(icebp=not (event.causes or event.hits))


@given(situations())
def test_nothing_of_the_guests_is_lost(situation: tuple[DebugException, list[Breakpoint], GuestDebug, bool]) -> None:
    event, armed, guest, stepping = situation
    share = route(event, armed, guest, stepping).guest
    assert share.causes == event.causes & arms(guest)
    assert all(share.hits >> one.slot & 1 for n, one in enumerate(armed) if one.owner is Owner.GUEST and event.hits >> n & 1)
    assert share.icebp or not event.icebp


@given(situations())
def test_shares_together_are_what_was_armed(situation: tuple[DebugException, list[Breakpoint], GuestDebug, bool]) -> None:
    event, armed, guest, stepping = situation
    verdict = route(event, armed, guest, stepping)
    everything = arms(guest) | (DR6_BS if stepping else 0)
    assert verdict.debugger.causes | verdict.guest.causes == event.causes & everything
    assert verdict.nobody.causes == event.causes & ~everything
    assert verdict.debugger.hits.bit_count() + verdict.guest.hits.bit_count() == event.hits.bit_count()
    assert not verdict.nobody.hits
    assert not verdict.debugger.icebp


# Rules of other VMMs, as the specification's table of known failures tells them: each returns whether the debugger stops and
# what the guest gets (None: no #DB). They know one set of slots; a slot that matched counts as the debugger's.
Outcome = tuple[bool, Share | None]


def first_match(scene: Scene) -> Outcome:
    """BS while stepping, then any Bn, else everything goes back to the guest (QEMU's debug exit)."""
    event = scene.event()
    if (event.causes & DR6_BS and scene.stepping()) or event.hits:
        return True, None
    return False, Share(event.causes, 0, event.icebp)


def first_match_with_bus_lock(scene: Scene) -> Outcome:
    """The same, and everything also goes back to the guest when a bus lock is among the causes, as the bus lock alone."""
    stop, back = first_match(scene)
    return stop, Share(DR6_BLD) if stop and scene.event().causes & DR6_BLD else back


def always_gdb(scene: Scene) -> Outcome:
    """Every #DB is the debugger's (Cloud Hypervisor, crosvm)."""
    return True, None


def bn_then_bs(scene: Scene) -> Outcome:
    """Bn, then BS; the guest never gets any (OpenVMM's causes)."""
    event = scene.event()
    return bool(event.hits or event.causes & DR6_BS), None


def ours(scene: Scene) -> Outcome:
    verdict = scene.route()
    return bool(verdict.debugger), verdict.guest or None


def right(scene: Scene) -> Outcome:
    return bool(scene.oracle("d")), scene.oracle("g") or None


def armed_scenes() -> list[Scene]:
    icebps = [Scene(frozenset(), {}, icebp=True), Scene(frozenset(), {"BS": "g"}, icebp=True)]
    return [scene for scene in (*scenes(1), *scenes(2)) if all(scene.armers.values())] + icebps


def wrong(rule: object) -> set[str]:
    assert callable(rule)
    return {name_of(scene) or "ICEBP" for scene in armed_scenes() if rule(scene) != right(scene)}


def test_we_are_right_everywhere() -> None:
    assert wrong(ours) == set()


@pytest.mark.parametrize(
    ("rule", "lost", "kept"),
    [
        (first_match, {"data:g", "exec:g", "BLD:g+BS:d", "data:d+BLD:g", "data:gd"}, {"BLD:g", "BS:g", "BS:d", "data:d", "ICEBP"}),
        (first_match_with_bus_lock, {"data:g", "data:d+BS:g", "data:g+BLD:g"}, {"BLD:g+BS:d", "data:d+BLD:g", "BLD:g", "BS:g"}),
        (always_gdb, {"BLD:g", "BS:g", "BD:g", "ICEBP", "data:g"}, {"BS:d", "data:d", "exec:d"}),
        (bn_then_bs, {"BLD:g", "BD:g", "ICEBP", "BS:g"}, {"BS:d", "data:d"}),
    ],
)
def test_what_other_rules_lose(rule: object, lost: set[str], kept: set[str]) -> None:
    losses = wrong(rule)
    assert lost <= losses
    assert not kept & losses
