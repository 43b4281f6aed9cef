"""Says what alignment checking asks of an access at CPL 3 with CR0.AM and RFLAGS.AC set.

SDM vol. 3, 6.15 (#AC), table 6-7; APM vol. 2, 8.2.18. A fault of the segment or an address that is not canonical comes before #AC.
A page fault does so as well in both manuals' lists (SDM vol. 3, 6.9), but #AC comes before it on silicon of both vendors.
"""

_X87 = {10: 8, 28: 4, 108: 4}  # extended reals and BCD, environments, states


def alignment(size: int, amd: bool) -> int:
    """The bytes to which an access of `size` bytes must be aligned; 1 for what needs none or has its own rule.

    XMM and YMM operands need none on Intel's CPUs, and 16 bytes on AMD's (as measured).
    """
    wanted = _X87.get(size, size)
    if wanted in (16, 32):
        return 16 if amd else 1
    return wanted if wanted in (2, 4, 8) else 1
