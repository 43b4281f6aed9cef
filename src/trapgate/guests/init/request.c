/* The host's request, which comes in at the control port. */
#include "init.h"

static u8 room[MOST_REQUEST] __attribute__((aligned(16)));

static void read_all(u8 *to, u64 size)
{
    while (size) {
        long done = CALL(SYS_read, ports[CONTROL], to, size, 0, 0);
        if (done > 0) {
            to += done;
            size -= done;
        } else if (done == -EAGAIN || done == -EINTR) {
            struct pollfd wait = {ports[CONTROL], POLLIN, 0};
            CALL(SYS_poll, &wait, 1, -1, 0, 0);
        } else {
            fail("the host's request ends too soon", done);
        }
    }
}

struct request *receive(void)
{
    struct request *request = (struct request *)room;
    read_all(room, sizeof *request);
    if (request->length < sizeof *request || request->length > sizeof room)
        fail("the arguments and environment are too long", -EPERM);
    read_all(room + sizeof *request, request->length - sizeof *request);
    return request;
}
