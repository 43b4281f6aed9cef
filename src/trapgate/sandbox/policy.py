"""Says which system calls a run still needs, and what becomes of all others.

What is not named is refused (EPERM); what came to Linux late is missing (ENOSYS), as on an older kernel: libraries know what to do
then. What no library tries, and only somebody would who has taken over the process, ends it. Paths are Landlock's matter
(`landlock`): no filter can read them.
"""

import os
import signal
import stat

from trapgate.sandbox.bpf import Action, Check, Row, program
from trapgate.sandbox.calls import NEWEST, NUMBERS
from trapgate.values import dataclass

FILES = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close fsync fdatasync ftruncate
    dup dup2 dup3 pipe pipe2 poll ppoll select pselect6 open openat stat fstat lstat newfstatat statx access faccessat
    faccessat2 readlink readlinkat getcwd getdents getdents64 mkdir mkdirat rename renameat renameat2 unlink unlinkat close_range
"""
MEMORY = "munmap mremap brk madvise membarrier memfd_create"
"""With memfd_create, because libffi sees callbacks of llvmlite's twice where it gets no memory to write and run."""
THREADS = """
    futex set_robust_list rseq set_tid_address sched_yield sched_getaffinity getcpu exit exit_group restart_syscall arch_prctl
    rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait sigaltstack
"""
CHILDREN = "wait4 waitid"
"""Python may have some since stencils were compiled, and waits for them when it ends."""
TIME = "nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times"
FACTS = """
    getpid gettid getppid getpgrp getpgid getsid getuid geteuid getgid getegid getresuid getresgid getrlimit getrusage sysinfo
    uname getrandom
"""
SHARES = "statfs fstatfs"
"""Beside what files take anyway, what a guest asks of a directory that is shared with it; and what it changes there."""
CHANGES = "symlinkat linkat chown utimensat fallocate copy_file_range"
CLIENTS = "accept accept4 recvfrom sendto shutdown getsockname getpeername getsockopt"
"""What a stub does with the socket that listens already, and with those that come from it."""
HOSTILE = """
    execve execveat ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp perf_event_open bpf userfaultfd
    io_uring_setup io_uring_enter io_uring_register init_module finit_module delete_module kexec_load kexec_file_load reboot
    mount umount2 pivot_root chroot unshare setns open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
    swapon swapoff acct settimeofday sethostname setdomainname iopl ioperm modify_ldt personality uselib open_by_handle_at
    add_key request_key keyctl setuid setgid setreuid setregid setgroups setresuid setresgid setfsuid setfsgid
"""

_WRITE_AND_RUN, _RUN = 2 | 4, 4  # PROT_WRITE, PROT_EXEC
_ANONYMOUS = 0x20  # MAP_ANONYMOUS
_THREAD = 0x00010000  # CLONE_THREAD
_NAMES = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: what threads and memory are called
_DESCRIPTORS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, GETFD, SETFD, GETFL, SETFL, DUPFD_CLOEXEC
_KIND, _FILES = 0o170000, (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)  # S_IFMT; no device
_SOCKET, _TCP = 1, 6  # SOL_SOCKET, IPPROTO_TCP
TERMINAL = (0x5401, 0x5402, 0x5403, 0x5404, 0x540B, 0x540F, 0x5413, 0x802C542A, 0x402C542B, 0x402C542C, 0x402C542D)
"""TCGETS, TCSETS, TCSETSW, TCSETSF, TCFLSH, TIOCGPGRP, TIOCGWINSZ, and TCGETS2 and its like of newer C libraries.
Not TIOCSTI, which types into the shell."""
FLAGS = (0x541B, 0x5421, 0x5450, 0x5451)  # FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_KVM = Check(1, 0xAE00, 0xFF00)  # KVMIO
_MAKING = (0xAE01, 0xAE41, 0xC00CAEE0)  # KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_CREATE_DEVICE


@dataclass(frozen=True, slots=True)
class Needs:
    """What differs from run to run: `kvm`, a VM; `debugger`, whose stub listens already, and who may have the machine made anew.

    `shares`, directories that are shared with the guest; `writes`, that it may change one of them.
    """

    debugger: bool = False
    kvm: bool = False
    shares: bool = False
    writes: bool = False


def rules(needs: Needs) -> dict[str, tuple[Row, ...]]:
    """What is decided about each call by name, `bpf.program` says how."""
    more = ((CLIENTS, needs.debugger), (SHARES, needs.shares), (CHANGES, needs.writes))
    plain = " ".join((FILES, MEMORY, THREADS, CHILDREN, TIME, FACTS, *(names for names, needed in more if needed))).split()
    found = {
        "ioctl": _ioctl(needs),
        "mmap": (
            Row(Action.REFUSED, (Check(2, _WRITE_AND_RUN, _WRITE_AND_RUN),)),
            Row(Action.REFUSED, (Check(2, _RUN, _RUN), Check(3, _ANONYMOUS, _ANONYMOUS))),
            Row(Action.ALLOW),  # libraries are loaded late
        ),
        "mprotect": (Row(Action.REFUSED, (Check(2, _RUN, _RUN),)), Row(Action.ALLOW)),
        "clone": (Row(Action.ALLOW, (Check(0, _THREAD, _THREAD),)),),
        "fcntl": _any(1, _DESCRIPTORS),
        "prctl": _any(0, _NAMES),
        "kill": _any(0, (os.getpid(),)),
        "tgkill": _any(0, (os.getpid(),)),
        "rt_sigaction": (Row(Action.REFUSED, (Check(0, signal.SIGSYS),)), Row(Action.ALLOW)),  # the last words stay what they are
        "prlimit64": (Row(Action.ALLOW, (Check(2, 0), Check(2, 0, high=True))),),  # without new limits
    }
    if needs.writes:
        found["mknodat"] = tuple(Row(Action.ALLOW, (Check(2, kind, _KIND),)) for kind in _FILES)
        found["chmod"] = Row(Action.REFUSED, (Check(1, stat.S_ISUID, stat.S_ISUID),)), Row(Action.ALLOW)
    if needs.debugger:
        found["setsockopt"] = _any(1, (_SOCKET, _TCP))
    return found | dict.fromkeys(plain, (Row(Action.ALLOW),)) | dict.fromkeys(HOSTILE.split(), (Row(Action.ENDED),))


def _any(argument: int, values: tuple[int, ...]) -> tuple[Row, ...]:
    return tuple(Row(Action.ALLOW, (Check(argument, value),)) for value in values)


def _ioctl(needs: Needs) -> tuple[Row, ...]:
    plain = _any(1, (*FLAGS, *TERMINAL))
    if not needs.kvm:
        return plain
    made = () if needs.debugger else tuple(Row(Action.REFUSED, (Check(1, request),)) for request in _MAKING)
    return (*made, Row(Action.ALLOW, (_KVM,)), *plain)  # first what a vCPU asks for most


def filter_program(needs: Needs) -> bytes:
    """The seccomp filter of a run, for this process."""
    numbered = [(NUMBERS[name], rows) for name, rows in rules(needs).items()]
    return program(numbered, NEWEST, Action.REFUSED, Action.MISSING)
