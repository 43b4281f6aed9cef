/* What a run gets of the host: time, entropy, a name, files. */
#include "init.h"

static void set_clock(struct request *request)
{
    struct timespec now = {request->seconds, request->nanoseconds};
    CALL(SYS_clock_settime, CLOCK_REALTIME, &now, 0, 0, 0);
}

/* All runs begin with the same pool: what is added makes them differ, and is in use at once. */
static void stir(struct request *request)
{
    struct { u32 bits, size; u8 data[ENTROPY]; } added = {8 * ENTROPY, ENTROPY, {0}};
    for (int at = 0; at < ENTROPY; at++)
        added.data[at] = request->entropy[at];
    long pool = CALL(SYS_open, "/dev/urandom", O_RDONLY, 0, 0, 0);
    long error = pool < 0 ? pool : CALL(SYS_ioctl, pool, RNDADDENTROPY, &added, 0, 0);
    if (!error)
        error = CALL(SYS_ioctl, pool, RNDRESEEDCRNG, 0, 0, 0);
    if (error)
        fail("the pool of random bytes", error);
    CALL(SYS_close, pool, 0, 0, 0, 0);
}

static void must(const char *what, long error)
{
    if (error)
        fail(what, error);
}

static void move(const char *from, const char *to)
{
    CALL(SYS_mkdir, to, 0755, 0, 0, 0);
    must(to, CALL(SYS_mount, from, to, 0, MS_MOVE, 0));
}

/* The host's files, a layer in memory over them, and the kernel's own file systems in it, become all that there is. */
static void share_files(struct request *request, char *text, const char *resolver)
{
    static const char layers[] = "lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work,xino=on,index=on";
    static char tag[] = "write0";
    must("the host's files", CALL(SYS_mount, "root", "/lower", "virtiofs", MS_RDONLY, 0));
    must("the layer over the host's files", CALL(SYS_mount, "overlay", "/root", "overlay", 0, layers));
    move("/dev", "/root/dev");
    move("/proc", "/root/proc");
    move("/sys", "/root/sys");
    must("/root", CALL(SYS_chdir, "/root", 0, 0, 0, 0));
    must("the new root", CALL(SYS_mount, ".", "/", 0, MS_MOVE, 0));
    must("the new root", CALL(SYS_chroot, ".", 0, 0, 0, 0));
    must("/", CALL(SYS_chdir, "/", 0, 0, 0, 0));
    if (*resolver)
        write_resolver(resolver);           /* into the layer: what is mounted below is the host's */
    for (u32 number = 0; number < request->writes; number++) {
        tag[sizeof tag - 2] = '0' + number;
        must(text, CALL(SYS_mount, tag, text, "virtiofs", 0, 0));
        text += length_of(text) + 1;
    }
}

void settle(struct request *request)
{
    set_clock(request);
    stir(request);
    char *name = (char *)(request + 1) + sizeof(u32) * request->groups;
    CALL(SYS_sethostname, name, length_of(name), 0, 0, 0);
    char *resolver = name + length_of(name) + 1;
    char *directory = resolver + length_of(resolver) + 1;
    if (request->address)
        connect(request);
    if (request->share)
        share_files(request, directory + length_of(directory) + 1, resolver);
}
