"""Declares the mode word: what the translation of an instruction depends on besides its bytes. Blocks are found by it.

Each field is declared once, by its width; its place follows. `isa.native.mode` works the word out, and nobody else does.
"""


class _Word:
    """Hands out the bits of the word from the lowest up."""

    def __init__(self) -> None:
        self.bits = 0

    def field(self, width: int = 1) -> int:
        """The mask of the next field."""
        mask = ((1 << width) - 1) << self.bits
        self.bits += width
        return mask


def shift(field: int) -> int:
    """The place of a field's lowest bit."""
    return (field & -field).bit_length() - 1


_word = _Word()
CODE = _word.field(2)  # code size: 0 = 16, 1 = 32, 2 = 64 bits
STACK32 = _word.field()  # SS.B
CPL = _word.field(2)
AC = _word.field()  # RFLAGS.AC counts: CPL < 3 and CR4.SMAP: accesses may touch user pages; CPL 3 and CR0.AM: they must be aligned
STEP = _word.field()  # a block of one instruction that ends in the dispatcher
FLAT = _word.field()  # legacy mode in which ES, SS, DS and CS have base 0 and limit 4 GiB
NO_X87 = _word.field()  # CR0.EM or TS
NO_SSE = _word.field()  # CR0.EM or not CR4.OSFXSR: SSE is #UD
REAL = _word.field()  # real or virtual-8086 mode
IOPL = _word.field()  # CPL <= IOPL
SSE_UNMASKED = _word.field()  # MXCSR unmasks an exception: whatever may raise #XM looks whether it has
AVX = _word.field()  # protected mode, CR4.OSXSAVE, SSE and AVX in XCR0: AVX is no #UD
ALL = (1 << _word.bits) - 1
ANY_FLOATING = _word.field()  # no mode, but stands in the place of FLOATING for a pattern that does not depend on it
TAG_BITS = 16  # of the jump cache, above the 48 of RIP
assert _word.bits <= TAG_BITS

CODE16, CODE32, CODE64 = (size << shift(CODE) for size in range(3))
CPL_SHIFT = shift(CPL)
UNLIMITED = CODE64 | FLAT | STEP  # where none is set, a block looks at the limit of CS (steps do in Python)
FLOATING = NO_X87 | NO_SSE | SSE_UNMASKED | AVX  # what packed and floating instructions alone depend on
PRIVILEGE = CPL | AC | IOPL  # what follows from CPL and RFLAGS


def code_bits(mode: int) -> int:
    """The size of code in a mode, and of RIP: 16, 32 or 64."""
    return (16, 32, 64)[(mode & CODE) >> shift(CODE)]
