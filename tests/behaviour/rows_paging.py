"""Rows: paging. Rights, presence and reserved bits of every level, accessed and dirty bits, what an invalidation must do.

`page_fault_of` is the manual's rule, written once more and apart from any CPU (SDM vol. 3, 4.6.1 and 4.7).
"""

from itertools import product

from behaviour.row import RUNS, Expected, Row, gp, page_fault, runs

P, W, U, RSVD, FETCH = 1, 2, 4, 8, 16
LEVELS = {"PML4E": "pml4 + 8", "PDPTE": "pdpt_w", "PDE": "pd_w", "PTE": "pt_w"}
NX = 1 << 63
AT_WIN = "movabs rbx, WIN"
UD2_THERE = "mov word ptr [win_frames], 0x0B0F"
ACCESS = {"read": "mov al, [rbx]", "write": "mov [rbx], al", "fetch": "jmp rbx"}


def page_fault_of(
    access: str,
    cpl: int,
    *,
    user: bool,
    write: bool,
    nx: bool,
    wp: bool = True,
    smep: bool = False,
    smap: bool = False,
    ac: bool = False,
) -> int | None:
    """The error code of an access to a present page with these rights, or None when it is allowed (4.6.1)."""
    if cpl == 3:
        allowed = user and (access != "write" or write) and (access != "fetch" or not nx)
    elif access == "fetch":
        allowed = not nx and not (smep and user)
    else:
        allowed = not (user and smap and not ac) and (access == "read" or write or not wp)
    return None if allowed else P | _kind(access, cpl)


def _kind(access: str, cpl: int) -> int:
    """Error-code bits that tell what was tried; I/D exists while EFER.NXE or CR4.SMEP is 1 (4.7)."""
    return (W if access == "write" else 0) | (U if cpl == 3 else 0) | (FETCH if access == "fetch" else 0)


def _expected(access: str, error: int | None) -> Expected:
    if error is None:
        return runs("WIN") if access == "fetch" else RUNS
    return page_fault(error, "WIN", "WIN" if access == "fetch" else "@at")


def _control(wp: bool, smep: bool, smap: bool) -> list[str]:
    lines = [] if wp else ["clear_cr 0, 0x10000"]
    return [*lines, *(["or_cr 4, 0x100000"] if smep else []), *(["or_cr 4, 0x200000"] if smap else [])]


def _rights() -> list[Row]:
    rows = []
    supervisor = {
        "read": [(True, False, smap, ac) for smap, ac in ((False, False), (True, False), (True, True))],
        "write": [(wp, False, smap, ac) for wp in (True, False) for smap, ac in ((False, False), (True, False), (True, True))],
        "fetch": [(True, smep, False, False) for smep in (False, True)],
    }
    for access, cpl, (user, write, nx) in product(ACCESS, (0, 3), list(product((False, True), repeat=3))):
        for wp, smep, smap, ac in supervisor[access] if cpl == 0 else [(True, False, False, False), (False, True, True, False)]:
            named = {"WP": wp, "SMEP": smep, "SMAP": smap, "AC": ac}
            entry = f"offset win_frames + {P | (W if write else 0) | (U if user else 0)}"
            setup = [AT_WIN, UD2_THERE, f"mov dword ptr [pt_w], {entry}", *(["mov dword ptr [pt_w + 4], 0x80000000"] if nx else [])]
            error = page_fault_of(access, cpl, user=user, write=write, nx=nx, wp=wp, smep=smep, smap=smap, ac=ac)
            bits = f"U/S {user:d} R/W {write:d} XD {nx:d}, " + " ".join(name for name, on in named.items() if on)
            rows.append(
                Row(f"paging: {access} at CPL {cpl}, {bits.strip(', ')}", "SDM 3A 4.6.1, 4.7", ACCESS[access],
                    _expected(access, error), "\n".join([*setup, *_control(wp, smep, smap)]), f"long{cpl}",
                    "AC" if ac else "0", tuple(one for one, on in (("smep", smep), ("smap", smap)) if on))
            )  # fmt: skip
    return rows


def _levels() -> list[Row]:
    """A right that one level withholds is withheld (4.6.1); an entry that is not present ends the walk with P = 0 (4.7)."""
    changes = {"P": (1, 0), "R/W": (2, 0), "U/S": (4, 0), "XD": (0, NX)}
    rows = []
    for (level, place), (bit, (clear, sets)), access, cpl in product(LEVELS.items(), changes.items(), ACCESS, (0, 3)):
        setup = [AT_WIN, UD2_THERE]
        if clear:
            setup.append(f"and qword ptr [{place}], ~{clear}")
        if sets:
            setup.append(f"mov dword ptr [{place} + 4], 0x80000000")
        if bit == "P":
            error: int | None = _kind(access, cpl)
        else:
            error = page_fault_of(access, cpl, user=bit != "U/S", write=bit != "R/W", nx=bit == "XD")
        rows.append(
            Row(f"paging: {access} at CPL {cpl}, {level}.{bit} {1 if sets else 0}", "SDM 3A 4.6.1, 4.7", ACCESS[access],
                _expected(access, error), "\n".join(setup), f"long{cpl}")
        )  # fmt: skip
    return rows


def _reserved() -> list[Row]:
    rows = []

    def add(name: str, setup: str, needs: tuple[str, ...] = (), *, nxe: bool = True) -> None:
        for access, cpl in (("read", 0), ("write", 3), ("fetch", 0)):
            error = P | RSVD | _kind(access, cpl) & ~(0 if nxe else FETCH)
            title = f"paging: {access} at CPL {cpl}, {name}"
            rows.append(
                Row(
                    title,
                    "SDM 3A 4.5.4, 4.7",
                    ACCESS[access],
                    _expected(access, error),
                    f"{AT_WIN}\n{setup}",
                    f"long{cpl}",
                    "0",
                    needs,
                )
            )

    for level, place in LEVELS.items():
        add(f"bit 51 of the {level}", f"or dword ptr [{place} + 4], 0x80000")
        add(f"XD of the {level} while NXE is 0", f"or dword ptr [{place} + 4], 0x80000000\nwrmsr64 0xC0000080, 0x101", nxe=False)
        setup = f"{AT_WIN}\nmov dword ptr [{place}], 6\nmov dword ptr [{place} + 4], 0x80080000"
        rows.append(
            Row(f"paging: {level} not present, reserved bits set", "SDM 3A 4.7", ACCESS["read"], page_fault(0, "WIN"), setup)
        )
        setup = f"{AT_WIN}\nor dword ptr [{place} + 4], 0x7FF00000"
        rows.append(Row(f"paging: bits 62:52 of the {level} are ignored", "SDM 3A 4.5.4", ACCESS["read"], RUNS, setup))
    add("PS of the PML4E", "or dword ptr [pml4 + 8], 0x80")
    add("bit 13 of a PDE of 2 MiB", "mov dword ptr [pd_w], 0x2087")
    add("bit 20 of a PDE of 2 MiB", "mov dword ptr [pd_w], 0x100087")
    add("bit 13 of a PDPTE of 1 GiB", "mov dword ptr [pdpt_w], 0x2087", ("1gb",))
    add("bit 29 of a PDPTE of 1 GiB", "mov dword ptr [pdpt_w], 0x20000087", ("1gb",))
    return rows


def _accessed_dirty() -> list[Row]:
    manual = "SDM 3A 4.8"
    flags = {f"[{place}]&0x60": 0x20 for place in LEVELS.values()}
    written = {**flags, "[pt_w]&0x60": 0x60}
    untouched_leaf = {"[pt_w]&0x60": 0}
    rows = []
    for cpl in (0, 3):
        mode = f"long{cpl}"
        rows += [
            Row(f"A/D: a read at CPL {cpl} sets A at every level, no D", manual, ACCESS["read"], runs(**flags), AT_WIN, mode),
            Row(f"A/D: a write at CPL {cpl} sets D in the leaf alone", manual, ACCESS["write"], runs(**written), AT_WIN, mode),
            Row(
                f"A/D: a fetch at CPL {cpl} sets A",
                manual,
                ACCESS["fetch"],
                runs("WIN", **flags),
                f"{AT_WIN}\n{UD2_THERE}",
                mode,
            ),
            Row(
                f"A/D: a write behind a read at CPL {cpl} sets D",
                manual,
                "mov al, [rbx]\nmov [rbx], al",
                runs(**written),
                AT_WIN,
                mode,
            ),
        ]
    refused = "and dword ptr [pt_w], ~2"
    user = "and dword ptr [pt_w], ~4"
    big = {"[pml4 + 8]&0x60": 0x20, "[pdpt_w]&0x60": 0x20, "[pd_w]&0x60": 0x60}
    return [
        *rows,
        Row("A/D: a write that R/W refuses sets no D", manual, ACCESS["write"], page_fault(P | W, "WIN", **{"[pt_w]&0x40": 0}),
            f"{AT_WIN}\n{refused}"),
        Row("A/D: a write that U/S refuses sets no D", manual, ACCESS["write"], page_fault(7, "WIN", **{"[pt_w]&0x40": 0}),
            f"{AT_WIN}\n{user}", "long3"),
        Row("A/D: an entry that is not present gets neither", manual, ACCESS["write"], page_fault(W, "WIN", **untouched_leaf),
            f"{AT_WIN}\nand dword ptr [pt_w], ~1"),
        Row("A/D: D in a PDE of 2 MiB", manual, "mov [rbx + 0x1000], al", runs(**big), f"{AT_WIN}\nmov dword ptr [pd_w], 0x800087"),
        Row("A/D: a read-modify-write sets D", manual, "inc byte ptr [rbx]", runs(**written), AT_WIN),
        Row("A/D: CMPXCHG that does not match sets D", "SDM 2A CMPXCHG", "cmpxchg [rbx], ecx", runs(**{"[pt_w]&0x60": 0x60}),
            f"{AT_WIN}\nmov eax, 1"),
        Row("A/D: REP MOVSB with RCX 0 touches nothing", "SDM 2B REP", "rep movsb", runs(**untouched_leaf),
            "movabs rsi, WIN\nmovabs rdi, WIN\nxor ecx, ecx"),
        Row("A/D: INVLPG sets nothing", manual, "invlpg [rbx]", runs(**untouched_leaf), AT_WIN),
        Row("A/D: a PUSH sets D of the stack's page", manual, "push rax", runs(**{"[pt_w]&0x60": 0x60}), rsp="WIN + 0x800"),
        Row("A/D: a POP sets A alone", manual, "pop rax", runs(**{"[pt_w + 8]&0x60": 0x20}),
            "mov dword ptr [pt_w], offset win_frames + 7",
            rsp="WIN + 0x1800", mode="long3"),
        Row("A/D: A is set again when software cleared it and invalidated", manual, ACCESS["read"], runs(**flags),
            f"{AT_WIN}\nmov al, [rbx]\n"
            + "\n".join(f"and dword ptr [{place}], ~0x20" for place in LEVELS.values()) + "\ninvlpg [rbx]"),
        Row("A/D: D is set again when software cleared it and invalidated", manual, ACCESS["write"], runs(**written),
            f"{AT_WIN}\nmov [rbx], al\nand dword ptr [pt_w], ~0x40\ninvlpg [rbx]"),
    ]  # fmt: skip


def _crossing() -> list[Row]:
    gone = f"{AT_WIN}\nand dword ptr [pt_w + 8], ~1"
    first_gone = f"{AT_WIN}\nand dword ptr [pt_w], ~1"
    manual = "SDM 3A 4.7, 6.15 #PF"
    kept = {"[win_frames + 0xFF8]": 0}
    return [
        Row("paging: a read across pages, the second not present", manual, "mov rax, [rbx + 0xFFC]", page_fault(0, "WIN + 0x1000"),
            gone),
        Row("paging: a write across pages, the second not present", manual, "mov [rbx + 0xFFC], rbx", page_fault(W, "WIN + 0x1000",
            **kept), gone),
        Row("paging: a read across pages, the first not present", manual, "mov rax, [rbx + 0xFFC]", page_fault(0, "WIN + 0xFFC"),
            first_gone),
        Row("paging: a write across pages at CPL 3, the second read-only", manual, "mov [rbx + 0xFFC], rbx", page_fault(7,
            "WIN + 0x1000", **kept),
            f"{AT_WIN}\nand dword ptr [pt_w + 8], ~2", "long3"),
        Row("paging: an instruction across pages, the second not present", manual, "jmp rcx", page_fault(16, "WIN + 0x1000",
            "WIN + 0xFFE"),
            f"{gone}\nmov word ptr [win_frames + 0xFFE], 0xC081\nlea rcx, [rbx + 0xFFE]"),
        Row("paging: a locked read-modify-write faults as a write", manual, "lock inc dword ptr [rbx]", page_fault(W, "WIN"),
            f"{AT_WIN}\nand dword ptr [pt_w], ~1"),
        Row("paging: a read-modify-write faults as a write", manual, "add [rbx], eax", page_fault(W, "WIN"),
            f"{AT_WIN}\nand dword ptr [pt_w], ~1"),
        Row("paging: CMP faults as a read", manual, "cmp [rbx], eax", page_fault(0, "WIN"), f"{AT_WIN}\nand dword ptr [pt_w], ~1"),
        Row("paging: BT faults as a read", manual, "bt dword ptr [rbx], 3", page_fault(0, "WIN"),
            f"{AT_WIN}\nand dword ptr [pt_w], ~1"),
        Row("paging: BTS faults as a write", manual, "bts dword ptr [rbx], 3", page_fault(W, "WIN"),
            f"{AT_WIN}\nand dword ptr [pt_w], ~1"),
        Row("paging: XCHG faults as a write", manual, "xchg [rbx], eax", page_fault(W, "WIN"),
            f"{AT_WIN}\nand dword ptr [pt_w], ~1"),
        Row("paging: REP STOSB stops at the page that is not present", manual, "rep stosb",
            page_fault(W, "WIN + 0x1000", rcx=0x10, rdi="WIN + 0x1000"), f"{gone}\nlea rdi, [rbx + 0xFF0]\nmov ecx, 0x20"),
        Row("paging: PUSH to a page that is not present", manual, "push rax", page_fault(W, "WIN + 0xFF8", rsp="WIN + 0x1000"),
            "and dword ptr [pt_w], ~1\nist 14, 1", rsp="WIN + 0x1000"),
        Row("paging: a descriptor is read as a supervisor", "SDM 3A 4.6.1", "mov ds, eax", RUNS,
            "segment T0, 0xF3\nmov eax, T0 | 3", "long3"),
        Row("paging: a descriptor on a page that is not present", "SDM 3A 4.7", "mov ds, eax", page_fault(0, "WIN + 8"),
            "and dword ptr [pt_w], ~1\nlldt_at_win\nmov eax, 0xC", "long0"),
        Row("paging: SMAP holds for an implicit access whatever AC is", "SDM 3A 4.6.1", "mov ds, eax", page_fault(P, "WIN + 8"),
            "lldt_at_win\nor_cr 4, 0x200000\nmov eax, 0xC", "long0", "AC", ("smap",)),
        Row("paging: STAC opens user pages", "SDM 2B STAC", "stac\nmov al, [rbx]", RUNS, f"{AT_WIN}\nor_cr 4, 0x200000",
            needs=("smap",)),
        Row("paging: CLAC closes user pages", "SDM 2A CLAC", "clac\nmov al, [rbx]", page_fault(P, "WIN"),
            f"{AT_WIN}\nor_cr 4, 0x200000", "long0",
            "AC", ("smap",)),
    ]  # fmt: skip


def _invalidation() -> list[Row]:
    """What must be gone; that something stays is never promised (SDM vol. 3, 4.10.4)."""
    cached = f"{AT_WIN}\nmov al, [rbx]\nmov [rbx], al\n"
    gone = "mov qword ptr [pt_w], 0\n"
    manual = "SDM 3A 4.10.4.1"
    glob = f"or_cr 4, 0x80\nor dword ptr [pt_w], 0x100\n{cached}{gone}"
    fault = page_fault(0, "WIN")
    reload = "mov rax, cr3\nmov cr3, rax"
    moved = "mov dword ptr [pt_w], offset win_frames + 0x1007\nmov byte ptr [win_frames + 0x1000], 0x5A\n"
    invpcid = "mov qword ptr [scratch], 0\nmov [scratch + 8], rbx\nmov ecx, {}\ninvpcid rcx, [scratch]"
    return [
        Row("TLB: INVLPG drops one page", manual, ACCESS["read"], fault, f"{cached}{gone}invlpg [rbx]"),
        Row("TLB: INVLPG with another offset of the page", manual, ACCESS["read"], fault, f"{cached}{gone}invlpg [rbx + 0xFFF]"),
        Row("TLB: INVLPG drops a global page", manual, ACCESS["read"], fault, f"{glob}invlpg [rbx]"),
        Row("TLB: INVLPG drops a page of 2 MiB wherever it points into it", manual, ACCESS["read"], fault,
            f"{AT_WIN}\nmov dword ptr [pd_w], 0x800087\nmov al, [rbx]\nmov dword ptr [pd_w], 0\ninvlpg [rbx + 0x1FF000]"),
        Row("TLB: MOV to CR3 drops pages that are not global", manual, ACCESS["read"], fault, f"{cached}{gone}{reload}"),
        Row("TLB: clearing CR4.PGE drops global pages", manual, ACCESS["read"], fault, f"{glob}clear_cr 4, 0x80"),
        Row("TLB: setting CR4.PGE drops everything", manual, ACCESS["read"], fault, f"{cached}{gone}or_cr 4, 0x80"),
        Row("TLB: a page that becomes present needs no invalidation", "SDM 3A 4.10.2.3", ACCESS["read"], RUNS,
            f"{AT_WIN}\nand dword ptr [pt_w], ~1\ninvlpg [rbx]\nor dword ptr [pt_w], 1"),
        Row("TLB: CR0.WP holds for cached pages at once", "SDM 3A 4.6.1", ACCESS["write"], page_fault(P | W, "WIN"),
            f"{AT_WIN}\nand dword ptr [pt_w], ~2\nclear_cr 0, 0x10000\nmov [rbx], al\nor_cr 0, 0x10000"),
        Row("TLB: INVLPG and another frame", manual, ACCESS["read"], runs(**{"rax&0xFF": 0x5A}), f"{cached}{moved}invlpg [rbx]"),
        Row("TLB: MOV to CR3 and another frame", manual, ACCESS["read"], runs(**{"rax&0xFF": 0x5A}), f"{cached}{moved}{reload}"),
        Row("TLB: code of a page that went away", manual, ACCESS["fetch"], page_fault(16, "WIN", "WIN"),
            f"{AT_WIN}\nmov byte ptr [win_frames], 0xC3\ncall rbx\n{gone}invlpg [rbx]"),
        Row("TLB: code of another frame", manual, ACCESS["fetch"], runs("WIN + 1"),
            f"{AT_WIN}\nmov byte ptr [win_frames], 0xC3\ncall rbx\n{moved}mov dword ptr [win_frames + 0x1000], 0x0B0F90\n"
                f"invlpg [rbx]"),
        *(Row(f"TLB: INVPCID type {kind}", "SDM 2A INVPCID", ACCESS["read"], fault, cached + gone + invpcid.format(kind),
            needs=("invpcid",))
          for kind in (0, 1, 2, 3)),
        Row("TLB: INVPCID type 2 drops global pages", "SDM 2A INVPCID", ACCESS["read"], fault, glob + invpcid.format(2),
            needs=("invpcid",)),
        Row("INVPCID: type 4", "SDM 2A INVPCID", "invpcid rcx, [scratch]", gp(0), "mov ecx, 4", needs=("invpcid",)),
        Row("INVPCID: reserved bits of the descriptor", "SDM 2A INVPCID", "invpcid rcx, [scratch]", gp(0),
            "mov dword ptr [scratch], 0x1000",
            needs=("invpcid",)),
        Row("INVPCID: an address that is not canonical", "SDM 2A INVPCID", "invpcid rcx, [scratch]", gp(0),
            "mov dword ptr [scratch + 12], 0x8000",
            needs=("invpcid",)),
        Row("INVPCID: a PCID while CR4.PCIDE is 0", "SDM 2A INVPCID", "invpcid rcx, [scratch]", gp(0),
            "mov dword ptr [scratch], 1", needs=("invpcid",)),
        Row("INVPCID at CPL 3", "SDM 2A INVPCID", "invpcid rcx, [user_data]", gp(0), mode="long3", needs=("invpcid",)),
        Row("INVLPG of an address that is not canonical", "SDM 2A INVLPG", "invlpg [rbx]", RUNS, "movabs rbx, NONCANON"),
    ]  # fmt: skip


def rows() -> list[Row]:
    """All of them."""
    return [*_rights(), *_levels(), *_reserved(), *_accessed_dirty(), *_crossing(), *_invalidation()]
