"""The fixture of the run-loop tests."""

from .rig import rig

__all__ = ["rig"]
