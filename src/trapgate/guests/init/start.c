/* Starts the program: its streams, its identity, its limits, and where it is found. */
#include "init.h"

enum { PIPE_SIZE = 1 << 20, MOST_VECTOR = 1 << 17, LONGEST_PATH = 4096 };

int input = -1;
static char *vector[MOST_VECTOR];       /* arguments and environment, each with a null pointer behind it */

struct started { char *directory, **arguments, **environment; };

static struct started unpacked(struct request *request)
{
    struct started found;
    char *text = (char *)(request + 1) + sizeof(u32) * request->groups;
    text += length_of(text) + 1;        /* the host's name */
    text += length_of(text) + 1;        /* the resolver */
    found.directory = text;
    for (u32 number = 0; number <= request->writes; number++)
        text += length_of(text) + 1;
    if ((u64)request->arguments + request->variables + 3 > MOST_VECTOR)
        fail("there are too many arguments and variables", -EPERM);
    char **at = vector + 1;             /* in front is room for a shell */
    found.arguments = at;
    for (u32 number = 0; number < request->arguments; number++, text += length_of(text) + 1)
        *at++ = text;
    *at++ = 0;
    found.environment = at;
    for (u32 number = 0; number < request->variables; number++, text += length_of(text) + 1)
        *at++ = text;
    *at = 0;
    return found;
}

static void make_pipe(int ends[2])
{
    long error = CALL(SYS_pipe2, ends, O_CLOEXEC, 0, 0, 0);
    if (error)
        fail("a pipe", error);
    CALL(SYS_fcntl, ends[1], F_SETPIPE_SZ, PIPE_SIZE, 0, 0);
}

static void into(struct flow *flow, int from, int to)
{
    flow->from = from;
    flow->to = to;
    CALL(SYS_fcntl, from, F_SETFL, O_NONBLOCK, 0, 0);
    CALL(SYS_fcntl, to, F_SETFL, O_NONBLOCK, 0, 0);
}

/* A pseudo-terminal like the host's; the program's end. */
static int make_terminal(struct request *request, int *master)
{
    static char name[] = "/dev/pts/00000";
    int unlock = 0, number = 0;
    *master = CALL(SYS_open, "/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK, 0, 0, 0);
    if (*master < 0)
        fail("/dev/pts/ptmx", *master);
    CALL(SYS_ioctl, *master, TIOCSPTLCK, &unlock, 0, 0);
    CALL(SYS_ioctl, *master, TIOCGPTN, &number, 0, 0);
    char *digit = name + sizeof "/dev/pts/" - 1;
    if (number > 9)
        *digit++ = '0' + number / 10;
    *digit++ = '0' + number % 10;
    *digit = 0;
    int slave = CALL(SYS_open, name, O_RDWR | O_CLOEXEC | O_NOCTTY, 0, 0, 0);
    if (slave < 0)
        fail(name, slave);
    CALL(SYS_ioctl, slave, TCSETS, &request->modes, 0, 0);
    CALL(SYS_ioctl, *master, TIOCSWINSZ, &request->size, 0, 0);
    CALL(SYS_fchown, slave, request->uid, 5, 0, 0);
    CALL(SYS_ioctl, slave, TIOCSCTTY, 0, 0, 0);
    return slave;
}

/* The program's end of a standard stream. */
static int make_stream(u32 where, int number, struct flow *flow, int terminal, int first_output)
{
    int ends[2];
    switch (where) {
    case TO_TERMINAL:
        return terminal;
    case TO_STDOUT:
        return first_output;
    case TO_NOTHING:
        return -1;
    case TO_NULL:
        return CALL(SYS_open, "/dev/null", O_RDWR | O_CLOEXEC, 0, 0, 0);
    }
    make_pipe(ends);
    if (number) {
        into(flow, ends[0], ports[STDIN + number]);
        return ends[1];
    }
    into(flow, ports[STDIN], ends[1]);
    return input = ends[0];
}

/* execve, and what a shell does with a file that has no format the kernel knows. */
static long execute(char *path, struct started *program)
{
    long error = CALL(SYS_execve, path, program->arguments, program->environment, 0, 0);
    if (error == -ENOEXEC) {
        program->arguments[-1] = "/bin/sh";
        program->arguments[0] = path;
        CALL(SYS_execve, "/bin/sh", program->arguments - 1, program->environment, 0, 0);
    }
    return error;
}

static char *variable(char **environment, const char *name)
{
    u32 length = length_of(name);
    for (; *environment; environment++) {
        u32 at = 0;
        while (at < length && (*environment)[at] == name[at])
            at++;
        if (at == length)
            return *environment + length;
    }
    return 0;
}

/* As execvp(3) finds it; the reason why it was not to be had. */
static long search(struct started *program)
{
    static char path[2 * LONGEST_PATH];
    char *name = program->arguments[0], *places = variable(program->environment, "PATH=");
    u32 length = length_of(name);
    long worst = -ENOENT;
    for (char *letter = name; *letter; letter++)
        if (*letter == '/')
            return execute(name, program);
    if (!length || length >= LONGEST_PATH)
        return length ? -ENAMETOOLONG : -ENOENT;
    if (!places)
        places = "/bin:/usr/bin";
    for (char *place = places;; place++) {
        u32 size = 0;
        while (*place && *place != ':' && size < LONGEST_PATH - 1)
            path[size++] = *place++;
        if (size)
            path[size++] = '/';
        for (u32 at = 0; at <= length; at++)
            path[size + at] = name[at];
        long error = execute(path, program);
        if (error == -EACCES)
            worst = error;
        else if (error != -ENOENT && error != -ENOTDIR)
            return error;
        if (!*place)
            return worst;
    }
}

static long become(struct request *request, struct started *program, int streams[3], int terminal)
{
    CALL(SYS_setpgid, 0, 0, 0, 0, 0);
    if (terminal >= 0) {                /* SIGTTOU is blocked, or it would stop us here */
        int group = CALL(SYS_getpid, 0, 0, 0, 0, 0);
        CALL(SYS_ioctl, terminal, TIOCSPGRP, &group, 0, 0);
    }
    for (int number = 1; number <= SIGNALS; number++) {
        struct sigaction action = {(void *)(request->ignored >> (number - 1) & 1), 0, 0, 0};
        CALL(SYS_rt_sigaction, number, &action, 0, 8, 0);
    }
    for (int number = 0; number < 3; number++)
        if (streams[number] < 0)        /* the program's next file gets its number, as it would on the host */
            CALL(SYS_close, number, 0, 0, 0, 0);
        else
            CALL(SYS_dup2, streams[number], number, 0, 0, 0);
    for (int number = 0; number < LIMITS; number++)
        CALL(SYS_prlimit64, 0, number, request->limits[number], 0, 0);
    CALL(SYS_umask, request->umask, 0, 0, 0, 0);
    long error = CALL(SYS_setgroups, request->groups, request + 1, 0, 0, 0);
    if (!error)
        error = CALL(SYS_setgid, request->gid, 0, 0, 0, 0);
    if (!error)
        error = CALL(SYS_setuid, request->uid, 0, 0, 0, 0);
    CALL(SYS_rt_sigprocmask, SIG_SETMASK, &request->blocked, 0, 8, 0);
    return error ? error : search(program);
}

int start(struct request *request, struct flow *flows, int *master)
{
    struct started program = unpacked(request);
    int streams[3], told[2], terminal = -1, reason = 0;
    u64 blocked = 1ul << (SIGCHLD - 1) | 1ul << (SIGTTOU - 1);
    CALL(SYS_rt_sigprocmask, SIG_BLOCK, &blocked, 0, 8, 0);
    for (int number = 0; number < 5; number++)
        flows[number].from = flows[number].to = -1;
    *master = -1;
    for (int number = 0; number < 3; number++)
        if (request->streams[number] == TO_TERMINAL && terminal < 0)
            terminal = make_terminal(request, master);
    for (int number = 0; number < 3; number++)
        streams[number] = make_stream(request->streams[number], number, &flows[number], terminal, streams[1]);
    if (terminal >= 0) {
        into(&flows[3], ports[TERMINAL], *master);
        into(&flows[4], *master, ports[TERMINAL]);
    }
    make_pipe(told);
    long error = CALL(SYS_chdir, program.directory, 0, 0, 0, 0);
    if (error)
        fail("the working directory", error);
    int child = CALL(SYS_fork, 0, 0, 0, 0, 0);
    if (!child) {
        error = become(request, &program, streams, terminal);
        CALL(SYS_write, told[1], &error, sizeof error, 0, 0);
        CALL(SYS_exit_group, 127, 0, 0, 0, 0);
    }
    if (child < 0)
        fail("fork", child);
    CALL(SYS_setpgid, child, child, 0, 0, 0);
    CALL(SYS_close, told[1], 0, 0, 0, 0);
    for (int number = 0; number < 3; number++)
        if (streams[number] != terminal && streams[number] != input && !(number == 2 && streams[2] == streams[1]))
            CALL(SYS_close, streams[number], 0, 0, 0, 0);
    if (CALL(SYS_read, told[0], &error, sizeof error, 0, 0) > 0)
        reason = -error;
    CALL(SYS_close, told[0], 0, 0, 0, 0);
    report(reason ? NOT_STARTED : STARTED, reason ? reason : child, 0, 0);
    return child;
}
