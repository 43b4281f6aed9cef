"""Decides whose #DB it is: one pure function splits every debug exception, bit by bit, between the debugger and the guest.

The rule, the same for every CPU engine:

    cause       the debugger's when            the guest's when
    Bn          it armed that breakpoint       it armed that breakpoint (told by its own DR number)
    BS          it is stepping                 its own RFLAGS.TF was 1 before the instruction
    BLD         never                          DEBUGCTL[2] = 1 and CPL > 0
    BD          never                          DR7.GD = 1
    BT          never                          TSS.T of the task switched to
    none        never                          always: ICEBP (INT1) reports no cause bit

A cause that both armed goes to both. A cause that nobody armed goes to nobody: a stale bit or a debugger's step that was called off
must neither stop the debugger nor reach the guest.
"""

from collections.abc import Sequence

from trapgate.arch.debugregs import DR6_B, DR6_BD, DR6_BLD, DR6_BS, DR6_BT
from trapgate.exits import DebugException
from trapgate.values import dataclass
from trapgate.vcpu import Breakpoint, GuestDebug, Owner


@dataclass(frozen=True, slots=True)
class Share:
    """One owner's part of a #DB. `causes`: DR6 bits, active high, without bits 0-3. `hits`: bit n = that owner's own breakpoint n.

    For the guest n is the DR number (0-3), for the debugger the number it gave when it armed the breakpoint. False when empty.
    """

    causes: int = 0
    hits: int = 0
    icebp: bool = False

    def __bool__(self) -> bool:
        return bool(self.causes or self.hits or self.icebp)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who gets what. Guest's share: deliver #DB with just that. Debugger's: stop. Both: queue the guest's, then stop.

    `nobody` holds what no one armed; its `hits` are bits of the event that name no armed breakpoint.
    """

    debugger: Share
    guest: Share
    nobody: Share = Share()


def route(event: DebugException, breakpoints: Sequence[Breakpoint], guest: GuestDebug, stepping: bool) -> Verdict:
    """Split a #DB.

    `breakpoints` is `Vcpu.armed()` as it was when the event arose, `guest` what the guest had armed besides, `stepping` whether the
    debugger asked for a single step. An event without any cause counts as ICEBP.
    """
    assert not event.causes & DR6_B, "causes must come without bits 0-3; breakpoints are reported in hits"
    debugger_hits = guest_hits = 0
    rest = event.hits
    for n, breakpoint_ in enumerate(breakpoints):
        if event.hits >> n & 1:
            rest &= ~(1 << n)
            if breakpoint_.owner is Owner.DEBUGGER:
                debugger_hits |= 1 << breakpoint_.slot
            else:
                assert 0 <= breakpoint_.slot < 4, f"the guest has no DR{breakpoint_.slot}"
                guest_hits |= 1 << breakpoint_.slot
    debugger_arms = DR6_BS if stepping else 0
    guest_arms = (
        (DR6_BS if guest.tf else 0)
        | (DR6_BLD if guest.bus_lock else 0)
        | (DR6_BD if guest.gd else 0)
        | (DR6_BT if guest.task_trap else 0)
    )
    return Verdict(
        debugger=Share(event.causes & debugger_arms, debugger_hits),
        guest=Share(event.causes & guest_arms, guest_hits, event.icebp or not (event.causes or event.hits)),
        nobody=Share(event.causes & ~(debugger_arms | guest_arms), rest),
    )
