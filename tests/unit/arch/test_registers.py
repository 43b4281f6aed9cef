"""The register table: complete, without doubles, in gdb's order."""

import pytest

from trapgate.arch import flags, registers


def test_names_are_unique() -> None:
    assert len(registers.BY_NAME) == len(registers.TABLE)
    assert len({register.gdb_name for register in registers.TABLE}) == len(registers.TABLE)


def test_core_feature_is_in_gdbs_order() -> None:
    names = [register.gdb_name for register in registers.of_feature(registers.CORE)]
    assert names[:8] == ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"]
    assert names[16:24] == ["rip", "eflags", "cs", "ss", "ds", "es", "fs", "gs"]
    assert names[24:] == [*(f"st{n}" for n in range(8)), "fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"]
    assert names == [register.gdb_name for register in registers.TABLE[:40]]
    sse = [register.gdb_name for register in registers.of_feature(registers.SSE)]
    assert sse == [*(f"xmm{n}" for n in range(16)), "mxcsr"]


def test_widths() -> None:
    assert (registers.register("rax").bits, registers.register("cs").bits, registers.register("xmm3").bits) == (64, 16, 128)
    assert (registers.register("st0").bits, registers.register("rflags").gdb_bits) == (80, 32)
    assert registers.register("mxcsr").mask == 0xFFFFFFFF
    assert all(one.gdb_bits % 8 == 0 for one in registers.TABLE)


def test_encoding() -> None:
    assert registers.ENCODING.index("rsp") == 4
    assert registers.ENCODING.index("rbx") == 3
    assert len(registers.ENCODING) == 16
    assert set(registers.ENCODING) <= set(registers.BY_NAME)
    assert registers.SEGMENT_ENCODING == ("es", "cs", "ss", "ds", "fs", "gs")


def test_every_group_and_feature_is_used() -> None:
    assert {one.group for one in registers.TABLE} == set(registers.Group)
    assert {one.feature for one in registers.TABLE} == set(registers.FEATURES)
    for name in ("cs_base", "cr8", "efer", "dr6", "gdt_limit", "ldtr", "tr", "k_gs_base", "cstar", "xcr0", "tsc", "fooff"):
        assert registers.register(name).name == name


def test_unknown_name() -> None:
    with pytest.raises(KeyError, match="eax"):
        registers.register("eax")


def test_flags() -> None:
    assert flags.canonical_form((1 << 64) - 1) == 0x3F7FD7
    assert flags.canonical_form(0) == flags.RESET == 2
    assert flags.STATUS == 0x8D5
