/* Carries bytes and signals between host and program until the program has ended and all that it wrote is out. */
#include "init.h"

enum { FLOWS = 5, LAST_WORDS = 1 << 20 };       /* bytes that are still taken from a stream when the program has ended */

static u64 taken;                               /* bytes of standard input that have come in */

static void shut(int *descriptor)
{
    CALL(SYS_close, *descriptor, 0, 0, 0, 0);
    *descriptor = -1;
}

/* Move what can be moved now; how many bytes came in. */
static u32 move(struct flow *flow, u32 most)
{
    u32 came = 0;
    for (;;) {
        if (flow->begin == flow->end)
            flow->begin = flow->end = 0;
        u32 room = ROOM - flow->end;
        long got = -EAGAIN;
        if (flow->from >= 0 && room && came < most) {
            got = CALL(SYS_read, flow->from, flow->held + flow->end, room, 0, 0);
            if (got > 0) {
                flow->end += got;
                came += got;
            } else if (got != -EAGAIN && got != -EINTR) {
                flow->from = -1;                /* a port stays open; a pipe has nobody at its other end */
            }
        }
        long put = -EAGAIN;
        if (flow->to >= 0 && flow->begin < flow->end) {
            put = CALL(SYS_write, flow->to, flow->held + flow->begin, flow->end - flow->begin, 0, 0);
            if (put > 0)
                flow->begin += put;
            else if (put == -EPIPE)
                shut(&flow->to);
        }
        if (flow->to < 0)
            flow->begin = flow->end = 0;
        if (got <= 0 && put <= 0)
            return came;
    }
}

static void obey(int child, struct flow *flows, int terminal)
{
    struct order order;
    while (CALL(SYS_read, ports[CONTROL], &order, sizeof order, 0, 0) == sizeof order) {
        struct winsize size = {order.value >> 16, order.value & 0xffff, 0, 0};
        switch (order.kind) {
        case SIGNAL:
            CALL(SYS_kill, child, order.value, 0, 0, 0);
            break;
        case SIGNAL_GROUP:
            CALL(SYS_kill, -child, order.value, 0, 0, 0);
            break;
        case RESIZE:
            CALL(SYS_ioctl, terminal, TIOCSWINSZ, &size, 0, 0);
            break;
        case UNREAD:
            if (order.value == STDOUT || order.value == STDERR) {
                struct flow *flow = &flows[order.value - STDIN];
                if (flow->from >= 0)
                    shut(&flow->from);
                flow->begin = flow->end = 0;
            }
            break;
        }
    }
}

/* Whether the program has ended; its status. That it was stopped is told. */
static int reap(int child, u32 *ended)
{
    u32 status;
    int found = 0;
    while (CALL(SYS_wait4, child, &status, WNOHANG | WUNTRACED, 0, 0) > 0) {
        if ((status & 0xff) == 0x7f) {
            report(STOPPED, status >> 8 & 0xff, 0, 0);
        } else {
            *ended = status;
            found = 1;
        }
    }
    return found;
}

static void wait_for(struct flow *flows, int signals)
{
    struct pollfd waits[2 + 2 * FLOWS];
    int count = 0;
    waits[count++] = (struct pollfd){ports[CONTROL], POLLIN, 0};
    waits[count++] = (struct pollfd){signals, POLLIN, 0};
    for (int number = 0; number < FLOWS; number++) {
        struct flow *flow = &flows[number];
        if (flow->from >= 0 && flow->end < ROOM)
            waits[count++] = (struct pollfd){flow->from, POLLIN, 0};
        if (flow->to >= 0 && flow->begin < flow->end)
            waits[count++] = (struct pollfd){flow->to, POLLOUT, 0};
    }
    CALL(SYS_poll, waits, count, -1, 0, 0);
}

/* How much of standard input the program has taken: the rest is for whoever reads on. */
static void tell_input(struct flow *flow)
{
    u32 waiting = 0;
    if (input >= 0)
        CALL(SYS_ioctl, input, FIONREAD, &waiting, 0, 0);
    u64 used = taken - waiting - (flow->end - flow->begin);
    report(USED, 0, &used, sizeof used);
}

static int readable(int descriptor)
{
    struct pollfd one = {descriptor, POLLIN, 0};
    return descriptor >= 0 && CALL(SYS_poll, &one, 1, 0, 0, 0) > 0 && one.revents & POLLIN;
}

/* What the program left in pipes and terminal, and until the host has taken it. */
static void drain(int child, struct flow *flows, int signals, int terminal)
{
    u32 left[FLOWS] = {0, LAST_WORDS, LAST_WORDS, 0, LAST_WORDS};
    flows[0].from = flows[0].to = flows[3].from = flows[3].to = -1;     /* input */
    for (;;) {
        int some = 0;
        for (int number = 0; number < FLOWS; number++) {
            struct flow *flow = &flows[number];
            u32 came = move(flow, left[number]);
            left[number] -= came < left[number] ? came : left[number];
            if (!left[number] || !readable(flow->from))
                flow->from = -1;
            some |= flow->from >= 0 || flow->begin < flow->end;
        }
        if (!some)
            break;
        wait_for(flows, signals);
        obey(child, flows, terminal);
    }
    for (int port = STDOUT; port < PORTS; port++) {
        struct pollfd sent = {ports[port], POLLOUT, 0};
        CALL(SYS_poll, &sent, 1, -1, 0, 0);
    }
}

u32 serve(int child, struct flow *flows, int terminal)
{
    u64 wanted = 1ul << (SIGCHLD - 1);
    u32 status = 0;
    u8 news[128 * 8];
    int signals = CALL(SYS_signalfd4, -1, &wanted, 8, O_NONBLOCK | O_CLOEXEC, 0);
    if (signals < 0)
        fail("signalfd", signals);
    while (!reap(child, &status)) {
        for (int number = 0; number < FLOWS; number++) {
            struct flow *flow = &flows[number];
            u32 came = move(flow, ROOM);
            if (number == 0) {
                taken += came;
                if (flow->from < 0 && flow->begin == flow->end && flow->to >= 0)
                    shut(&flow->to);            /* the end of input is the program's */
            }
        }
        wait_for(flows, signals);
        CALL(SYS_read, signals, news, sizeof news, 0, 0);
        obey(child, flows, terminal);
    }
    tell_input(&flows[0]);
    drain(child, flows, signals, terminal);
    return status;
}
