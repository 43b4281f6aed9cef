"""Holds the errors of running a program in a guest: what cannot be had, and a guest that failed."""

from trapgate.errors import TrapgateError


class ExecError(TrapgateError):
    """What a run takes cannot be had: a kernel, a program, a directory. One line that says what is missing and what to do."""


class GuestFailed(TrapgateError):
    """The guest ended, or said that it could not do its part, before the program did. One line, the guest's last words in it."""
