"""Makes system calls and returns from them, in every mode: SYSCALL, SYSRET, SYSENTER, SYSEXIT. No descriptor is read.

Sources: SDM vol. 2 under each name; SDM vol. 3, 5.8.7, 5.8.8; APM vol. 2, 6.1; APM vol. 3. Which modes and vendors have them, and
what EFER.SCE refuses, is seen to before a rule.
"""

from trapgate.arch.control import CR0_PE, EFER_LMA, EFER_SCE
from trapgate.arch.flags import FIXED, IF, RF, STATUS, SYSRET, VM
from trapgate.isa import flags, modes
from trapgate.isa import state as s
from trapgate.isa.native.mode import has
from trapgate.isa.native.segments import is_canonical, level
from trapgate.isa.rules.loading import follow_long, is_null, put
from trapgate.isa.rules.reading import HARD, Reading
from trapgate.isa.vocabulary import Operand, Trace, Value

FLAT = 0xFFFFFFFF  # the limit of a segment of 4 GiB
CODE64, CODE32, DATA = 0xA09B, 0xC09B, 0xC093  # attributes of the flat segments that system calls load, DPL 0
DPL3 = 3 << 5


def _put_flat(m: Trace, name: str, selector: Value, attributes: Operand) -> None:
    rights = s.READABLE if name == "cs" else s.READABLE | s.WRITABLE
    put(m, name, selector & 0xFFFF, m.const(0, 64), m.const(FLAT, 64), m.lift(attributes, 64) | rights)


def _put_flags(m: Trace, value: Value) -> None:
    flags.write(m, value)
    m.put("rflags", (value & ~m.const(STATUS, 64)) | FIXED)


def _old_flags(m: Trace) -> Value:
    return m.get("rflags", 64) | flags.read(m) | FIXED


def system_call(r: Reading) -> None:
    """system_call(): SYSCALL; `next_rip` is where it goes on."""
    m = r.m
    with m.when(~has(m.get("efer", 64), EFER_SCE), likely=False):
        m.result(HARD)
    old, following, selector = _old_flags(m), m.get("next_rip", 64), (m.get("star", 64) >> 32) & 0xFFFC
    with m.when(has(m.get("efer", 64), EFER_LMA)):
        m.put("rcx", following)
        m.put("r11", old & ~m.const(RF, 64))
        m.put("next_rip", has(m.get("mode", 32), modes.CODE64).select(m.get("lstar", 64), m.get("cstar", 64)))
        _put_flags(m, old & ~m.get("sfmask", 64) & ~m.const(RF, 64))
        _put_flat(m, "cs", selector, CODE64)
        _put_flat(m, "ss", selector + 8, DATA)
        follow_long(m, m.const(0, 64))
        r.done()
    m.put("rcx", following & FLAT)
    m.put("next_rip", m.get("star", 64) & FLAT)
    _put_flags(m, old & ~m.const(VM | IF | RF, 64))
    _put_flat(m, "cs", selector, CODE32)
    _put_flat(m, "ss", selector + 8, DATA)
    m.call("follow_mode", 0)
    r.done()


def system_return(r: Reading, wide: bool, amd: bool) -> None:
    """system_return(): SYSRET, to 64-bit code where `wide`.

    A target that is not canonical raises #GP(0) before anything changes on Intel, at CPL 3 from the target on AMD. AMD's load the
    selector of SS as STAR has it, and leave the rest of SS alone (APM vol. 3, SYSRET); Intel's make it flat, with RPL 3.
    """
    m = r.m
    with m.when(~has(m.get("efer", 64), EFER_SCE), likely=False):
        m.result(HARD)
    target, base = m.get("rcx", 64) if wide else m.get("rcx", 64) & FLAT, m.get("star", 64) >> 48
    refused = level(m) != 0
    if wide and not amd:
        refused = refused | ~is_canonical(target)
    with m.when(refused, likely=False):
        r.gp()
    long = has(m.get("efer", 64), EFER_LMA)
    with m.when(long):
        _put_flags(m, m.get("r11", 64) & SYSRET)
    with m.otherwise():
        m.put("rflags", m.get("rflags", 64) | IF)
    _put_flat(m, "cs", (base + 16 if wide else base) | 3, (CODE64 if wide else CODE32) | DPL3)
    if amd:
        m.put("ss_selector", (base + 8) & 0xFFFF)
    else:
        _put_flat(m, "ss", (base + 8) | 3, DATA | DPL3)
    m.put("next_rip", target)
    if wide:
        follow_long(m, m.const(3, 64))
    else:
        m.call("follow_mode", 0)
    r.done()


def _fast_selector(r: Reading) -> Value:
    """SYSENTER_CS, where it lets SYSENTER and SYSEXIT be; AMD's have neither in long mode."""
    m = r.m
    (amd,) = m.arguments
    with m.when((amd != 0) & has(m.get("efer", 64), EFER_LMA), likely=False):
        m.result(HARD)
    selector = m.get("sysenter_cs", 64) & 0xFFFC
    with m.when(~has(m.get("cr0", 64), CR0_PE) | is_null(selector), likely=False):
        r.gp()
    return selector


def fast_call(r: Reading) -> None:
    """fast_call(AMD?): SYSENTER."""
    m = r.m
    selector, long = _fast_selector(r), has(m.get("efer", 64), EFER_LMA)
    cut = long.select(m.const(-1, 64), m.const(FLAT, 64))
    m.put("rflags", m.get("rflags", 64) & ~m.const(VM | IF | RF, 64))
    m.put("rsp", m.get("sysenter_esp", 64) & cut)
    m.put("next_rip", m.get("sysenter_eip", 64) & cut)
    _put_flat(m, "cs", selector, long.select(m.const(CODE64, 64), m.const(CODE32, 64)))
    _put_flat(m, "ss", selector + 8, DATA)
    m.call("follow_mode", 0)
    r.done()


def fast_return(r: Reading, wide: bool) -> None:
    """fast_return(AMD?): SYSEXIT, to RDX with the stack RCX, at CPL 3; to 64-bit code where `wide`."""
    m = r.m
    selector = _fast_selector(r)
    rip, rsp = m.get("rdx", 64), m.get("rcx", 64)
    refused = level(m) != 0
    if wide:
        refused = refused | ~is_canonical(rip) | ~is_canonical(rsp)
    with m.when(refused, likely=False):
        r.gp()
    code = selector + (32 if wide else 16)
    _put_flat(m, "cs", code | 3, (CODE64 if wide else CODE32) | DPL3)
    _put_flat(m, "ss", (code + 8) | 3, DATA | DPL3)
    m.put("next_rip", rip if wide else rip & FLAT)
    m.put("rsp", rsp if wide else rsp & FLAT)
    m.call("follow_mode", 0)
    r.done()
