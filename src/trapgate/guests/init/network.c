/* The way to the host's network: the device that passt is behind. Booting has loaded its driver and left it down. */
#include "init.h"

enum { MOMENTS = 2000 };                /* ms for the carrier to be seen */

static long ask(long socket, u32 what, void *request)
{
    return CALL(SYS_ioctl, socket, what, request, 0, 0);
}

static void must(const char *what, long error)
{
    if (error)
        fail(what, error);
}

void connect(struct request *request)
{
    struct ifreq device = {"eth0", {0}};
    struct sockaddr_in nothing = {AF_INET, 0, 0, {0}}, address = nothing;
    struct timespec moment = {0, 1000000};
    struct rtentry route = {.destination = nothing, .gateway = nothing, .mask = nothing, .flags = RTF_UP | RTF_GATEWAY};
    long socket = CALL(SYS_socket, AF_INET, SOCK_DGRAM, 0, 0, 0);
    if (socket < 0)
        fail("a socket", socket);
    device.mtu = request->mtu;
    must("the network device (virtio_net)", ask(socket, SIOCSIFMTU, &device));
    address.address = request->address;
    device.address = address;
    must("the network device's address", ask(socket, SIOCSIFADDR, &device));
    address.address = request->netmask;
    device.address = address;
    must("the network device's mask", ask(socket, SIOCSIFNETMASK, &device));
    must("the network device", ask(socket, SIOCGIFFLAGS, &device));
    device.flags |= IFF_UP;
    must("the network device", ask(socket, SIOCSIFFLAGS, &device));
    route.gateway.address = request->gateway;
    must("the way to the host's network", ask(socket, SIOCADDRT, &route));
    for (int count = 0; count < MOMENTS; count++) {     /* what is sent before is lost, and sent again a second later */
        if (ask(socket, SIOCGIFFLAGS, &device) || device.flags & IFF_RUNNING)
            break;
        CALL(SYS_nanosleep, &moment, 0, 0, 0, 0);
    }
    CALL(SYS_close, socket, 0, 0, 0, 0);
}

void write_resolver(const char *text)
{
    static const char place[] = "/etc/resolv.conf";
    CALL(SYS_unlink, place, 0, 0, 0, 0);                /* a link, it may be, to where nobody writes */
    long file = CALL(SYS_open, place, O_WRONLY | O_CREAT, 0644, 0, 0);
    if (file < 0)
        return;                                         /* a share without /etc */
    CALL(SYS_write, file, text, length_of(text), 0, 0);
    CALL(SYS_close, file, 0, 0, 0, 0);
}
