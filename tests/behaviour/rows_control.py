"""Rows: control registers, EFER, MSRs, XCR0, and what must not be changed in which order."""

from behaviour.row import GP0, RUNS, Row, fault, gp, runs, ud

PE, MP, EM, TS_, ET, NE, WP, AM, NW, CD, PG = (1 << n for n in (0, 1, 2, 3, 4, 5, 16, 18, 29, 30, 31))
CR0 = 0x80010033
CR4 = 0x620
EFER, PAT, APIC_BASE = 0xC0000080, 0x277, 0x1B
READ_BACK = "mov rax, {}\nmov [seen_extra], rax"
NONCANONICAL = 1 << 47


def _mov(register: str, value: int) -> tuple[str, str]:
    return f"mov {register}, rax", f"movabs rax, {value:#x}"


def _cr0() -> list[Row]:
    manual = "SDM 3A 2.5; 2B MOV CR"
    rows = []
    for name, value, fine in (
        ("PG without PE", CR0 & ~PE, False), ("NW without CD", CR0 | NW, False), ("CD and NW", CR0 | CD | NW, True), ("CD",
            CR0 | CD, True),
        ("bit 32", CR0 | 1 << 32, False), ("bit 63", CR0 | 1 << 63, False), ("PG cleared in 64-bit mode", CR0 & ~PG, False),
        ("PE and PG cleared in 64-bit mode", CR0 & ~(PG | PE), False), ("AM", CR0 | AM, True), ("WP cleared", CR0 & ~WP, True),
        ("TS", CR0 | TS_, True), ("EM", CR0 | EM, True), ("NE cleared", CR0 & ~NE, True),
    ):  # fmt: skip
        code, setup = _mov("cr0", value)
        rows.append(Row(f"mov cr0: {name}", manual, code, runs(extra=value) if fine else GP0, setup, after=READ_BACK.format("cr0")))
    rows += [
        Row(f"mov cr0: reserved bit {bit} is ignored and reads 0", "SDM 3A 2.5", "mov cr0, rax", runs(extra=CR0),
            f"movabs rax, {CR0 | 1 << bit:#x}",
            after=READ_BACK.format("cr0")) for bit in (6, 7, 15, 17, 19, 28)
    ]  # fmt: skip
    rows += [
        Row("mov cr0: ET cannot be cleared", "SDM 3A 2.5", "mov cr0, rax", runs(extra=CR0), f"mov eax, {CR0 & ~ET:#x}",
            after=READ_BACK.format("cr0")),
        Row("clts", "SDM 2A CLTS", "clts", runs(extra=CR0), "or_cr 0, 8", after=READ_BACK.format("cr0")),
        Row("lmsw sets MP, EM, TS", "SDM 2A LMSW", "lmsw ax", runs(extra=CR0 | 0xE), "mov eax, 0xE", after=READ_BACK.format("cr0")),
        Row("lmsw does not clear PE", "SDM 2A LMSW", "lmsw ax", runs(extra=CR0 & ~2), "xor eax, eax",
            after=READ_BACK.format("cr0")),
        Row("lmsw changes nothing above bit 3", "SDM 2A LMSW", "lmsw ax", runs(extra=CR0 | 0xC), "mov eax, 0xFFDF",
            after=READ_BACK.format("cr0")),
        Row("smsw to a register of 64 bits", "SDM 2B SMSW", "smsw rax", runs(rax=CR0)),
        Row("smsw to memory writes 16 bits", "SDM 2B SMSW", "smsw [scratch]", runs(**{"[scratch]": "0xFFFFFFFFFFFF0033"}),
            "mov qword ptr [scratch], -1"),
    ]  # fmt: skip
    return rows


def _cr3_cr4() -> list[Row]:
    rows = [
        Row(f"mov cr3: bit {bit}", "SDM 2B MOV CR; 3A 4.5", "mov cr3, rax", GP0, f"mov rax, cr3\nbts rax, {bit}") for bit in (52,
            60, 62, 63)
    ]  # fmt: skip
    rows += [Row(f"mov cr{n}", "SDM 2B MOV CR", f".byte 0x0F, 0x22, 0xC0 + 8 * {n}", ud) for n in (1, 5, 6, 7)]
    rows += [Row(f"mov from cr{n}", "SDM 2B MOV CR", f".byte 0x0F, 0x20, 0xC0 + 8 * {n}", ud) for n in (1, 5, 6, 7)]
    rows += [Row(f"mov cr{n}", "SDM 2B MOV CR", f".byte 0x44, 0x0F, 0x22, 0xC0 + 8 * {n - 8}", ud) for n in (9, 12, 15)]
    rows += [
        Row(f"mov cr4: reserved bit {bit}", "SDM 3A 2.5", "mov cr4, rax", GP0, f"mov rax, cr4\nbts rax, {bit}") for bit in (15, 19,
            26, 29, 30, 31, 32, 40, 63)
    ]  # fmt: skip
    rows += [
        Row("mov cr4: PAE cleared in long mode", "SDM 2B MOV CR", "mov cr4, rax", GP0, f"mov eax, {CR4 & ~0x20}"),
        Row("mov cr4: LA57 changed in long mode", "SDM 2B MOV CR", "mov cr4, rax", GP0, f"mov eax, {CR4 | 1 << 12}"),
        Row("mov cr4: PCIDE while CR3[11:0] is not 0", "SDM 3A 4.10.1", "mov cr4, rax", GP0,
            f"mov rax, cr3\nor eax, 8\nmov cr3, rax\nmov eax, {CR4 | 1 << 17}",
            after="mov rax, cr3\nand eax, 0xFFFFF000\nmov cr3, rax"),
        Row("mov cr4: PCIDE", "SDM 3A 4.10.1", "mov cr4, rax", RUNS, f"mov eax, {CR4 | 1 << 17}", needs=("pcid",)),
        Row("mov cr3: bit 63 with PCIDE", "SDM 2B MOV CR", "mov cr3, rax", RUNS,
            f"mov eax, {CR4 | 1 << 17}\nmov cr4, rax\nmov rax, cr3\nbts rax, 63", needs=("pcid",)),
        Row("mov cr0: PG cleared with PCIDE", "SDM 2B MOV CR", "mov cr0, rax", GP0,
            f"mov eax, {CR4 | 1 << 17}\nmov cr4, rax\nmov eax, {CR0 & ~PG:#x}", needs=("pcid",)),
    ]  # fmt: skip
    for name, bit, feature in (("DE", 3, "de"), ("UMIP", 11, "umip"), ("FSGSBASE", 16, "fsgsbase"), ("SMEP", 20, "smep"), ("SMAP",
        21, "smap"), ("OSXSAVE", 18, "xsave"),
                               ("VME", 0, "vme"), ("PVI", 1, "vme")):  # fmt: skip
        rows.append(
            Row(
                f"mov cr4: {name}",
                "SDM 3A 2.5",
                "mov cr4, rax",
                runs(extra=CR4 | 1 << bit),
                f"mov eax, {CR4 | 1 << bit}",
                needs=(feature,),
                after=READ_BACK.format("cr4"),
            )
        )
    rows += [
        Row(f"mov cr8, {value:#x}", "SDM 3A 10.8.6.1", "mov cr8, rax", runs(extra=value) if value < 16 else GP0, f"movabs rax, "
            f"{value:#x}",
            after=READ_BACK.format("cr8") + "\nxor eax, eax\nmov cr8, rax") for value in (0, 1, 15, 16, 0x100, 1 << 32, 1 << 63)
    ]  # fmt: skip
    rows += [
        Row("mov cr2 holds any value", "SDM 2B MOV CR", "mov cr2, rax", runs(cr2=0x123456789ABCDEF0),
            "movabs rax, 0x123456789ABCDEF0"),
        Row("mov cr0: MOD is ignored", "SDM 2B MOV CR", ".byte 0x0F, 0x20, 0x00", runs(rax=CR0)),
    ]  # fmt: skip
    return rows


def _efer() -> list[Row]:
    value = 0x901
    rows = [
        Row("EFER: LME cleared while paging", "SDM 3A 9.8.5", "wrmsr", GP0,
            f"mov ecx, {EFER}\nmov eax, {value & ~0x100 | 0x400}\nxor edx, edx"),
        Row("EFER: SCE cleared", "SDM 3A 2.2.1", "wrmsr", runs(extra=0xD00), f"mov ecx, {EFER}\nmov eax, {0xD00}\nxor edx, edx",
            after=_read(EFER)),
        Row("EFER: NXE cleared", "SDM 3A 2.2.1", "wrmsr", runs(extra=0x501), f"mov ecx, {EFER}\nmov eax, {0x501}\nxor edx, edx",
            after=_read(EFER)),
        Row("EFER reads with LMA", "SDM 3A 2.2.1", "rdmsr", runs(rax=0xD01, rdx=0), f"mov ecx, {EFER}"),
    ]  # fmt: skip
    rows += [
        Row(
            f"EFER: reserved bit {bit}",
            "SDM 3A 2.2.1",
            "wrmsr",
            GP0,
            f"mov ecx, {EFER}\nmov rax, {0xD01 | 1 << bit:#x}\nmov rdx, rax\nshr rdx, 32\nmov eax, eax",
        )
        for bit in (1, 5, 9, 16, 24, 31, 32, 63)
    ]
    manual = "SDM 3A 9.8.5"
    off = "mov ecx, 0xC0000080\nrdmsr\nor eax, 0x100\nwrmsr\n"
    rows += [
        Row("PG with LME needs PAE", manual, "mov cr0, eax", GP0, f"{off}mov eax, cr0\nbts eax, 31", "prot0"),
        Row("PG with LME and PAE: LMA", manual, "mov cr0, eax\nmov ecx, 0xC0000080\nrdmsr", runs(**{"rax&0x500": 0x500}),
            f"lidt [idt_pointer]\n{off}mov eax, offset pml4\nmov cr3, eax\nmov eax, cr4\nor eax, 0x20\nmov cr4, eax\n"
                f"mov eax, cr0\nbts eax, 31", "prot0"),
        Row("PG with LME and a 16-bit TSS", manual, "mov cr0, eax", GP0,
            f"segment T0, 0x81, 0, 0x1000, 0x67\nmov eax, T0\nltr ax\n{off}mov eax, offset pml4\nmov cr3, eax\nmov eax, cr4\n"
                f"or eax, 0x20\nmov cr4, eax\n"
            "mov eax, cr0\nbts eax, 31", "prot0"),
        Row("LME does not take effect without paging", manual, "wrmsr\nrdmsr", runs(**{"rax&0x500": 0x100}),
            "mov ecx, 0xC0000080\nrdmsr\nor eax, 0x100", "prot0"),
        Row("PG without PE in real mode", "SDM 3A 2.5", "mov cr0, eax", fault(13), "mov eax, 0x80000030", "real"),
    ]  # fmt: skip
    rows += [
        Row(f"PAE paging: bit {bit} of a PDPTE at MOV to CR3", "SDM 3A 4.4.1", "mov cr3, eax", GP0,
            f"or dword ptr [pdpt_pae + 16 + {bit // 32 * 4}], {1 << bit % 32}\nor dword ptr [pdpt_pae + 16], 1\n"
                f"mov eax, offset pdpt_pae", "prot0", paging=2,
            after="mov qword ptr [pdpt_pae + 16], 0")
        for bit in (1, 2, 5, 6, 7, 8, 51, 63)
    ]  # fmt: skip
    rows.append(
        Row(
            "PAE paging: reserved bits of a PDPTE that is not present",
            "SDM 3A 4.4.1",
            "mov cr3, eax",
            RUNS,
            "or dword ptr [pdpt_pae + 16], 0x1E6\nmov eax, offset pdpt_pae",
            "prot0",
            paging=2,
            after="mov qword ptr [pdpt_pae + 16], 0",
        )
    )
    return rows


def _read(msr: int) -> str:
    return f"mov ecx, {msr}\nrdmsr\nshl rdx, 32\nor rax, rdx\nmov [seen_extra], rax"


def _msrs() -> list[Row]:
    rows = []
    wr = "mov ecx, {}\nmovabs rax, {}\nmov rdx, rax\nshr rdx, 32"
    canonical = {"LSTAR": 0xC0000082, "FS_BASE": 0xC0000100, "GS_BASE": 0xC0000101, "KERNEL_GS_BASE": 0xC0000102}
    both = {"SYSENTER_ESP": 0x175, "SYSENTER_EIP": 0x176}
    for name, msr in {**canonical, **both, "CSTAR": 0xC0000083}.items():
        needs = ("intel",) if name not in canonical else ()
        rows.append(Row(f"wrmsr {name}, not canonical", "SDM 2D WRMSR", "wrmsr", GP0, wr.format(msr, NONCANONICAL), needs=needs))
        value = 0xFFFF800000001234
        rows.append(
            Row(
                f"wrmsr {name}, canonical",
                "SDM 2D WRMSR",
                "wrmsr",
                runs(extra=value),
                wr.format(msr, value),
                after=_read(msr),
                needs=needs,
            )
        )
    for lane in (0, 3, 7):
        for kind in (2, 3, 8, 0x10, 0x86):
            value = 0x0007040600070406 & ~(0xFF << 8 * lane) | kind << 8 * lane
            rows.append(Row(f"wrmsr PAT, type {kind:#x} in PA{lane}", "SDM 3A 11.12.4", "wrmsr", GP0, wr.format(PAT, value)))
    for kind in (0, 1, 4, 5, 6, 7):
        value = 0x0007040600070400 | kind
        rows.append(
            Row(
                f"wrmsr PAT, type {kind} in PA0",
                "SDM 3A 11.12.4",
                "wrmsr",
                runs(extra=value),
                wr.format(PAT, value),
                after=_read(PAT) + "\nwrmsr64 0x277, 0x0007040600070406",
            )
        )
    for name, msr, value in (
        ("an MSR that does not exist", 0x3FF, 0), ("an MSR far outside", 0x12345678, 0), ("MTRRCAP", 0xFE, 0),
            ("MTRR_DEF_TYPE, type 2", 0x2FF, 0xC02),
        ("MTRR_DEF_TYPE, bit 8", 0x2FF, 0xD06), ("MTRR_PHYSBASE0, type 3", 0x200, 3), ("MTRR_FIX64K, type 7", 0x250,
            0x0606060606060607),
    ):  # fmt: skip
        rows.append(Row(f"wrmsr {name}", "SDM 2D WRMSR; 3A 11.11", "wrmsr", GP0, wr.format(msr, value)))
    rows += [
        Row(f"rdmsr {msr:#x}, which does not exist", "SDM 2B RDMSR", "rdmsr", GP0, f"mov ecx, {msr:#x}") for msr in (0x3FF,
            0x12345678, 0x40000100 + 0xFFFF, 0xC0000FFF)
    ]  # fmt: skip
    rows += [
        Row("wrmsr TSC_AUX", "SDM 4 2.1", "wrmsr", runs(extra=0x1234), wr.format(0xC0000103, 0x1234), after=_read(0xC0000103),
            needs=("rdtscp",)),
        *(Row(f"wrmsr {name} on AMD cuts to 32 bits", "APM 2 6.1.2", "wrmsr", runs(extra=0x1234),
            wr.format(msr, 0x8000000000001234), after=_read(msr), needs=("amd",)) for name, msr in both.items()),
        *(Row(f"wrmsr {name} on AMD reads back", "APM 2 13.2.1", "wrmsr", runs(extra=stored), wr.format(msr, written),
            after=_read(msr) + f"\nwrmsr64 {msr}, 0", needs=("amd",)) for name, msr, written, stored in (
            ("PerfEvtSel0", 0xC0010000, 0x1001300C0, 0x1001300C0), ("PerfEvtSel3", 0xC0010003, 0xFFFFFFFFFFBFFFFF, 0x30FFF97FFFF),
            ("PerfCtr0", 0xC0010004, 0xABCD, 0xABCD), ("PerfCtr3", 0xC0010007, 0xFFFF800000000000, 0x800000000000))),
        Row("rdpmc on AMD reads PerfCtr", "APM 3 RDPMC", "rdpmc", runs(rax=0xABCD, rdx=0),
            wr.format(0xC0010006, 0xABCD) + "\nwrmsr\nmov ecx, 2", after="wrmsr64 0xC0010006, 0", needs=("amd",)),
        Row("rdpmc at CPL 3 with CR4.PCE on AMD", "APM 3 RDPMC", "rdpmc", runs(rax=0x12, rdx=0),
            wr.format(0xC0010004, 0x12) + "\nwrmsr\nor_cr 4, 0x100\nxor ecx, ecx", "long3", after="wrmsr64 0xC0010004, 0",
            needs=("amd",)),
        Row("MISC_ENABLE on Intel takes back what was read", "SDM 4 2.1", "wrmsr", RUNS, "mov ecx, 0x1A0\nrdmsr", needs=("intel",)),
        Row("MISC_ENABLE on Intel: another bit beside it", "SDM 4 2.1", "wrmsr", runs(**{"extra&0x400000": 0x400000}),
            "mov ecx, 0x1A0\nrdmsr\nbts eax, 22", after=_read(0x1A0) + "\nmov ecx, 0x1A0\nrdmsr\nbtr eax, 22\nwrmsr",
            needs=("intel",)),
        Row("MISC_ENABLE on AMD", "APM 2 A.1", "rdmsr", GP0, "mov ecx, 0x1A0", needs=("amd",)),
        Row("wrmsr SFMASK reads back", "SDM 3A 5.8.8", "wrmsr", runs(extra=0x47700), wr.format(0xC0000084, 0x47700),
            after=_read(0xC0000084)),
        Row("rdtscp gives TSC_AUX", "SDM 2B RDTSCP", "rdtscp", runs(rcx=0x77), wr.format(0xC0000103, 0x77) + "\nwrmsr",
            needs=("rdtscp",)),
        Row("rdpid gives TSC_AUX", "SDM 2B RDPID", "rdpid rcx", runs(rcx=0x77), wr.format(0xC0000103, 0x77) + "\nwrmsr",
            needs=("rdpid",)),
        Row("rdmsr clears the upper halves", "SDM 2B RDMSR", "rdmsr", runs(rax=0xD01, rdx=0),
            "movabs rax, -1\nmovabs rdx, -1\nmovabs rcx, 0xFFFFFFFFC0000080"),
        Row("swapgs", "SDM 2B SWAPGS", "swapgs", runs(extra=0x1000), "wrmsr64 0xC0000102, 0x1000", after=_read(0xC0000101)),
        Row("swapgs in compatibility mode", "SDM 2B SWAPGS", ".byte 0x0F, 0x01, 0xF8", ud, mode="compat0"),
        Row("wrfsbase, not canonical", "SDM 2D WRFSBASE", "wrfsbase rbx", GP0, "or_cr 4, 0x10000\nmovabs rbx, NONCANON",
            needs=("fsgsbase",)),
        Row("wrgsbase of 32 bits", "SDM 2D WRGSBASE", "wrgsbase ebx", runs(extra=0xFFFFFFFF), "or_cr 4, 0x10000\nmovabs rbx, -1",
            after=_read(0xC0000101), needs=("fsgsbase",)),
        Row("rdfsbase without CR4.FSGSBASE", "SDM 2B RDFSBASE", "rdfsbase rax", ud),
        Row("wrgsbase without CR4.FSGSBASE", "SDM 2D WRGSBASE", "wrgsbase rax", ud),
        Row("wrfsbase at CPL 3", "SDM 2D WRFSBASE", "wrfsbase rbx", runs(extra=0x1234), "or_cr 4, 0x10000\nmov ebx, 0x1234",
            "long3", needs=("fsgsbase",), after=_read(0xC0000100)),
        Row("rdfsbase in compatibility mode", "SDM 2B RDFSBASE", ".byte 0xF3, 0x0F, 0xAE, 0xC0", ud, "or_cr 4, 0x10000", "compat3",
            needs=("fsgsbase",)),
        Row("mov fs loads the base that the descriptor has", "SDM 3A 3.4.4", "mov fs, eax", runs(extra=0x12345678),
            "segment T0, 0xF3, 0xC, 0x12345678\nmov eax, T0 | 3", after=_read(0xC0000100)),
        Row("mov fs, null: the base is 0 on Intel", "SDM 3A 3.4.4", "mov fs, eax", runs(extra=0),
            "wrmsr64 0xC0000100, 0x5000\nxor eax, eax", after=_read(0xC0000100), needs=("intel",)),
    ]  # fmt: skip
    return rows


def _xcr0() -> list[Row]:
    on = "or_cr 4, 0x40000\n"
    regs = "xor ecx, ecx\nxor edx, edx\nmov eax, {}"
    rows = [
        Row(f"xsetbv: {name}", "SDM 2D XSETBV", "xsetbv", RUNS if fine else GP0, on + regs.format(value), needs=("xsave",))
        for name, value, fine in (("x87 cleared", 2, False), ("x87 and SSE", 3, True), ("AVX without SSE", 5, False), ("bit 10",
            0x403, False), ("nothing", 0, False))
    ]  # fmt: skip
    return [
        *rows,
        Row("xsetbv: upper half", "SDM 2D XSETBV", "xsetbv", GP0, on + regs.format(3) + "\nmov edx, 0x80000000", needs=("xsave",)),
        Row("xsetbv: XCR1", "SDM 2D XSETBV", "xsetbv", GP0, on + regs.format(3) + "\nmov ecx, 1", needs=("xsave",)),
        Row("xsetbv without CR4.OSXSAVE", "SDM 2D XSETBV", "xsetbv", ud, regs.format(3)),
        Row("xsetbv at CPL 3", "SDM 2D XSETBV", "xsetbv", GP0, on + regs.format(3), "long3", needs=("xsave",)),
        Row("xgetbv without CR4.OSXSAVE", "SDM 2D XGETBV", "xgetbv", ud),
        Row("xgetbv of XCR2", "SDM 2D XGETBV", "xgetbv", GP0, on + "mov ecx, 2", needs=("xsave",)),
        Row("xgetbv at CPL 3", "SDM 2D XGETBV", "xgetbv", runs(**{"rax&1": 1, "rdx": 0}), on + "xor ecx, ecx", "long3",
            needs=("xsave",)),
        Row("xsave without CR4.OSXSAVE", "SDM 2D XSAVE", "xsave [scratch]", ud),
        Row("xsave, not aligned to 64", "SDM 2D XSAVE", "xsave [LOW_DATA + 16]", GP0, on + "mov eax, 3", needs=("xsave",)),
        Row("xrstor: reserved bits of the header", "SDM 2D XRSTOR", "xrstor [LOW_DATA]", gp(0),
            on + "mov qword ptr [LOW_DATA + 512], 0x400\nmov eax, 3\nxor edx, edx", needs=("xsave",),
            after="mov qword ptr [LOW_DATA + 512], 0"),
        Row("fxsave, not aligned to 16", "SDM 2A FXSAVE", "fxsave [LOW_DATA + 8]", GP0),
        Row("fxrstor: reserved bits of MXCSR", "SDM 2A FXRSTOR", "fxrstor [LOW_DATA]", GP0,
            "fxsave [LOW_DATA]\nmov dword ptr [LOW_DATA + 24], 0x80001F80"),
        Row("ldmxcsr: reserved bits", "SDM 2A LDMXCSR", "ldmxcsr [scratch]", GP0, "mov dword ptr [scratch], 0x10000"),
        Row("fxsave with CR0.TS", "SDM 2A FXSAVE", "fxsave [LOW_DATA]", fault(7), "or_cr 0, 8"),
    ]  # fmt: skip


def rows() -> list[Row]:
    """All of them."""
    return [*_cr0(), *_cr3_cr4(), *_efer(), *_msrs(), *_xcr0()]
