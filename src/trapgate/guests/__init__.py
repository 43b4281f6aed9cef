"""Holds guests that come with trapgate: their sources, and the images built from them (`make guests`)."""

from pathlib import Path

DEMO = Path(__file__).parent / "demo.elf"  # every kind of debug exception, each with its expectation; sources in demo/
DEMO32 = Path(__file__).parent / "demo32.elf"  # the same for 32-bit mode
INIT = Path(__file__).parent / "init.elf"  # the first program of the guest of `trapgate exec`; sources in init/
