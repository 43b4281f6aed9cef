/* A C library of which the Nth call of one kind fails: LACK_CALL, LACK_NTH (0: none), LACK_ERRNO; counted from lack_begin() on.
 * LACK_COUNTS names a file in which lie, for every kind in the order of `kinds`, how often it was called (64 bits each).
 * Calls on standard error never fail: what went wrong is to be told there. */
#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <termios.h>
#include <unistd.h>

static const char *const kinds[] = {
    "open", "read", "write", "mmap", "mprotect", "memfd_create", "ftruncate", "pipe", "socket", "socketpair", "bind", "listen",
    "accept", "recv", "send", "poll", "fcntl", "ioctl", "stat", "opendir", "chmod", "unlink", "rename", "mkdir", "fsync",
    "tcgetattr", "tcsetattr", "pthread_create", "malloc", "epoll_create", "eventfd", "timerfd_create", "dup",
    "syscall",
};
enum { KINDS = sizeof kinds / sizeof *kinds, LARGE = 1 << 16 };

static long counts_here[KINDS], *counts = counts_here;
static long nth;
static int armed, failing = -1, number;

void lack_begin(void)
{
    const char *call = getenv("LACK_CALL"), *file = getenv("LACK_COUNTS");
    for (int k = 0; call && k < KINDS; k++)
        if (!strcmp(call, kinds[k])) failing = k;
    nth = getenv("LACK_NTH") ? atol(getenv("LACK_NTH")) : 0;
    number = getenv("LACK_ERRNO") ? atoi(getenv("LACK_ERRNO")) : EIO;
    if (file) {
        int fd = syscall(SYS_open, file, O_RDWR | O_CREAT | O_TRUNC, 0600);
        syscall(SYS_ftruncate, fd, sizeof counts_here);
        counts = (long *)syscall(SYS_mmap, 0, sizeof counts_here, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        syscall(SYS_close, fd);
    }
    armed = 1;
}

/* Whether this call of a kind is the one that fails; errno is set then. */
static int fails(const char *kind)
{
    if (!armed) return 0;
    for (int k = 0; k < KINDS; k++)
        if (kind == kinds[k] || !strcmp(kind, kinds[k])) {
            long now = __atomic_add_fetch(&counts[k], 1, __ATOMIC_RELAXED);
            if (k == failing && now == nth) {
                errno = number;
                return 1;
            }
            return 0;
        }
    return 0;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define WRAP(kind, result, wrong, name, parameters, arguments) \
    result name parameters { REAL(name); return fails(kind) ? wrong : real arguments; }
#define WRAP_FD(kind, result, name, parameters, arguments) \
    result name parameters { REAL(name); return fd != 2 && fails(kind) ? -1 : real arguments; }

#define OPENS(name) int name(const char *path, int flags, ...) { \
    REAL(name); va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
    return fails("open") ? -1 : real(path, flags, mode); }
OPENS(open)
OPENS(open64)
WRAP("open", int, -1, openat, (int at, const char *path, int flags, ...), (at, path, flags, 0600))
WRAP("open", int, -1, openat64, (int at, const char *path, int flags, ...), (at, path, flags, 0600))
WRAP_FD("read", ssize_t, read, (int fd, void *to, size_t n), (fd, to, n))
WRAP_FD("write", ssize_t, write, (int fd, const void *from, size_t n), (fd, from, n))
WRAP("mmap", void *, MAP_FAILED, mmap, (void *a, size_t n, int p, int f, int fd, off_t o), (a, n, p, f, fd, o))
WRAP("mmap", void *, MAP_FAILED, mmap64, (void *a, size_t n, int p, int f, int fd, off64_t o), (a, n, p, f, fd, o))
WRAP("mprotect", int, -1, mprotect, (void *a, size_t n, int p), (a, n, p))
WRAP("memfd_create", int, -1, memfd_create, (const char *name, unsigned flags), (name, flags))
WRAP("ftruncate", int, -1, ftruncate, (int fd, off_t n), (fd, n))
WRAP("ftruncate", int, -1, ftruncate64, (int fd, off64_t n), (fd, n))
WRAP("pipe", int, -1, pipe, (int fds[2]), (fds))
WRAP("pipe", int, -1, pipe2, (int fds[2], int flags), (fds, flags))
WRAP("socket", int, -1, socket, (int a, int b, int c), (a, b, c))
WRAP("socketpair", int, -1, socketpair, (int a, int b, int c, int fds[2]), (a, b, c, fds))
WRAP("bind", int, -1, bind, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n))
WRAP("listen", int, -1, listen, (int fd, int n), (fd, n))
WRAP("accept", int, -1, accept4, (int fd, struct sockaddr *a, socklen_t *n, int f), (fd, a, n, f))
WRAP("recv", ssize_t, -1, recv, (int fd, void *to, size_t n, int f), (fd, to, n, f))
WRAP("send", ssize_t, -1, send, (int fd, const void *from, size_t n, int f), (fd, from, n, f))
WRAP("poll", int, -1, poll, (struct pollfd *fds, nfds_t n, int wait), (fds, n, wait))
#define CONTROLS(name, kind, request) int name(int fd, request what, ...) { \
    REAL(name); va_list more; va_start(more, what); void *value = va_arg(more, void *); va_end(more); \
    return fd != 2 && fails(kind) ? -1 : real(fd, what, value); }
CONTROLS(fcntl, "fcntl", int)
CONTROLS(fcntl64, "fcntl", int)
CONTROLS(ioctl, "ioctl", unsigned long)
WRAP("stat", int, -1, stat, (const char *path, struct stat *to), (path, to))
WRAP("stat", int, -1, lstat, (const char *path, struct stat *to), (path, to))
WRAP_FD("stat", int, fstat, (int fd, struct stat *to), (fd, to))
WRAP("stat", int, -1, stat64, (const char *path, struct stat64 *to), (path, to))
WRAP("stat", int, -1, lstat64, (const char *path, struct stat64 *to), (path, to))
WRAP_FD("stat", int, fstat64, (int fd, struct stat64 *to), (fd, to))
WRAP("opendir", DIR *, NULL, opendir, (const char *path), (path))
WRAP("chmod", int, -1, chmod, (const char *path, mode_t mode), (path, mode))
WRAP("unlink", int, -1, unlink, (const char *path), (path))
WRAP("rename", int, -1, rename, (const char *from, const char *to), (from, to))
WRAP("mkdir", int, -1, mkdir, (const char *path, mode_t mode), (path, mode))
WRAP("fsync", int, -1, fsync, (int fd), (fd))
WRAP("tcgetattr", int, -1, tcgetattr, (int fd, struct termios *to), (fd, to))
WRAP("tcsetattr", int, -1, tcsetattr, (int fd, int when, const struct termios *from), (fd, when, from))
WRAP("epoll_create", int, -1, epoll_create1, (int flags), (flags))
WRAP("eventfd", int, -1, eventfd, (unsigned value, int flags), (value, flags))
WRAP("timerfd_create", int, -1, timerfd_create, (int clock, int flags), (clock, flags))
WRAP("dup", int, -1, dup, (int fd), (fd))
WRAP("dup", int, -1, dup2, (int fd, int to), (fd, to))
WRAP("dup", int, -1, dup3, (int fd, int to, int flags), (fd, to, flags))

/* Calls that the C library has no function for. */
long syscall(long which, ...)
{
    long a[6];
    REAL(syscall); va_list more; va_start(more, which);
    for (int k = 0; k < 6; k++) a[k] = va_arg(more, long);
    va_end(more);
    return fails("syscall") ? -1 : real(which, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument)
{
    REAL(pthread_create);
    return fails("pthread_create") ? number : real(thread, attributes, body, argument);
}

void *__libc_malloc(size_t size);
void *malloc(size_t size) { return size >= LARGE && fails("malloc") ? NULL : __libc_malloc(size); }
