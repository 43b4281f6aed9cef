"""Rows: interrupts as the local APIC, the PIC and the PIT raise them; priorities, windows and shadows; NMIs; the APIC's modes.

RBX is the APIC's page. What a row waits for comes within a loop that ends by itself, so that a row that waits in vain is reported.
"""

from behaviour.row import GP0, RUNS, Expected, Row, runs, trap

ON = """mov ebx, APIC
mov dword ptr [rbx + 0xF0], 0x1FF
mov dword ptr [rbx + 0x80], 0
mov dword ptr [rbx + 0x320], 0x10000
mov dword ptr [rbx + 0x350], 0x10000
mov dword ptr [rbx + 0x360], 0x10000
"""
OFF = """mov ebx, APIC
mov eax, [rbx + 0x120]
mov [seen_extra], rax
mov dword ptr [rbx + 0x320], 0x10000
mov dword ptr [rbx + 0x380], 0
call drain"""
SELF = "mov dword ptr [rbx + 0x300], 0x40000 | {:#x}\n"
WAIT = "mov ecx, 2000\n1: pause\nloop 1b\n"
LONG = "mov ecx, 20000000\n1: pause\ndec ecx\njnz 1b"
HANDLER = "jmp @here\n@here2: inc dword ptr [scratch]\nmov dword ptr [rbx + 0xB0], 0\niretq\n@here:"


def _row(
    name: str,
    manual: str,
    code: str,
    expected: Expected,
    setup: str = "",
    *,
    needs: tuple[str, ...] = (),
    flags: str = "0",
    mode: str = "long0",
) -> Row:
    return Row(name, manual, code, expected, ON + setup, mode, flags, needs, after=OFF)


def _shadows() -> list[Row]:
    pending = SELF.format(0x40) + WAIT.strip()
    manual = "SDM 3A 6.8.1, 6.8.3"
    got = trap(0x40)
    closed: dict[str, int | str] = {"handler_rflags&IF": 0, "rflags&IF": "IF"}
    return [
        _row("an interrupt waits while IF is 0", manual, f"{pending}\nnop", RUNS),
        _row("STI: taken behind the next instruction", manual, f"{pending}\nsti\nnop", got),
        _row("STI: not before the next instruction", manual, f"{pending}\nsti\nmov eax, 7", trap(0x40, rax=7)),
        _row("STI, CLI: no window", manual, f"{pending}\nsti\ncli", RUNS),
        _row("STI, STI: only the first shadows", "SDM 2B STI", f"{pending}\nsti\nsti", got),
        _row("POPF: taken at once", manual, f"{pending}\npush 0x202\npopfq", got),
        _row("IRETQ: taken at once", manual,
            f"{pending}\npush KDATA\npush offset stack0\npush 0x202\npush K64\npush offset @here\niretq\n@here: nop",
            Expected(0x40, rip="@here")),
        _row("LSS shadows nothing", manual,
            f"mov dword ptr [scratch], offset stack0\nmov word ptr [scratch + 4], KDATA\n{pending}\nsti\nlss esp, [scratch]", got),
        _row("an interrupt gate closes IF", "SDM 3A 6.8.1", f"{pending}\nsti\nnop", trap(0x40, **closed)),
        _row("RF is not changed by an interrupt", "SDM 3B 17.3.1.1", f"{pending}\nsti\nnop", trap(0x40, **{"rflags&RF": 0})),
        _row("HLT ends with an interrupt, RIP behind it", "SDM 2A HLT", f"{pending}\nsti\nhlt", got),
        _row("an interrupt at CPL 3 comes on RSP0", "SDM 3A 6.14.2", "nop\njmp $", Expected(0x40, rip="",
            then={"handler_rsp": "rsp0_top - 40", "cs": "U64"}),
             SELF.format(0x40), flags="IF", mode="long3"),
        _row("an interrupt does not look at the gate's DPL", "SDM 3A 6.12.1.2", "nop\njmp $", Expected(0x40, rip=""),
            SELF.format(0x40), flags="IF", mode="long3"),
        _row("an interrupt whose gate is not present: #NP with EXT", "SDM 3A 6.13", f"{pending}\nsti\nnop", Expected(11,
            "0x40 * 8 + 3", rip=""), "idt_access 0x40, 0x0E"),
    ]  # fmt: skip


def _priorities() -> list[Row]:
    manual = "SDM 3A 10.8"
    two = SELF.format(0x51) + SELF.format(0x62) + WAIT
    held = SELF.format(0x45) + WAIT
    code = "jmp @here\n@here2: " + "mov ebx, APIC\n" + "{}" + WAIT + "sti\nnop\nnop\nud2\n@here: nop\nnop"
    return [
        _row("of two, the higher vector is first", manual, two + "sti\nnop", trap(0x62)),
        _row("IRR holds both", "SDM 3A 10.8.4", two + "mov eax, [rbx + 0x220]\nmov edx, [rbx + 0x230]\nnop", runs(rax=1 << 17,
            rdx=4)),
        _row("IRR has a bit for a vector that waits", "SDM 3A 10.8.4", held + "mov eax, [rbx + 0x220]\nnop", runs(rax=1 << 5)),
        _row("ISR has a bit for the vector in service, IRR none", "SDM 3A 10.8.4", held + "sti\nnop", trap(0x45, extra=1 << 5)),
        *(_row(f"a vector of class 4 while TPR is {tpr:#x}", "SDM 3A 10.8.3.1",
            f"mov dword ptr [rbx + 0x80], {tpr:#x}\n" + held + "sti\nnop", trap(0x45) if tpr < 0x40 else RUNS)
          for tpr in (0x30, 0x3F, 0x40, 0x45, 0x50, 0xF0)),
        *(_row(f"a vector of class 4 while CR8 is {cr8}", "SDM 3A 10.8.6", f"mov eax, {cr8}\nmov cr8, rax\n" + held + "sti\nnop",
            trap(0x45) if cr8 < 4 else RUNS) for cr8 in (0, 3, 4, 15)),
        _row("MOV to CR8 opens at once", "SDM 3A 10.8.6",
            "mov eax, 4\nmov cr8, rax\nsti\n" + held + "mov eax, 3\nmov cr8, rax\nnop\nnop", Expected(0x45, rip="")),
        _row("TPR follows CR8", "SDM 3A 10.8.6.1", "mov eax, 9\nmov cr8, rax\nmov eax, [rbx + 0x80]\nnop", runs(rax=0x90)),
        _row("CR8 follows TPR", "SDM 3A 10.8.6.1", "mov dword ptr [rbx + 0x80], 0xA7\nmov rax, cr8\nnop", runs(rax=0xA)),
        _row("PPR is TPR while nothing is in service", "SDM 3A 10.8.3.1",
            "mov dword ptr [rbx + 0x80], 0x37\nmov eax, [rbx + 0xA0]\nnop", runs(rax=0x37)),
        _row("PPR has the class of what is in service", "SDM 3A 10.8.3.1",
            "jmp @here\n@here2: mov eax, [rbx + 0xA0]\nud2\n@here: nop\n" + SELF.format(0x65) + WAIT + "sti\nnop",
             Expected(6, rip="@here2 + 6", then={"rax": 0x60}), "gate 0x65, K64, @here2\n"),
        _row("a lower class waits for the EOI", manual,
            code.format(SELF.format(0x55)) + "\n" + SELF.format(0x65) + WAIT + "sti\nnop", Expected(6, rip=""),
            "gate 0x65, K64, @here2\n"),
        _row("the same class waits for the EOI", manual,
            code.format(SELF.format(0x6F)) + "\n" + SELF.format(0x65) + WAIT + "sti\nnop", Expected(6, rip=""),
            "gate 0x65, K64, @here2\n"),
        _row("a higher class does not wait", manual, code.format(SELF.format(0x70)) + "\n" + SELF.format(0x65) + WAIT + "sti\nnop",
            Expected(0x70, rip=""), "gate 0x65, K64, @here2\n"),
        _row("behind the EOI the lower class is taken", manual,
            code.format(SELF.format(0x55) + "mov dword ptr [rbx + 0xB0], 0\n") + "\n" + SELF.format(0x65) + WAIT + "sti\nnop",
             Expected(0x55, rip=""), "gate 0x65, K64, @here2\n"),
        _row("an illegal vector is not sent", "SDM 3A 10.5.2", SELF.format(0x0F) + WAIT + "sti\nnop", RUNS),
        _row("the APIC switched off by software takes no fixed IPI", "SDM 3A 10.4.7.2",
            "mov dword ptr [rbx + 0xF0], 0xFF\n" + held + "sti\nnop", RUNS),
        _row("while software has it off, LVT entries stay masked", "SDM 3A 10.4.7.2",
            "mov dword ptr [rbx + 0xF0], 0xFF\nmov dword ptr [rbx + 0x320], 0x41\nmov eax, [rbx + 0x320]\nnop", runs(rax=0x10041)),
        _row("the version register: an integrated APIC", "SDM 3A 10.4.8", "mov eax, [rbx + 0x30]\nand eax, 0xF0\nnop",
            runs(rax=0x10)),
        _row("TPR holds eight bits", "SDM 3A 10.8.3.1", "mov dword ptr [rbx + 0x80], 0xFFFFFF5A\nmov eax, [rbx + 0x80]\nnop",
            runs(rax=0x5A)),
    ]  # fmt: skip


def _timers() -> list[Row]:
    manual = "SDM 3A 10.5.4"
    start = "mov dword ptr [rbx + 0x3E0], 0xB\nmov dword ptr [rbx + 0x320], {}\nmov dword ptr [rbx + 0x380], {}\n"
    counting = f"{HANDLER} sti\nmov ecx, 20000000\n1: pause\ncmp dword ptr [scratch], {{}}\njae 2f\ndec ecx\njnz 1b\n2: cli\nnop"
    gate = "gate 0x41, K64, @here2\n"
    return [
        _row("one-shot: one interrupt", manual, start.format("0x41", 1000) + "sti\n" + LONG, Expected(0x41, rip="")),
        _row("one-shot: the count ends at 0", manual, start.format("0x10041", 100) + LONG.replace("20000000",
            "200000") + "\nmov eax, [rbx + 0x390]", runs(rax=0)),
        _row("one-shot: no second interrupt", manual, start.format("0x41", 1000) + counting.format(2).replace("20000000",
            "300000"), runs(**{"[scratch]": 1}), gate),
        _row("periodic: interrupts come again", manual, start.format("0x20041",
            20000) + counting.format(3) + "\nxor eax, eax\ncmp dword ptr [scratch], 3\nsetae al", runs(rax=1), gate),
        _row("a masked timer counts and is silent", manual, start.format("0x10041", 1000) + "sti\n" + LONG.replace("20000000",
            "200000"), RUNS),
        _row("an initial count of 0 stops the timer", manual, start.format("0x41",
            100000000) + "mov dword ptr [rbx + 0x380], 0\nmov eax, [rbx + 0x390]\nnop", runs(rax=0)),
        _row("the current count runs down", manual, start.format("0x10041",
            0xFFFFFFFF) + WAIT + "mov eax, [rbx + 0x390]\ncmp eax, 0xFFFFFFFF\nsetb al\nmovzx eax, al\nnop", runs(rax=1)),
        _row("HLT waits for the timer", manual, start.format("0x41", 100000) + "sti\nhlt", trap(0x41)),
        _row("TSC deadline: one interrupt", "SDM 3A 10.5.4.1",
            "mov dword ptr [rbx + 0x320], 0x40041\nmfence\nrdtsc\nadd eax, 100000\nadc edx, 0\nmov ecx, 0x6E0\nwrmsr\nsti\n" + LONG,
             Expected(0x41, rip=""), needs=("deadline",)),
        _row("TSC deadline: the MSR is 0 afterwards", "SDM 3A 10.5.4.1",
            "mov dword ptr [rbx + 0x320], 0x40041\nmfence\nrdtsc\nmov ecx, 0x6E0\nwrmsr\n" + WAIT + "mov ecx, 0x6E0\nrdmsr\n"
            "or eax, edx\nnop",
             runs(**{"rax&0xFFFFFFFF": 0}), needs=("deadline",)),
        _row("TSC deadline: the initial count is ignored", "SDM 3A 10.5.4.1",
            "mov dword ptr [rbx + 0x320], 0x40041\nmov dword ptr [rbx + 0x380], 1000\nmov eax, [rbx + 0x390]\nnop", runs(rax=0),
            needs=("deadline",)),
        _row("TSC deadline: the MSR reads 0 in another mode", "SDM 3A 10.5.4.1",
            "mov dword ptr [rbx + 0x320], 0x10041\nmov ecx, 0x6E0\nmov eax, -1\nmov edx, 1\nwrmsr\nrdmsr\nor eax, edx\nnop",
             runs(**{"rax&0xFFFFFFFF": 0}), needs=("deadline",)),
    ]  # fmt: skip


def _nmis() -> list[Row]:
    """An NMI to ourselves: physical destination, delivery mode 4 (SDM vol. 3, 10.6.1)."""
    send = "mov eax, [rbx + 0x20]\nmov [rbx + 0x310], eax\nmov dword ptr [rbx + 0x300], 0x400\n"
    manual = "SDM 3A 6.7"
    blocked = (
        f"jmp @here\n@here2: inc dword ptr [scratch]\ncmp dword ptr [scratch], 1\nja 3f\n{send}{WAIT}mov edx, [scratch]\n"
        f"3: iretq\n@here: {send}{WAIT}nop"
    )
    return [
        _row("an NMI with IF 0", manual, send + WAIT + "nop", Expected(2, rip="")),
        _row("a second NMI waits for IRET", "SDM 3A 6.7.1", blocked, runs(rdx=1, **{"[scratch]": 2}), "gate 2, K64, @here2\n"),
        _row("an NMI through an interrupt stack", "SDM 3A 6.14.5", send + WAIT + "nop", Expected(2, rip="",
            then={"handler_rsp": "ist3_top - 40"}), "ist 2, 3\n"),
        _row("HLT ends with an NMI", "SDM 2A HLT", "jmp @here\n@here: " + send + "hlt", Expected(2, rip="")),
    ]  # fmt: skip


def _modes() -> list[Row]:
    """xAPIC and x2APIC (SDM vol. 3, 10.12.5): which writes of IA32_APIC_BASE are allowed, what the MSRs refuse."""
    manual = "SDM 3A 10.12.5"
    x2 = ("x2apic",)
    base = "mov ecx, 0x1B\nrdmsr\n"
    off, xapic, x2apic = "and eax, ~0xC00\n", "and eax, ~0xC00\nor eax, 0x800\n", "or eax, 0xC00\n"
    restore = "call drain\nmov ecx, 0x1B\nrdmsr\nand eax, ~0xC00\nwrmsr\nor eax, 0x800\nwrmsr"
    into = base + x2apic + "wrmsr\n"

    def row(name: str, code: str, expected: Expected, setup: str = "", manual: str = manual) -> Row:
        return Row(name, manual, code, expected, setup, needs=x2, after=restore)

    cleared = "mov ecx, {:#x}\nxor edx, edx\nmov eax, {}\nwrmsr"
    rows = [
        row("xAPIC to x2APIC", "wrmsr", RUNS, base + x2apic),
        row("x2APIC to xAPIC", "wrmsr", GP0, into + base + xapic),
        row("x2APIC to off", "wrmsr", RUNS, into + base + off),
        row("off to x2APIC", "wrmsr", GP0, base + off + "wrmsr\n" + base + x2apic),
        row("off to xAPIC", "wrmsr", RUNS, base + off + "wrmsr\n" + base + xapic),
        row("EXTD without EN", "wrmsr", GP0, base + "and eax, ~0xC00\nor eax, 0x400\n"),
        row("x2APIC: EN cleared alone", "wrmsr", GP0, into + base + "and eax, ~0x800\n"),
        row("APIC_BASE: bit 9", "wrmsr", GP0, base + "or eax, 0x200\n", "SDM 3A 10.4.4"),
        row("APIC_BASE: bit 0", "wrmsr", GP0, base + "or eax, 1\n", "SDM 3A 10.4.4"),
        row("APIC_BASE: bit 63", "wrmsr", GP0, base + "or edx, 0x80000000\n", "SDM 3A 10.4.4"),
    ]
    table = "SDM 3A 10.12.1.2, table 10-6"
    rows += [
        row(f"x2APIC: rdmsr {msr:#x}, {name}", "rdmsr", GP0, f"{into}mov ecx, {msr:#x}", table)
        for msr, name in (
            (0x80B, "EOI, can only be written"),
            (0x83F, "SELF IPI, can only be written"),
            (0x80E, "DFR, which is not there"),
            (0x801, "reserved"),
            (0x831, "reserved"),
            (0x840, "reserved"),
        )
    ]
    rows += [
        row(f"x2APIC: wrmsr {msr:#x}, {name}", "wrmsr", GP0, into + cleared.format(msr, value).removesuffix("wrmsr"), table)
        for msr, name, value in (
            (0x802, "ID, read-only", 0),
            (0x803, "version, read-only", 0),
            (0x80D, "LDR, read-only", 0),
            (0x80A, "PPR, read-only", 0),
            (0x839, "current count, read-only", 0),
            (0x808, "TPR, bit 8", 0x100),
            (0x80B, "EOI, not 0", 1),
            (0x828, "ESR, not 0", 1),
            (0x83F, "SELF IPI, bit 8", 0x140),
            (0x80E, "DFR, which is not there", 0),
            (0x832, "LVT timer, bit 20", 0x100000),
            (0x80F, "SVR, bit 13", 0x2000),
        )
    ]
    rows += [
        row(f"xAPIC mode: rdmsr {msr:#x}", "rdmsr", GP0, f"mov ecx, {msr:#x}", "SDM 3A 10.12.2")
        for msr in (0x802, 0x808, 0x830, 0x83F)
    ]
    rows += [
        row("x2APIC: LDR follows from the ID",
            "mov ecx, 0x802\nrdmsr\nmov esi, eax\nmov ecx, 0x80D\nrdmsr\nmov ecx, esi\nand ecx, 15\nmov edi, 1\nshl edi, cl\n"
            "shr esi, 4\nshl esi, 16\nor edi, esi\nsub eax, edi",
            runs(rax=0), into, "SDM 3A 10.12.10.2"),
        row("x2APIC: SELF IPI",
            "mov ecx, 0x80F\nmov eax, 0x1FF\nxor edx, edx\nwrmsr\n"
            "mov ecx, 0x83F\nmov eax, 0x47\nwrmsr\n" + WAIT + "sti\nnop", trap(0x47),
            into, "SDM 3A 10.12.11"),
        row("x2APIC: TPR reads 0 after the change", "mov ecx, 0x808\nrdmsr\nnop", runs(rax=0), into, "SDM 3A 10.12.5.1"),
        row("x2APIC: ICR is one MSR of 64 bits",
            "mov ecx, 0x80F\nmov eax, 0x1FF\nxor edx, edx\nwrmsr\nmov ecx, 0x830\nmov eax, 0x40048\nwrmsr\n" + WAIT + "sti\nnop",
            trap(0x48), into, "SDM 3A 10.12.9"),
    ]  # fmt: skip
    return rows


def _legacy() -> list[Row]:
    """PIT and PIC, through LINT0 as ExtINT (virtual wire; SDM vol. 3, 10.5.1)."""
    wire = "mov dword ptr [rbx + 0x350], 0x700\n"
    pic = (
        "mov al, 0x11\nout 0x20, al\nout 0xA0, al\nmov al, 0x68\nout 0x21, al\nmov al, 0x70\nout 0xA1, al\nmov al, 4\n"
        "out 0x21, al\nmov al, 2\nout 0xA1, al\nmov al, 1\nout 0x21, al\nout 0xA1, al\n"
    )
    unmask = "mov al, 0xFE\nout 0x21, al\nmov al, 0xFF\nout 0xA1, al\n"
    pit = "mov al, {mode:#x}\nout 0x43, al\nmov al, {low}\nout 0x40, al\nmov al, {high}\nout 0x40, al\n"
    shut = (
        "mov al, 0xFF\nout 0x21, al\nout 0xA1, al\nmov al, 0x30\nout 0x43, al\nmov al, 0x20\nout 0x20, al\nmov ebx, APIC\n"
        "mov dword ptr [rbx + 0x350], 0x10000\n" + OFF
    )
    one = pit.format(mode=0x30, low=0, high=1)

    def row(name: str, code: str, expected: Expected, manual: str = "Intel 8259A, 8254 data sheets") -> Row:
        return Row(name, manual, code, expected, ON + wire + pic, after=shut)

    return [
        row("PIT mode 0 through the PIC", unmask + one + "sti\n" + LONG, Expected(0x68, rip="")),
        row("PIT mode 0, IRQ 0 masked in the PIC", one + "mov al, 0xFF\nout 0x21, al\nsti\n" + LONG.replace("20000000", "300000"),
            RUNS),
        row("PIC: IRR shows a masked request", "mov al, 0xFF\nout 0x21, al\n" + one + LONG.replace("20000000",
            "3000000") + "\nmov al, 0x0A\nout 0x20, al\nin al, 0x20\nand eax, 1\nnop", runs(rax=1)),
        row("PIT: the status byte says the mode", one + "mov al, 0xE2\nout 0x43, al\nin al, 0x40\nand eax, 0x3F\nnop",
            runs(rax=0x30)),
        row("PIT: a latched count holds still", pit.format(mode=0x34, low=0xFF,
            high=0xFF) + "mov al, 0\nout 0x43, al\nin al, 0x40\nmovzx ecx, al\nin al, 0x40\nmov ch, al\nmov al, 0x34\n"
            "out 0x43, al\ntest ecx, ecx\nsetnz al\nmovzx eax, al\nnop", runs(rax=1)),
        row("PIC: the mask register reads back",
            "mov al, 0xA5\nout 0x21, al\nin al, 0x21\nmovzx eax, al\nmov ecx, eax\nmov al, 0xFF\nout 0x21, al\nmov eax, ecx",
            runs(rax=0xA5)),
    ]  # fmt: skip


def rows() -> list[Row]:
    """All of them."""
    return [*_shadows(), *_priorities(), *_timers(), *_nmis(), *_modes(), *_legacy()]
