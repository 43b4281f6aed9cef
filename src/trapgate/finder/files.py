"""Opens on this host what a process of the guest has mapped: the files, and the kernel's own piece of code in each process."""

import io
import os
from collections.abc import Callable, Sequence

from trapgate.finder.program import Program, ProgramError, Programs
from trapgate.finder.stacks.frames import CallFrames
from trapgate.linux.mappings import Mapping

HOST_FILES = "virtiofs"
"""The filesystem by which the guest has the host's files."""
VDSO = "[vdso]"


class Files:
    """The programs behind mappings. `on_host`: where a file of the host's is that the guest knows by a path."""

    def __init__(self, programs: Programs, on_host: Callable[[str], str]) -> None:
        self._programs, self._on_host = programs, on_host
        self._frames: dict[int, CallFrames] = {}
        self._images: dict[bytes, Program] = {}

    def program(self, mapping: Mapping) -> Program:
        """The program of a mapped file. ProgramError says why there is none."""
        if mapping.filesystem != HOST_FILES:
            raise ProgramError(
                f"this file was the guest's own ({mapping.filesystem}): "
                "with --write DIR, what is made in DIR stays, and names are known"
            )
        return self._programs[self._on_host(mapping.path)]

    def image(self, data: bytes) -> Program:
        """The program whose file is in memory: the vDSO. ProgramError."""
        if data not in self._images:
            self._images[data] = Program(VDSO, io.BytesIO(data))
        return self._images[data]

    def frames(self, program: Program) -> CallFrames:
        """What a program says of its call frames."""
        if id(program) not in self._frames:
            self._frames[id(program)] = CallFrames(program)
        return self._frames[id(program)]


class Given(Files):
    """Programs that the user has given, for a guest whose files are its own: found by a mapped file's name."""

    def __init__(self, programs: Sequence[Program]) -> None:
        super().__init__(Programs(), lambda path: path)
        self._given = programs

    def program(self, mapping: Mapping) -> Program:
        """That of the same name, or the only one: whether it is that is seen by its code. ProgramError."""
        alike = [one for one in self._given if os.path.basename(one.path) == os.path.basename(mapping.path)]
        if not alike and len(self._given) != 1:
            raise ProgramError(f"--symbols names no file for {mapping.path}")
        return (alike or self._given)[0]
