"""Entry point of `make bench`: puts the repository's root on the path, for the harness uses the recipe of the Linux guests."""

import os
import sys
from pathlib import Path


def start() -> None:
    """Run the benchmark command."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is measured has its modules compiled, as an installed command has
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from bench.cli import main

    main()


if __name__ == "__main__":
    start()
