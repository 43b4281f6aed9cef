/* What passes between the host and this program at the control port. The host's half is exec/messages.py. */
#ifndef TALK_H
#define TALK_H

#include "linux.h"

enum { READY_PORT = 0x505 };            /* a byte written there: all is ready, the machine may be kept */

/* Ports of the console device, in order; port 0 is the kernel's. */
enum { CONTROL = 1, STDIN, STDOUT, STDERR, TERMINAL, PORTS };

/* Where a standard stream of the program leads. */
enum { TO_PORT, TO_TERMINAL, TO_NULL, TO_STDOUT, TO_NOTHING };

enum { ENTROPY = 64, MOST_GROUPS = 1024 };

/* The request: this, then groups (u32 each), then strings, each with its NUL: host name, what /etc/resolv.conf is to hold, directory,
   `writes` times a directory, the program's arguments, its environment. */
struct request {
    u64 length;                         /* of all of it */
    u64 seconds, nanoseconds;           /* the time of day */
    u64 ignored;                        /* signals that the program is to ignore, bit N - 1 is signal N */
    u64 limits[LIMITS][2];              /* of resources: soft, hard */
    u8 entropy[ENTROPY];
    u32 uid, gid, umask;
    u32 groups, writes, arguments, variables;   /* how many of each */
    u32 streams[3];                     /* TO_... */
    u32 share;                          /* whether the host's files are the program's */
    struct winsize size;
    struct termios modes;
    u64 blocked;                        /* signals that it begins with blocked */
    u32 address, netmask, gateway;      /* of the network device, in the order of networks; an address of 0: there is none */
    u32 mtu;
};

/* Later messages of the host: two words. */
enum { SIGNAL = 1, SIGNAL_GROUP, RESIZE, UNREAD };
struct order { u32 kind, value; };      /* RESIZE: rows << 16 | columns; UNREAD: nobody reads this port's output any more */

/* Messages to the host: two words, and as many bytes as `size` says behind them. */
enum { STARTED = 1, EXITED, KILLED, STOPPED, NOT_STARTED, FAILED, USED };
struct report { u32 kind, value, size; };

#endif
