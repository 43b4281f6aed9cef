"""Rows: where AVX may run and what it raises, masked moves and gathers beside missing pages, the YMM component of XSAVE."""

from functools import partial

from behaviour.row import AC, GP0, NM, RUNS, UD, XM, Expected, Row, fault, page_fault, runs, ud

ON = "or_cr 4, 0x40600\nxor ecx, ecx\nxor edx, edx\nmov eax, 7\nxsetbv\n"  # OSXSAVE, OSXMMEXCPT, OSFXSR; x87, SSE and AVX
LEFT = "or_cr 4, 0x40600\nxor ecx, ecx\nxor edx, edx\nmov eax, {}\nxsetbv\n"
AT_WIN = "mov rbx, WIN\n"
ONES = "vpcmpeqd ymm1, ymm1, ymm1\n"
GONE = "and dword ptr [pt_w + 8], ~1\n"  # the second page of WIN
EVERY = ("vaddps ymm0, ymm1, ymm2", "vaddps xmm0, xmm1, xmm2", "vzeroupper", "vzeroall", "vpaddb ymm3, ymm4, ymm5",
         "vptest ymm0, ymm1", "vmovd eax, xmm0", "vpgatherdd ymm0, [esp + ymm2], ymm1", "vfmadd231pd ymm0, ymm1, ymm2",
         "vcvtph2ps ymm0, xmm1", "vaesenc xmm0, xmm1, xmm2", "vpclmulqdq xmm0, xmm1, xmm2, 0")  # fmt: skip
MANUAL = "SDM 2A 2.7"

_row = partial(Row, needs=("avx",))


def _may_run() -> list[Row]:
    rows = []
    for code in EVERY:
        for what, setup, expected in (
            ("CR4.OSXSAVE clear", ON + "clear_cr 4, 0x40000", ud),
            ("XCR0 without AVX", LEFT.format(3), ud),
            ("XCR0 without SSE and AVX", LEFT.format(1), ud),
            ("CR0.TS", ON + "or_cr 0, 8", fault(NM)),
            ("CR0.TS, XCR0 without AVX", LEFT.format(3) + "or_cr 0, 8", ud),
            ("CR0.EM", ON + "or_cr 0, 4", RUNS),
            ("CR0.EM and CR0.TS", ON + "or_cr 0, 12", fault(NM)),
            ("CR4.OSFXSR clear", ON + "clear_cr 4, 0x200", RUNS),
        ):
            if "gather" in code and expected is RUNS:
                continue  # it has an operand
            rows.append(_row(f"{code}: {what}", MANUAL, code, expected, setup))
    for mode in ("long3", "compat0", "compat3", "prot0", "prot3"):
        rows.append(_row(f"vaddps in {mode}", MANUAL, "vaddps ymm0, ymm1, ymm2", RUNS, ON, mode))
        rows.append(_row(f"vaddps in {mode} with CR0.TS", MANUAL, "vaddps ymm0, ymm1, ymm2", fault(NM), ON + "or_cr 0, 8", mode))
    for mode, level in (("v86", "virtual-8086"), ("real", "real")):
        for code, name in ((".byte 0xC5, 0xF4, 0x58, 0xC2", "VADDPS"), (".byte 0xC5, 0xF8, 0x77", "VZEROUPPER"),
                           (".byte 0xC4, 0xE2, 0x70, 0xF2, 0xC2", "ANDN")):  # fmt: skip
            rows.append(_row(f"{name} in {level} mode", "SDM 2A 2.3", code, ud, ON, mode))
    rows += [_row(f"{prefix:02X} before VEX", "SDM 2A 2.3", f".byte {prefix:#x}, 0xC5, 0xF4, 0x58, 0xC2", ud, ON)
             for prefix in (0xF0, 0x66, 0xF2, 0xF3, 0x40, 0x48)]  # fmt: skip
    rows += [_row(f"{prefix:02X} before VEX, a segment", "SDM 2A 2.3", f".byte {prefix:#x}, 0xC5, 0xF4, 0x58, 0xC2", RUNS, ON)
             for prefix in (0x26, 0x2E, 0x64, 0x67)]  # fmt: skip
    rows += [
        Row("andn with CR0.TS and EM, without OSXSAVE", "SDM 2A ANDN", "andn eax, ecx, edx", RUNS, "or_cr 0, 12"),
        _row("vaddps with VEX.vvvv of a two-operand instruction", "SDM 2A 2.3", ".byte 0xC5, 0xF0, 0x51, 0xC1", ud, ON),
        _row("vzeroupper with VEX.vvvv", "SDM 2A 2.3", ".byte 0xC5, 0xF0, 0x77", ud, ON),
        _row("xsetbv: AVX", "SDM 2D XSETBV", "xsetbv", RUNS, "or_cr 4, 0x40000\nxor ecx, ecx\nxor edx, edx\nmov eax, 7"),
    ]
    return rows


def _memory() -> list[Row]:
    """Alignment and pages (SDM vol. 2, 2.7: exceptions of types 1, 2 and 6)."""
    rows = [
        _row(f"{code}, {by} beyond its alignment", "SDM 2A 2.7", code, GP0, f"{ON}{AT_WIN}add rbx, {by}")
        for code in (
            "vmovaps ymm0, [rbx]",
            "vmovaps [rbx], ymm0",
            "vmovdqa ymm0, [rbx]",
            "vmovntdq [rbx], ymm0",
            "vmovntdqa ymm0, [rbx]",
        )
        for by in (1, 16)
    ]
    rows += [
        _row(f"{code}, not aligned", "SDM 2A 2.7", code, RUNS, f"{ON}{AT_WIN}add rbx, 1")
        for code in ("vmovups ymm0, [rbx]", "vaddps ymm0, ymm1, [rbx]", "vpaddd xmm0, xmm1, [rbx]", "vmovdqu [rbx], ymm0")
    ]
    odd = f"{ON}or_cr 0, 0x40000\n{AT_WIN}add rbx, 1"
    rows += [
        _row("vmovups: a load across pages, the second not present", "SDM 2A 2.7", "vmovups ymm0, [rbx + 0xFF0]",
            page_fault(0, "WIN + 0x1000"),            f"{ON}{AT_WIN}{GONE}"),
        _row("vmovups: a store across pages, the second not present", "SDM 2A 2.7", "vmovups [rbx + 0xFF0], ymm0",
            page_fault(2, "WIN + 0x1000"), f"{ON}{AT_WIN}{GONE}"),
        _row("vmovups: not canonical", "SDM 2A 2.7", "vmovups ymm0, [rbx]", GP0, ON + "mov rbx, NONCANON"),
        _row("vmovups with RFLAGS.AC, not aligned, on Intel", "SDM 2A 2.7", "vmovups ymm0, [rbx]", RUNS, odd,
            "long3", flags="AC", needs=("intel",)),
        _row("vmovups with RFLAGS.AC, not aligned, on AMD", "APM 2 8.2.18", "vmovups ymm0, [rbx]", fault(AC, 0), odd,
            "long3", flags="AC", needs=("amd",)),
        _row("vmovss with RFLAGS.AC, not aligned", "SDM 2A 2.7", "vmovss xmm0, [rbx]", fault(AC, 0), odd,
            "long3", flags="AC"),
    ]  # fmt: skip
    pages = f"{ON}{ONES}{AT_WIN}{GONE}"
    low = "vpsrldq xmm1, xmm1, 8\n"  # the mask of the first two elements alone; VEX.128 clears the rest
    for name in ("vmaskmovps", "vpmaskmovd"):
        load, store = f"{name} ymm0, ymm1, [rbx + 0xFF8]", f"{name} [rbx + 0xFF8], ymm1, ymm2"
        manual = f"SDM 2C {name.upper()}"
        rows += [
            _row(f"{name}: a load, what is masked lies in no page", manual, load, RUNS, pages + low),
            _row(f"{name}: a store, what is masked lies in no page", manual, store, RUNS, pages + low),
            _row(f"{name}: a load of all, in part in no page", manual, load, page_fault(0, "WIN + 0x1000"), pages),
            _row(f"{name}: a store of nothing to no page", manual, f"{name} [rbx + 0x1000], ymm1, ymm2", RUNS,
                pages + "vpxor ymm1, ymm1, ymm1"),
            _row(f"{name}: a store to a read-only page", manual, f"{name} [rbx], ymm1, ymm2", page_fault(3, "WIN"),
                f"{ON}{ONES}{AT_WIN}or_cr 0, 0x10000\nand dword ptr [pt_w], ~2"),
            _row(f"{name}: with RFLAGS.AC, not aligned", manual, f"{name} ymm0, ymm1, [rbx + 1]", RUNS,
                f"{ON}{ONES}or_cr 0, 0x40000\n{AT_WIN}", "long3", flags="AC"),
        ]  # fmt: skip
    return rows


def _gathers() -> list[Row]:
    """Element by element (SDM vol. 2, VPGATHERDD)."""
    manual = "SDM 2C VPGATHERDD"
    indices = "mov rax, 0x0000100000000008\nvmovq xmm2, rax\n"  # the second lies in the second page
    put = "mov dword ptr [win_frames + 8], 0x11223344\n"
    seen = "vmovq rax, xmm0\nmov [scratch], rax\nvmovq rax, xmm1\nmov [scratch + 8], rax"
    start = f"{ON}{ONES}vpcmpeqd ymm0, ymm0, ymm0\n{indices}{put}{AT_WIN}"
    code = "vpgatherdd xmm0, [rbx + xmm2], xmm1"
    some: dict[str, int | str] = {"[scratch]": 0xFFFFFFFF11223344, "[scratch + 8]": 0xFFFFFFFF00000000}
    return [
        _row("vpgatherdd: the second element in no page", manual, code,
            page_fault(0, "WIN + 0x1000", **some), start + GONE, after=seen),
        _row("vpgatherdd: the mask becomes 0", manual, code, runs(**{"[scratch + 8]": 0}), start, after=seen),
        _row("vpgatherdd: what is masked lies in no page", manual, code, runs(**{"[scratch]": 0xFFFFFFFF11223344}),
            start + "mov eax, 0x80000000\nvmovd xmm1, eax\n" + GONE, after=seen),
        _row("vpgatherdd: with RFLAGS.AC, not aligned", manual, "vpgatherdd xmm0, [rbx + xmm2 + 1], xmm1", RUNS,
            start + "or_cr 0, 0x40000",            "long3", flags="AC"),
        _row("vpgatherdd: destination and mask the same", manual, ".byte 0xC4, 0xE2, 0x79, 0x90, 0x04, 0x13", ud, start),
        _row("vpgatherdd: mask and index the same", manual, ".byte 0xC4, 0xE2, 0x69, 0x90, 0x04, 0x13", ud, start),
        _row("vpgatherdd: destination and index the same", manual, ".byte 0xC4, 0xE2, 0x71, 0x90, 0x14, 0x13", ud, start),
        _row("vpgatherdd without a vector index", manual, ".byte 0xC4, 0xE2, 0x71, 0x90, 0x03", ud, start),
    ]  # fmt: skip


def _exceptions() -> list[Row]:
    """SIMD floating-point exceptions (SDM vol. 1, 11.5), unmasked by `MXCSR`."""
    unmask = "mov dword ptr [scratch], {}\nvldmxcsr [scratch]\n"
    one = "mov eax, 0x3F800000\nvmovd xmm1, eax\nvpxor xmm2, xmm2, xmm2\nvbroadcastss ymm1, xmm1\n"
    divide = "vdivps ymm0, ymm1, ymm2"
    told = "vstmxcsr [scratch]\nmov eax, [scratch]\nmov [scratch + 8], rax"
    return [
        _row("vdivps: 1 / 0 unmasked", "SDM 1 11.5", divide, Expected(XM, -1, then={"[scratch + 8]": 0x1D84}),
            ON + one + unmask.format(0x1D80), after=told),
        _row("vdivps: 1 / 0 masked", "SDM 1 11.5", divide, runs(**{"[scratch + 8]": 0x1F84}), ON + one + unmask.format(0x1F80),
            after=told),
        _row("vdivps: 1 / 0 unmasked without CR4.OSXMMEXCPT", "SDM 1 11.5", "vdivps ymm0, ymm1, ymm2", fault(UD),
            ON + one + unmask.format(0x1D80) + "clear_cr 4, 0x400"),
        _row("vcvtps2ph: overflow unmasked", "SDM 1 11.5", "vcvtps2ph xmm0, ymm1, 0", fault(XM),
            ON + "mov eax, 0x7F000000\nvmovd xmm1, eax\n" + unmask.format(0x1B80)),
        _row("vfmadd231ps: signaling NaN unmasked", "SDM 1 11.5", "vfmadd231ps ymm0, ymm1, ymm2", fault(XM),
            ON + "mov eax, 0x7F800001\nvmovd xmm1, eax\n" + unmask.format(0x1F00)),
        _row("vldmxcsr: reserved bits", "SDM 2A LDMXCSR", "vldmxcsr [scratch]", GP0, ON + "mov dword ptr [scratch], 0x10000"),
    ]  # fmt: skip


def _xsave() -> list[Row]:
    """The YMM component (SDM vol. 1, 13.7 to 13.12)."""
    area = "vzeroall\nmov eax, 7\nxor edx, edx\nxsave [LOW_DATA]\n"
    asks = "mov eax, 7\nxor edx, edx\n"
    return [
        _row("xsave: AVX in its initial state", "SDM 1 13.6", "xsave [LOW_DATA]", runs(**{"[LOW_DATA + 512]&4": 0}),
            ON + "vzeroupper\n" + asks),
        _row("xsave: AVX in use", "SDM 1 13.6", "xsave [LOW_DATA]",
            runs(**{"[LOW_DATA + 512]&4": 4, "[LOW_DATA + 592]": -1}), ON + ONES + asks),
        _row("xgetbv of XINUSE", "SDM 2D XGETBV", "xgetbv", runs(**{"rax&4": 0}), ON + "vzeroupper\nmov ecx, 1"),
        _row("xgetbv of XINUSE, a register written", "SDM 2D XGETBV", "xgetbv", runs(**{"rax&4": 4}), ON + ONES + "mov ecx, 1"),
        _row("xrstor: AVX without it in XCR0", "SDM 1 13.8", "xrstor [LOW_DATA]", GP0,
            ON + area + "mov eax, 3\nxsetbv\nmov qword ptr [LOW_DATA + 512], 7\n" + asks,
            after="mov qword ptr [LOW_DATA + 512], 0"),
        _row("cpuid: bytes of the area as XCR0 has it", "SDM 2A CPUID", "cpuid", runs(rbx=832), ON + "mov eax, 0xD\nxor ecx, ecx"),
        _row("cpuid: bytes of the area without AVX in XCR0", "SDM 2A CPUID", "cpuid", runs(rbx=576),
            LEFT.format(3) + "mov eax, 0xD\nxor ecx, ecx"),
        _row("cpuid: the YMM component", "SDM 2A CPUID", "cpuid", runs(rax=256, rbx=576, rcx=0), "mov eax, 0xD\nmov ecx, 2"),
    ]  # fmt: skip


def rows() -> list[Row]:
    """All of them."""
    return [*_may_run(), *_memory(), *_gathers(), *_exceptions(), *_xsave()]
