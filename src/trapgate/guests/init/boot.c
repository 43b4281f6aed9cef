/* All that depends on no run: modules, file systems of the kernel's own, the ports, the loopback device. */
#include "init.h"

static void mounted(const char *kind, const char *place, u64 flags, const char *options)
{
    CALL(SYS_mkdir, place, 0755, 0, 0, 0);
    long error = CALL(SYS_mount, kind, place, kind, flags, options);
    if (error)
        fail(kind, error);
}

static void load(const char *module)
{
    long file = CALL(SYS_open, module, O_RDONLY, 0, 0, 0);
    long error = file < 0 ? file : CALL(SYS_finit_module, file, "", 0, 0, 0);
    if (error)
        fail(module, error);
    CALL(SYS_close, file, 0, 0, 0, 0);
}

static void open_ports(void)
{
    static char name[] = "/dev/vport0p0";
    struct timespec moment = {0, 1000000};
    for (int number = 1; number < PORTS; number++) {
        name[sizeof name - 2] = '0' + number;
        for (int attempt = 0; ports[number] < 0; attempt++) {
            ports[number] = CALL(SYS_open, name, O_RDWR | O_NONBLOCK | O_CLOEXEC, 0, 0, 0);
            if (attempt == 3000)
                fail("the console's ports are not there", -ENOENT);
            if (ports[number] < 0)
                CALL(SYS_nanosleep, &moment, 0, 0, 0, 0);
        }
    }
}

static void raise_loopback(void)
{
    struct ifreq request = {"lo", {IFF_UP}};
    long socket = CALL(SYS_socket, AF_INET, SOCK_DGRAM, 0, 0, 0);
    if (socket >= 0) {
        CALL(SYS_ioctl, socket, SIOCSIFFLAGS, &request, 0, 0);
        CALL(SYS_close, socket, 0, 0, 0, 0);
    }
}

/* The process that goes on. The first one only waits for whoever has lost his parent: a terminal does not stop its children. */
static void leave_to_a_child(void)
{
    long child = CALL(SYS_fork, 0, 0, 0, 0, 0);
    if (child < 0)
        fail("fork", child);
    while (child)
        if (CALL(SYS_wait4, -1, 0, 0, 0, 0) == child)
            fail("it has ended", 0);
}

void boot(char **modules)
{
    mounted("devtmpfs", "/dev", MS_NOSUID, "mode=755");
    mounted("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
    mounted("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0);
    mounted("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
    mounted("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
    mounted("tmpfs", "/rw", 0, "mode=755,size=100%");
    CALL(SYS_mkdir, "/rw/upper", 0755, 0, 0, 0);
    CALL(SYS_mkdir, "/rw/work", 0755, 0, 0, 0);
    CALL(SYS_symlink, "/proc/self/fd", "/dev/fd", 0, 0, 0);
    CALL(SYS_symlink, "/proc/self/fd/0", "/dev/stdin", 0, 0, 0);
    CALL(SYS_symlink, "/proc/self/fd/1", "/dev/stdout", 0, 0, 0);
    CALL(SYS_symlink, "/proc/self/fd/2", "/dev/stderr", 0, 0, 0);
    for (; *modules; modules++)
        if (**modules == '/')           /* the kernel passes on its own words as well */
            load(*modules);
    raise_loopback();
    leave_to_a_child();
    open_ports();
    long error = CALL(SYS_setsid, 0, 0, 0, 0, 0);
    if (error < 0)
        fail("setsid", error);
    error = CALL(SYS_ioperm, READY_PORT, 1, 1, 0, 0);
    if (error)
        fail("ioperm", error);
    __asm__ volatile("outb %0, %1" : : "a"((u8)1), "Nd"((u16)READY_PORT) : "memory");
}
