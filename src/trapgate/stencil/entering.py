"""Leads from Python into translated code and back, and says what the host's signals do amid it; written as LLVM IR.

`enter` gives the host's MXCSR for the guest's and back, and keeps its stack pointer. `crashed` is a signal handler for what
translated code must never cause: SIGSEGV, SIGBUS, SIGILL, SIGFPE. Python's own handlers would wait for translated code to end, so
this one notes what happened and lets `enter` return as if the code had ended (EXIT_CRASHED). Outside of `enter` there is nothing
to return from: it puts the terminal back, writes the last words, and the process ends with the status of an internal error.
"""

import re
import signal

from trapgate.isa.state import EXIT_CRASHED, offset
from trapgate.isa.vocabulary import TRANSIENTS

SIGNALS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
STATUS = 70  # EX_SOFTWARE of sysexits(3)
_BLANK = "0" * 16  # for a number in hexadecimal
LAST_WORDS = (
    "trapgate: error: internal error: the process crashed outside of translated code; "
    f"signal {_BLANK}, address {_BLANK}, host RIP {_BLANK}, guest RIP {_BLANK}, mode {_BLANK}; report it, with the guest's image\n"
)
_NEAR = 1 << 20  # bytes of stack that translated and native code may use
# In ucontext_t of x86-64 (asm/sigcontext.h): general registers begin at 40, of 8 bytes each.
_RSP, _RIP, _FLAGS, _ERROR, _VECTOR = (40 + 8 * n for n in (15, 16, 17, 19, 20))
_SIGNAL_ADDRESS = 16  # si_addr in siginfo_t
_KEPT_FLAGS = ~(1 << 10 | 1 << 8 | 1 << 18)  # not DF, TF, AC
_PLAIN = "leaq -128(%rsp), %rsp; pushfq; andq $$-262145, (%rsp); popfq; leaq 128(%rsp), %rsp"  # a handler begins with AC as it was
_IOCTL, _WRITE, _EXIT, _TCSETS = 16, 1, 231, 0x5402
_ENTER = """
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse.stmxcsr(ptr)
define dso_local void @enter(ptr %cpu, ptr %code) #1 section ".text.enter" {{
  %guest = getelementptr i8, ptr %cpu, i64 {guest_mxcsr}
  %host = getelementptr i8, ptr %cpu, i64 {host_mxcsr}
  %kept = getelementptr i8, ptr %cpu, i64 {host_stack}
  call void @llvm.x86.sse.stmxcsr(ptr %host)
  call void @llvm.x86.sse.ldmxcsr(ptr %guest)
  %stack = call i64 asm sideeffect "movq %rsp, $0", "=r,~{{memory}}"()
  store volatile i64 %stack, ptr %kept
  call preserve_nonecc void %code(ptr %cpu, {zeros})
  store volatile i64 0, ptr %kept
  call void @llvm.x86.sse.stmxcsr(ptr %guest)
  call void @llvm.x86.sse.ldmxcsr(ptr %host)
  call void @x87_save(ptr %cpu)
  ret void
}}
"""
_CRASHED = """
define dso_local void @hexadecimal(ptr %to, i64 %value) #1 section ".text.hexadecimal" {{
  br label %next
next:
  %at = phi i64 [ 0, %0 ], [ %following, %next ]
  %left = phi i64 [ %value, %0 ], [ %shifted, %next ]
  %nibble = lshr i64 %left, 60
  %shifted = shl i64 %left, 4
  %letter = icmp ugt i64 %nibble, 9
  %base = select i1 %letter, i64 87, i64 48
  %digit = add i64 %nibble, %base
  %byte = trunc i64 %digit to i8
  %place = getelementptr i8, ptr %to, i64 %at
  store volatile i8 %byte, ptr %place
  %following = add i64 %at, 1
  %over = icmp eq i64 %following, 16
  br i1 %over, label %end, label %next
end:
  ret void
}}
define dso_local void @crashed(i32 %signal, ptr %info, ptr %context, ptr %cpu) #1 section ".text.crashed" {{
  call void asm sideeffect "{plain}", "~{{memory}},~{{flags}}"()
{fields}
  %rsp = load i64, ptr %at_rsp
  %rip = load i64, ptr %at_rip
  %address = load i64, ptr %at_address
  %stack = load volatile i64, ptr %at_host_stack
  %used = sub i64 %stack, %rsp
  %near = icmp ult i64 %used, {near}
  %entered = icmp ne i64 %stack, 0
  %inside = and i1 %near, %entered
  br i1 %inside, label %back, label %end
back:
  %vector = load i64, ptr %at_vector
  %error = load i32, ptr %at_error
  store i32 %signal, ptr %at_crash_signal
  store i32 %error, ptr %at_crash_error
  store i64 %vector, ptr %at_crash_vector
  store i64 %address, ptr %at_crash_address
  store i64 %rip, ptr %at_crash_place
  store i32 {reason}, ptr %at_exit_reason
  %return_at = sub i64 %stack, 8
  %return_slot = inttoptr i64 %return_at to ptr
  %return = load i64, ptr %return_slot
  store i64 %stack, ptr %at_rsp
  store i64 %return, ptr %at_rip
  %flags = load i64, ptr %at_flags
  %plain = and i64 %flags, {kept_flags}
  store i64 %plain, ptr %at_flags
  ret void
end:
  %terminal = load i64, ptr %at_crash_terminal
  %text = load i64, ptr %at_crash_text
  %words = inttoptr i64 %text to ptr
  %number = zext i32 %signal to i64
  %guest = load i64, ptr %at_guest_rip
  %mode32 = load i32, ptr %at_mode
  %mode = zext i32 %mode32 to i64
{told}
  %some = icmp ne i64 %terminal, 0
  br i1 %some, label %restore, label %say
restore:
  call i64 asm sideeffect "syscall", {syscall}(i64 {ioctl}, i64 0, i64 {tcsets}, i64 %terminal)
  br label %say
say:
  call i64 asm sideeffect "syscall", {syscall}(i64 {write}, i64 2, i64 %text, i64 {length})
  call i64 asm sideeffect "syscall", {syscall}(i64 {exit}, i64 {status}, i64 0, i64 0)
  unreachable
}}
"""
_NOTED = (
    "host_stack", "crash_signal", "crash_error", "crash_vector", "crash_address", "crash_place", "crash_terminal", "crash_text",
    "mode", "exit_reason",
)  # fmt: skip


def module() -> str:
    """Both functions, as text for LLVM."""
    zeros = ", ".join("i64 0" for _ in TRANSIENTS)
    places = {name: offset(name) for name in ("guest_mxcsr", "host_mxcsr", "host_stack")}
    inside = [("context", name, at) for name, at in (("rsp", _RSP), ("rip", _RIP), ("flags", _FLAGS), ("error", _ERROR))]
    inside += [("context", "vector", _VECTOR), ("info", "address", _SIGNAL_ADDRESS)]
    inside += [("cpu", name, offset(name)) for name in _NOTED]
    inside.append(("cpu", "guest_rip", offset("rip")))
    blanks = [found.start() for found in re.finditer(_BLANK, LAST_WORDS)]
    told = [
        f"  %blank{at} = getelementptr i8, ptr %words, i64 {at}\n  call void @hexadecimal(ptr %blank{at}, i64 %{value})"
        for at, value in zip(blanks, ("number", "address", "rip", "guest", "mode"), strict=True)
    ]
    crashed = _CRASHED.format(
        told="\n".join(told), length=len(LAST_WORDS),
        fields="\n".join(f"  %at_{name} = getelementptr i8, ptr %{base}, i64 {at}" for base, name, at in inside),
        near=_NEAR, plain=_PLAIN, reason=EXIT_CRASHED, kept_flags=_KEPT_FLAGS,
        ioctl=_IOCTL, tcsets=_TCSETS, write=_WRITE, exit=_EXIT, status=STATUS,
        syscall='"={rax},{rax},{rdi},{rsi},{rdx},~{rcx},~{r11},~{memory}"',
    )  # fmt: skip
    return _ENTER.format(zeros=zeros, **places) + crashed
