"""Carries a fault of the guest through Python code.

Faults are values everywhere else; inside one instruction that is written in Python they unwind as an exception, because every one
of its memory accesses may fault: it is caught at exactly one place (`SoftVcpu`), and delivered.
"""


class GuestFault(Exception):
    """An exception that the guest is owed: vector, error code (None where the vector has none), and CR2 for #PF."""

    def __init__(self, vector: int, error: int | None = None, cr2: int | None = None) -> None:
        super().__init__(vector, error, cr2)
        self.vector, self.error, self.cr2 = vector, error, cr2
