"""Describes DR6, DR7 and DEBUGCTL: bits, what a MOV stores, what it reads, and how DR7 describes a breakpoint.

Sources: SDM vol. 3, 18.2 (debug registers) and 18.4.1 (DEBUGCTL); APM vol. 2, 13.1.1. `bus_lock` below says whether CPUID
Fn0000_0007_ECX_x0[24] is 1. Where AMD and Intel differ, the caller says which vendor it is.
"""

from trapgate.values import dataclass

DR6_B = 0xF  # B0-B3
DR6_BLD = 1 << 11  # active low: 0 after a bus lock
DR6_BD = 1 << 13
DR6_BS = 1 << 14
DR6_BT = 1 << 15
DR6_RTM = 1 << 16  # active low
DR6_INIT = 0xFFFF_0FF0
DR6_ACTIVE_LOW = DR6_BLD | DR6_RTM
DR6_FIXED_1 = 0xFFFE_07F0  # bits that read 1 on every CPU

DR7_ENABLES = 0xFF  # L0-L3, G0-G3
DR7_LE = 1 << 8
DR7_GE = 1 << 9
DR7_FIXED_1 = 1 << 10
DR7_GD = 1 << 13
DR7_INIT = 0x400
DR7_WRITABLE = 0xFFFF_23FF  # L0-G3, LE, GE, GD, R/W and LEN fields

DEBUGCTL_LBR = 1 << 0
DEBUGCTL_BTF = 1 << 1
DEBUGCTL_BUS_LOCK = 1 << 2  # Intel BUS_LOCK_DETECT, AMD BLCKDB

SLOTS = 4
LENGTHS = (1, 2, 8, 4)  # by DR7.LENn


@dataclass(frozen=True, slots=True)
class Slot:
    """Breakpoint n as DR7 describes it. `rw`: 0 exec, 1 write, 2 I/O (CR4.DE = 1), 3 read or write; `length` in bytes."""

    local: bool
    global_: bool
    rw: int
    length: int

    @property
    def enabled(self) -> bool:
        """Ln or Gn is 1: the breakpoint can raise #DB."""
        return self.local or self.global_


def slot(dr7: int, n: int) -> Slot:
    """What DR7 says of breakpoint n (0-3)."""
    field = dr7 >> 16 + 4 * n
    return Slot(bool(dr7 >> 2 * n & 1), bool(dr7 >> 2 * n + 1 & 1), field & 3, LENGTHS[field >> 2 & 3])


def enabled_mask(dr7: int) -> int:
    """Bit n is 1 when breakpoint n is enabled."""
    return sum(1 << n for n in range(SLOTS) if dr7 >> 2 * n & 3)


def dr7_fields(n: int, rw: int, length: int, *, local: bool = False, global_: bool = True) -> int:
    """The bits of DR7 that describe breakpoint n; the inverse of `slot`. ValueError for a length that DR7 cannot hold."""
    if length not in LENGTHS:
        raise ValueError(f"a hardware breakpoint covers 1, 2, 4 or 8 bytes, not {length}")
    return (rw | LENGTHS.index(length) << 2) << 16 + 4 * n | local << 2 * n | global_ << 2 * n + 1


def covered(address: int, length: int) -> tuple[int, int]:
    """The (first, last) byte that a data breakpoint watches: DRn is aligned down to its length (SDM vol. 3, 18.2.5)."""
    first = address & -length
    return first, first + length - 1


def bld_writable(*, amd: bool, bus_lock: bool, debugctl: int) -> bool:
    """Whether MOV to DR6 can change bit 11: with the CPUID bit on Intel; on AMD only while DEBUGCTL[2] is 1 too."""
    return bus_lock and (not amd or bool(debugctl & DEBUGCTL_BUS_LOCK))


def store_dr6(value: int, *, amd: bool, bus_lock: bool, debugctl: int) -> int:
    """What MOV to DR6 leaves there (no CPU of ours has RTM, so bit 16 reads 1). ValueError (#GP) when bits 63:32 are not 0."""
    if value >> 32:
        raise ValueError("DR6: bits 63:32 must be 0")
    free = DR6_B | DR6_BD | DR6_BS | DR6_BT
    if bld_writable(amd=amd, bus_lock=bus_lock, debugctl=debugctl):
        free |= DR6_BLD
    return value & free | DR6_INIT & ~free


def read_dr6(dr6: int, *, amd: bool, bus_lock: bool, debugctl: int) -> int:
    """What MOV from DR6 returns: bit 11 reads 1 wherever it cannot be written."""
    return dr6 if bld_writable(amd=amd, bus_lock=bus_lock, debugctl=debugctl) else dr6 | DR6_BLD


def store_dr7(value: int) -> int:
    """What MOV to DR7 leaves there: reserved bits as fixed. ValueError (#GP) when bits 63:32 are not 0."""
    if value >> 32:
        raise ValueError("DR7: bits 63:32 must be 0")
    return value & DR7_WRITABLE | DR7_FIXED_1


def debugctl_mask(bus_lock: bool) -> int:
    """The bits of DEBUGCTL that may be 1; any other raises #GP (on AMD with Bus Lock Trap bits 6:3 must be zero)."""
    return DEBUGCTL_LBR | DEBUGCTL_BTF | (DEBUGCTL_BUS_LOCK if bus_lock else 0)
