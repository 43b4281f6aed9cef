"""Rows: SYSCALL, SYSRET, SYSENTER, SYSEXIT with the conditions on their MSRs."""

from behaviour.row import GP0, Row, fault, runs, ud

STAR, LSTAR, CSTAR, SFMASK, EFER = 0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084, 0xC0000080
ON = (
    "wrmsr64 0xC0000081, (U32 << 48) | (K64 << 32)\nmov ecx, 0xC0000082\nmov eax, offset uland\nxor edx, edx\nwrmsr\n"
    "wrmsr64 0xC0000084, {mask}\n"
)
OFF = "wrmsr64 0xC0000080, 0x900\n"
NONE = "xor edx, edx\nxor eax, eax\nxor ecx, ecx\n"


def _syscall() -> list[Row]:
    manual = "SDM 2B SYSCALL"
    on = ON.format(mask=0)
    base = {"cs": "K64", "ss": "KDATA", "rcx": "@behind"}
    everything = "0x44CD5"  # AC, NT, DF, IOPL and status
    cstar = on + "mov ecx, 0xC0000083\nmov eax, offset uland\nxor edx, edx\nwrmsr\n"
    rows = [
        Row(f"syscall from CPL {cpl}", manual, "syscall", runs("uland", **base), on, f"long{cpl}") for cpl in (0, 1, 3)
    ]  # fmt: skip
    rows += [
        Row("syscall keeps RSP", manual, "syscall", runs("uland", rsp="ustack"), on, "long3"),
        Row("syscall: R11 is RFLAGS", manual, "syscall", runs("uland", r11=f"{everything} | 2"), on, "long3",
            everything),
        Row("syscall: R11 has RF clear", manual, "syscall", runs("uland", **{"r11&RF": 0}), on, "long3", "RF"),
        Row("syscall with SFMASK 0 keeps the flags", manual, "syscall", runs("uland", **{"rflags&0x44FD5": everything}), on,
            "long3", everything),
        Row("syscall with all of SFMASK clears them", manual, "syscall", runs("uland", **{"rflags&0x44FD5": 0}),
            ON.format(mask=0x47FD5), "long3", everything),
        Row("syscall ignores the RPL of STAR", manual, "syscall", runs("uland", cs="K64", ss="KDATA"),
            on + "wrmsr64 0xC0000081, (U32 << 48) | ((K64 + 3) << 32)", "long3", needs=("intel",)),
        Row("syscall does not read the descriptors", manual, "syscall", runs("uland", cs="0x1F0", ss="0x1F8"),
            on + "wrmsr64 0xC0000081, 0x1F0 << 32", "long3"),
        *(Row(f"syscall without EFER.SCE in {mode}", manual, "syscall", ud, on + OFF, mode) for mode in ("long0", "long3",
            "compat3")),
        Row("syscall in compatibility mode on Intel", manual, "syscall", ud, cstar, "compat3", needs=("intel",)),
        Row("syscall in compatibility mode on AMD goes to CSTAR", "APM 3 SYSCALL", "syscall", runs("uland", cs="K64",
            ss="KDATA", rcx="@behind"), cstar, "compat3", needs=("amd",)),
        Row("syscall in protected mode on Intel", manual, "syscall", ud, "wrmsr64 0xC0000080, 0x801", "prot3", needs=("intel",)),
        Row("syscall in protected mode on AMD goes to STAR", "APM 3 SYSCALL", "syscall", runs("uland", cs="K32", rcx="@behind",
            **{"rflags&0x20200": 0}),
            "mov ecx, 0xC0000081\nmov eax, offset uland\nmov edx, K32\nwrmsr", "prot3", needs=("amd",)),
        Row("syscall in real mode on Intel", manual, "syscall", ud, mode="real", needs=("intel",)),
        Row("lock syscall", manual, ".byte 0xF0, 0x0F, 0x05", ud, on, "long3"),
    ]  # fmt: skip
    return rows


def _sysret() -> list[Row]:
    manual = "SDM 2B SYSRET"
    on = ON.format(mask=0) + NONE
    target = "mov ecx, offset uland\nmov r11d, {}\n"
    wide, narrow = "sysretq", ".byte 0x0F, 0x07"
    everything = "0x247FD7 & ~0x100"
    return [
        Row("sysret to 64-bit code", manual, wide, runs("uland", cs="U64", ss="UDATA"), on + target.format(2)),
        Row("sysret to 32-bit code", manual, narrow, runs("uland", cs="U32", ss="UDATA"), on + target.format(2)),
        Row("sysret to 32-bit code takes ECX", manual, narrow, runs("uland", cs="U32"), on + target.format(2) + "bts rcx, 40"),
        Row("sysret loads RFLAGS from R11", manual, wide, runs("uland", **{"rflags&0x247FD7": everything}),
            on + target.format("0x247ED7")),
        Row("sysret: VM of R11 is not loaded", manual, wide, runs("uland", **{"rflags&0x20000": 0}),
            on + target.format("0x20002")),
        Row("sysret at CPL 3", manual, wide, GP0, on + target.format(2), "long3"),
        Row("sysret without EFER.SCE", manual, wide, ud, on + target.format(2) + "push rcx\nwrmsr64 0xC0000080, 0x900\npop rcx"),
        Row("sysret at CPL 3 without EFER.SCE", manual, wide, ud, on + OFF, "long3"),
        Row("sysret in compatibility mode on Intel", manual, narrow, ud, on, "compat0", needs=("intel",)),
        Row("sysret, RCX not canonical, on Intel: #GP at CPL 0", manual, wide, GP0, on + "movabs rcx, NONCANON", needs=("intel",)),
        Row("sysret does not read the descriptors", manual, wide, runs("uland", cs="0x1F3", ss="0x1EB"),
            on + "wrmsr64 0xC0000081, 0x1E3 << 48\n" + target.format(2)),
        *(Row(f"sysret to {bits}-bit code: the RPL of SS is {told}", manual_, code, runs("uland", cs=cs, ss=ss),
            on + "wrmsr64 0xC0000081, 0x1E0 << 48\n" + target.format(2), needs=(vendor,))
          for vendor, manual_, ss, told in (("intel", manual, "0x1EB", "3 on Intel"),
            ("amd", "APM 3 SYSRET", "0x1E8", "STAR's on AMD"))
          for bits, code, cs in ((64, wide, "0x1F3"), (32, narrow, "0x1E3"))),
        Row("sysret does not load RSP", manual, wide, runs("uland", rsp="stack0"), on + target.format(2)),
    ]  # fmt: skip


def _sysenter() -> list[Row]:
    manual, intel = "SDM 2B SYSENTER", ("intel", "sep")
    msrs = (
        "wrmsr64 0x174, {cs}\nwrmsr64 0x175, 0\nmov ecx, 0x175\nmov eax, offset rsp0_top\nwrmsr\nmov ecx, 0x176\n"
        "mov eax, offset uland\nxor edx, edx\nwrmsr\n"
    )
    on = msrs.format(cs=8)
    out = "mov edx, offset uland\nmov ecx, offset ustack\n"
    legacy = msrs.format(cs="K32")
    rows = [
        Row(f"sysenter in {mode} mode from CPL {mode[-1]}", manual, "sysenter", runs("uland", cs="K64", ss="KDATA",
            rsp="rsp0_top"), on, mode, needs=intel)
        for mode in ("long0", "long3", "compat3")
    ]  # fmt: skip
    rows += [
        Row(f"sysenter in protected mode from CPL {cpl}", manual, "sysenter", runs("uland", cs="K32", rsp="rsp0_top"), legacy,
            f"prot{cpl}", needs=("sep",)) for cpl in (0, 3)
    ]  # fmt: skip
    rows += [
        *(Row(f"sysenter with SYSENTER_CS {cs} in {mode}", manual, "sysenter", GP0, msrs.format(cs=cs), mode,
            needs=intel) for cs in (0, 3) for mode in ("long3", "compat3")),
        *(Row(f"sysenter with SYSENTER_CS {cs} in protected mode", manual, "sysenter", GP0, msrs.format(cs=cs), "prot3",
            needs=("sep",)) for cs in (0, 3)),
        Row("sysenter clears IF and VM", manual, "sysenter", runs("uland", **{"rflags&0x20200": 0}), legacy, "v86",
            "IOPL3 | IF", needs=("sep",)),
        Row("sysenter clears IF in 64-bit mode", manual, "sysenter", runs("uland", **{"rflags&0x200": 0}), on, "long3", "IF",
            needs=intel),
        Row("sysenter ignores the RPL of SYSENTER_CS", manual, "sysenter", runs("uland", cs="K64", ss="KDATA"),
            msrs.format(cs=11), "long3", needs=intel),
        Row("sysenter in real mode", manual, "sysenter", fault(13), mode="real", needs=("sep",)),
        *(Row(f"{word} in long mode on AMD, {mode}", "APM 3 " + word.upper(), code, ud, on, mode, needs=("amd",))
          for word, code in (("sysenter", "sysenter"), ("sysexit", ".byte 0x0F, 0x35")) for mode in ("long0", "long3", "compat3")),
        Row("sysexit to 64-bit code", "SDM 2B SYSEXIT", ".byte 0x48, 0x0F, 0x35", runs("uland", cs="0x2B", ss="0x33",
            rsp="ustack"), on + out, needs=intel),
        Row("sysexit to 32-bit code", "SDM 2B SYSEXIT", ".byte 0x0F, 0x35", runs("uland", cs="0x1B", ss="0x23", rsp="ustack"),
            on + out, needs=intel),
        Row("sysexit in protected mode", "SDM 2B SYSEXIT", ".byte 0x0F, 0x35", runs("uland", cs="K32 + 19", ss="K32 + 27",
            rsp="ustack"), legacy + out, "prot0", needs=("sep",)),
        Row("sysexit at CPL 3", "SDM 2B SYSEXIT", ".byte 0x0F, 0x35", GP0, on + out, "long3", needs=intel),
        Row("sysexit at CPL 3 in protected mode", "SDM 2B SYSEXIT", ".byte 0x0F, 0x35", GP0, legacy + out, "prot3", needs=("sep",)),
        Row("sysexit with SYSENTER_CS 0", "SDM 2B SYSEXIT", ".byte 0x0F, 0x35", GP0, msrs.format(cs=0) + out, needs=intel),
        Row("sysexit, RDX not canonical", "SDM 2B SYSEXIT", ".byte 0x48, 0x0F, 0x35", GP0, on + out + "movabs rdx, NONCANON",
            needs=intel),
        Row("sysexit, RCX not canonical", "SDM 2B SYSEXIT", ".byte 0x48, 0x0F, 0x35", GP0, on + out + "movabs rcx, NONCANON",
            needs=intel),
        Row("sysexit to 32-bit code takes 32 bits", "SDM 2B SYSEXIT", ".byte 0x0F, 0x35", runs("uland", rsp="ustack"),
            on + out + "bts rdx, 40\nbts rcx, 40", needs=intel),
        Row("sysexit keeps RFLAGS", "SDM 2B SYSEXIT", ".byte 0x0F, 0x35", runs("uland", **{"rflags&0x3200": 0}), on + out,
            needs=intel),
    ]  # fmt: skip
    return rows


def rows() -> list[Row]:
    """All of them."""
    return [*_syscall(), *_sysret(), *_sysenter()]
