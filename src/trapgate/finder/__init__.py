"""Tells which instruction of which program locks the bus: in words that Linux said, in programs as they lie on disk."""
