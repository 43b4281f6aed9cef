"""Describes page tables: bits, #PF error code, reserved bits by level, canonical addresses (SDM vol. 3, 4.3-4.7; APM vol. 2, 5)."""

from enum import Enum

P = 1 << 0
RW = 1 << 1
US = 1 << 2
PWT = 1 << 3
PCD = 1 << 4
A = 1 << 5
D = 1 << 6
PS = 1 << 7  # in a PDE or PDPTE: maps a page
PAT = 1 << 7  # in a 4 KiB PTE
G = 1 << 8
PAT_LARGE = 1 << 12  # where PS is 1
NX = 1 << 63

ADDRESS_4K = 0x000F_FFFF_FFFF_F000  # bits 51:12; those above MAXPHYADDR are reserved

# #PF error code (SDM vol. 3, 4.7)
ERROR_P = 1 << 0  # the translation existed: a rights violation
ERROR_W = 1 << 1
ERROR_U = 1 << 2
ERROR_RSVD = 1 << 3
ERROR_I = 1 << 4  # an instruction fetch, while NX or SMEP is on


class Mode(Enum):
    """How linear addresses are translated. Values: (levels, bytes an entry, index bits a level)."""

    NONE = (0, 0, 0)
    BITS32 = (2, 4, 10)
    PAE = (3, 8, 9)  # the top table has 4 entries
    LONG4 = (4, 8, 9)

    @property
    def levels(self) -> int:
        """How many tables a walk reads; the lowest is level 1."""
        return self.value[0]


def mode_of(*, cr0_pg: bool, cr4_pae: bool, efer_lma: bool) -> Mode:
    """The paging mode that these bits select (SDM vol. 3, 4.1.1)."""
    if not cr0_pg:
        return Mode.NONE
    if efer_lma:
        return Mode.LONG4
    return Mode.PAE if cr4_pae else Mode.BITS32


def bits(low: int, high: int) -> int:
    """A mask of bits low..high, both included; 0 when high < low."""
    return (1 << high + 1) - (1 << low) if high >= low else 0


def page_shift(mode: Mode, level: int) -> int:
    """log2 of the bytes that one entry of this level covers: 12 at level 1."""
    return 12 + (level - 1) * mode.value[2]


def may_be_large(mode: Mode, level: int, *, pse: bool) -> bool:
    """Whether PS makes an entry of this level map a page; `pse`: CR4.PSE, which counts in 32-bit mode alone."""
    if mode is Mode.BITS32:
        return level == 2 and pse
    return level == 2 or (level == 3 and mode is Mode.LONG4)


def reserved_mask(mode: Mode, level: int, large: bool, *, physical_bits: int, nx: bool, pdpe1gb: bool, amd: bool) -> int:
    """The bits that must be 0 in a present entry, else #PF with ERROR_RSVD.

    `large`: PS is 1 and the mode honours it (CR4.PSE in 32-bit mode). `nx`: EFER.NXE. `amd`: AMD reserves bit 8 of a PML4E and of a
    PDPTE that points to a table (APM vol. 2, 5.3.3). In a PAE PDPTE a set reserved bit raises #GP at MOV to CR3 instead.
    """
    if mode is Mode.BITS32:
        if level == 2 and large:
            # PSE-36: bits 20:13 hold physical bits 39:32, as far as MAXPHYADDR goes (SDM vol. 3, Table 4-4).
            return bits(min(40, physical_bits) - 19, 21)
        return 0
    mask = bits(physical_bits, 51)
    if mode is Mode.PAE:
        mask |= bits(52, 62)
        if level == 3:
            return mask | NX | bits(1, 2) | bits(5, 8)
    if not nx:
        mask |= NX
    if level == 4:
        return mask | PS | (G if amd else 0)
    if level == 3:
        if not large:
            return mask | (G if amd else 0)
        return mask | bits(13, 29) | (0 if pdpe1gb else PS)
    if level == 2 and large:
        return mask | bits(13, 20)
    return mask


def is_canonical(address: int, virtual_bits: int = 48) -> bool:
    """Whether bits 63:(virtual_bits - 1) of a 64-bit linear address are all equal."""
    top = address >> (virtual_bits - 1)
    return top == 0 or top == (1 << 65 - virtual_bits) - 1
