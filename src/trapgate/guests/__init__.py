"""Guests that come with trapgate: their sources, and the images built from them (`make guests`)."""

from pathlib import Path

DEMO = Path(__file__).parent / "demo.elf"  # every kind of debug exception, each with its expectation; sources in demo/
