"""Defines the one class that everything trapgate raises on purpose derives from; each room has its own kinds."""


class TrapgateError(Exception):
    """Something cannot be done as it was asked. The text is one line: what was wrong and, where known, what to do about it."""
