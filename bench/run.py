"""Entry point of `make bench`: puts the repository's root on the path, for the harness uses the recipe of the Linux guests."""

import sys
from pathlib import Path


def start() -> None:
    """Run the benchmark command."""
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from bench.cli import main

    main()


if __name__ == "__main__":
    start()
