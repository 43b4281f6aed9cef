/* The first program of the guest of `trapgate exec`: it makes the guest ready, has the host keep the machine as it is then, and,
   in each run that begins there, runs one program of the host and tells how it ended. */
#include "init.h"

int ports[PORTS] = {-1, -1, -1, -1, -1, -1};
static struct flow flows[5];

u32 length_of(const char *text)
{
    u32 length = 0;
    while (text[length])
        length++;
    return length;
}

static void send(const u8 *data, u32 size)
{
    while (size) {
        long done = CALL(SYS_write, ports[CONTROL], data, size, 0, 0);
        if (done < 0) {
            struct pollfd wait = {ports[CONTROL], POLLOUT, 0};
            CALL(SYS_poll, &wait, 1, -1, 0, 0);
        } else {
            data += done;
            size -= done;
        }
    }
}

void report(u32 kind, u32 value, const void *data, u32 size)
{
    struct report head = {kind, value, size};
    send((const u8 *)&head, sizeof head);
    send(data, size);
}

void fail(const char *what, long error)
{
    static const char words[] = "trapgate init: ";
    if (ports[CONTROL] >= 0) {
        report(FAILED, -error, what, length_of(what));
        for (;;)
            CALL(SYS_poll, 0, 0, -1, 0, 0);
    }
    CALL(SYS_write, 2, words, sizeof words - 1, 0, 0);
    CALL(SYS_write, 2, what, length_of(what), 0, 0);
    CALL(SYS_write, 2, "\n", 1, 0, 0);
    CALL(SYS_exit_group, 1, 0, 0, 0, 0);
    __builtin_unreachable();
}

int main(long *stack)
{
    boot((char **)stack + 2);
    struct request *request = receive();
    settle(request);
    int terminal;
    int child = start(request, flows, &terminal);
    u32 status = serve(child, flows, terminal);
    if (request->writes)
        CALL(SYS_sync, 0, 0, 0, 0, 0);
    u32 killed = status & 0x7f;
    report(killed ? KILLED : EXITED, killed ? killed : status >> 8 & 0xff, 0, 0);
    for (;;)
        CALL(SYS_poll, 0, 0, -1, 0, 0);
}
