"""Encodes the few terms of ACPI Machine Language that our DSDT has (ACPI 6.5, chapter 20), and resource descriptors (6.4)."""

_ZERO, _ONE, _BYTE, _WORD, _DWORD, _STRING = 0x00, 0x01, 0x0A, 0x0B, 0x0C, 0x0D
_NAME, _SCOPE, _BUFFER, _PACKAGE, _EXTENDED, _DEVICE = 0x08, 0x10, 0x11, 0x12, 0x5B, 0x82
_ROOT, _DUAL_NAME = 0x5C, 0x2E


def integer(value: int) -> bytes:
    """An integer constant in its shortest form; up to 32 bits."""
    if value < 2:
        return bytes([_ONE if value else _ZERO])
    for opcode, size in ((_BYTE, 1), (_WORD, 2), (_DWORD, 4)):
        if value < 1 << 8 * size:
            return bytes([opcode]) + value.to_bytes(size, "little")
    raise ValueError(f"{value:#x} has more than 32 bits")


def string(text: str) -> bytes:
    """An ASCII string with its NUL."""
    return bytes([_STRING]) + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """A Plug and Play identifier such as PNP0501: three letters of five bits and four hexadecimal digits, big-endian."""
    letters = 0
    for letter in text[:3]:
        letters = letters << 5 | ord(letter) - ord("@")
    return bytes([_DWORD]) + (letters << 16 | int(text[3:], 16)).to_bytes(4, "big")


def path(text: str) -> bytes:
    r"""A name string: segments of up to four characters with dots between, `\` first for the root."""
    root, segments = (b"\\", text[1:].split(".")) if text.startswith("\\") else (b"", text.split("."))
    encoded = b"".join(segment.ljust(4, "_").encode("ascii") for segment in segments)
    if not 1 <= len(segments) <= 2 or not all(segments) or len(encoded) != 4 * len(segments):
        raise ValueError(f"{text!r} is not one or two segments of at most four characters")
    return root + (bytes([_DUAL_NAME]) if len(segments) == 2 else b"") + encoded


def name(text: str, value: bytes) -> bytes:
    """Name(text, value)."""
    return bytes([_NAME]) + path(text) + value


def scope(text: str, *terms: bytes) -> bytes:
    """Scope(text) { terms }."""
    return bytes([_SCOPE]) + sized(path(text) + b"".join(terms))


def device(text: str, *terms: bytes) -> bytes:
    """Device(text) { terms }."""
    return bytes([_EXTENDED, _DEVICE]) + sized(path(text) + b"".join(terms))


def package(*elements: bytes) -> bytes:
    """Package() { elements }."""
    return bytes([_PACKAGE]) + sized(bytes([len(elements)]) + b"".join(elements))


def buffer(data: bytes) -> bytes:
    """Buffer() { data }."""
    return bytes([_BUFFER]) + sized(integer(len(data)) + data)


def sized(body: bytes) -> bytes:
    """A body with its PkgLength, which counts itself (20.2.4): one byte up to 63, else 4 bits and one to three bytes more."""
    if len(body) + 1 < 1 << 6:
        return bytes([len(body) + 1]) + body
    for extra in (1, 2, 3):
        length = len(body) + 1 + extra
        if length < 1 << 4 + 8 * extra:
            return bytes([extra << 6 | length & 0xF]) + (length >> 4).to_bytes(extra, "little") + body
    raise ValueError("an AML package of 256 MiB or more")


def resources(*descriptors: bytes) -> bytes:
    """A resource template: descriptors and the end tag, whose checksum 0 means that it is not to be checked (6.4.2.9)."""
    return buffer(b"".join(descriptors) + b"\x79\x00")


def io_ports(first: int, count: int) -> bytes:
    """I/O port descriptor (6.4.2.5): fixed ports, all 16 address bits decoded."""
    return b"\x47\x01" + first.to_bytes(2, "little") * 2 + bytes([1, count])


def irq(*lines: int) -> bytes:
    """IRQ descriptor without flags (6.4.2.1): edge-triggered, active high, not shared."""
    return b"\x22" + sum(1 << line for line in lines).to_bytes(2, "little")


def memory(first: int, length: int) -> bytes:
    """32-bit fixed memory range descriptor (6.4.3.4), for reading and writing."""
    return b"\x86\x09\x00\x01" + first.to_bytes(4, "little") + length.to_bytes(4, "little")


def interrupt(line: int) -> bytes:
    """Extended interrupt descriptor (6.4.3.6): one line by its GSI, level-triggered, active high, not shared."""
    return b"\x89\x06\x00\x01\x01" + line.to_bytes(4, "little")
