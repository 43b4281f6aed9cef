/* The calls, numbers and structures of Linux (x86-64) that the program takes, each by the kernel's name. */
#ifndef LINUX_H
#define LINUX_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

long call5(long number, long a, long b, long c, long d, long e);

#define CALL(number, a, b, c, d, e) call5(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

enum {
    SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_close = 3, SYS_poll = 7, SYS_rt_sigaction = 13, SYS_rt_sigprocmask = 14,
    SYS_ioctl = 16, SYS_dup2 = 33, SYS_nanosleep = 35, SYS_getpid = 39, SYS_socket = 41, SYS_fork = 57, SYS_execve = 59, SYS_wait4 = 61,
    SYS_kill = 62, SYS_fcntl = 72, SYS_fsync = 74, SYS_chdir = 80, SYS_mkdir = 83, SYS_symlink = 88, SYS_fchown = 93, SYS_umask = 95,
    SYS_unlink = 87, SYS_setuid = 105, SYS_setgid = 106, SYS_setpgid = 109, SYS_setsid = 112, SYS_setgroups = 116, SYS_chroot = 161, SYS_sync = 162,
    SYS_mount = 165, SYS_sethostname = 170, SYS_ioperm = 173, SYS_clock_settime = 227, SYS_exit_group = 231, SYS_signalfd4 = 289,
    SYS_pipe2 = 293, SYS_prlimit64 = 302, SYS_finit_module = 313
};

enum { EPERM = 1, ENOENT = 2, EINTR = 4, ENOEXEC = 8, EAGAIN = 11, EACCES = 13, ENOTDIR = 20, EPIPE = 32, ENAMETOOLONG = 36 };
enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0100, O_NOCTTY = 0400, O_NONBLOCK = 04000, O_CLOEXEC = 02000000 };
enum { F_SETFL = 4, F_SETPIPE_SZ = 1031 };
enum { MS_RDONLY = 1, MS_NOSUID = 2, MS_NODEV = 4, MS_NOEXEC = 8, MS_MOVE = 8192 };
enum { POLLIN = 1, POLLOUT = 4, POLLERR = 8, POLLHUP = 16 };
enum { SIGHUP = 1, SIGINT = 2, SIGKILL = 9, SIGCHLD = 17, SIGCONT = 18, SIGTTOU = 22, SIGNALS = 64 };
enum { WNOHANG = 1, WUNTRACED = 2, WCONTINUED = 8 };
enum { AF_INET = 2, SOCK_DGRAM = 2, IFF_UP = 1, IFF_RUNNING = 0x40, RTF_UP = 1, RTF_GATEWAY = 2 };
enum { CLOCK_REALTIME = 0, LIMITS = 16 };
enum {
    TCSETS = 0x5402, TIOCSCTTY = 0x540E, TIOCSPGRP = 0x5410, TIOCOUTQ = 0x5411, TIOCSWINSZ = 0x5414, FIONREAD = 0x541B,
    TIOCGPTN = 0x80045430, TIOCSPTLCK = 0x40045431, SIOCADDRT = 0x890B, SIOCGIFFLAGS = 0x8913,
    SIOCSIFFLAGS = 0x8914, SIOCSIFADDR = 0x8916, SIOCSIFNETMASK = 0x891C, SIOCSIFMTU = 0x8922, RNDADDENTROPY = 0x40085203, RNDRESEEDCRNG = 0x5207
};

struct timespec { long seconds, nanoseconds; };
struct pollfd { int fd; short events, revents; };
struct winsize { u16 rows, columns, width, height; };
struct termios { u32 modes[4]; u8 line, characters[19]; };
struct sigaction { void *handler; u64 flags; void (*restorer)(void); u64 mask; };
struct sockaddr_in { u16 family, port; u32 address; char rest[8]; };
struct ifreq { char name[16]; union { short flags; int mtu; struct sockaddr_in address; char rest[24]; }; };
struct rtentry {
    u64 unused; struct sockaddr_in destination, gateway, mask; u16 flags, pad[3]; u64 pads[2]; short metric; char *device; u64 mtu, window; u16 rtt;
};
enum { SIG_BLOCK = 0, SIG_SETMASK = 2 };

#endif
