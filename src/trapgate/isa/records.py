"""Declares records in memory that Python writes and native code reads, or the other way round: once, read by both."""

import struct
from collections.abc import Mapping


class Record:
    """The fields of a record, in order, each with its `struct` code: little-endian, no padding. `record.name`: offset in bytes."""

    def __init__(self, **fields: str) -> None:
        self._codes = fields
        self._struct = struct.Struct("<" + "".join(fields.values()))
        self._offsets = {name: struct.calcsize("<" + "".join([*fields.values()][:n])) for n, name in enumerate(fields)}

    @property
    def size(self) -> int:
        """Bytes of all fields."""
        return self._struct.size

    def __getattr__(self, name: str) -> int:
        try:
            return self.__dict__["_offsets"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"no field {name}") from None

    def pack(self, **values: int | bytes) -> bytes:
        """A record with these values; every field is named."""
        assert values.keys() == self._offsets.keys(), values.keys() ^ self._offsets.keys()
        return self._struct.pack(*(values[name] for name in self._offsets))

    def put(self, memory: memoryview, at: int, **values: int | bytes) -> None:
        """Change some fields of the record at an offset."""
        for name, value in values.items():
            struct.pack_into("<" + self._codes[name], memory, at + self._offsets[name], value)

    def read(self, memory: memoryview, at: int) -> Mapping[str, int]:
        """The values of the record at an offset, by name; for records of numbers alone."""
        return dict(zip(self._offsets, self._struct.unpack_from(memory, at), strict=True))
