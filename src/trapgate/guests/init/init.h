/* What the files of the program share. */
#ifndef INIT_H
#define INIT_H

#include "talk.h"

enum { ROOM = 1 << 16, MOST_REQUEST = 8 << 20 };

/* Bytes on their way from one descriptor to another. `from` is -1 when it has ended, `to` when nobody takes them. */
struct flow { int from, to; u32 begin, end; u8 held[ROOM]; };

extern int ports[PORTS];
extern int input;      /* the program's standard input, to see how much of it is left; or -1 */

/* What cannot go on: the host hears of it, and the machine ends. */
void fail(const char *what, long error) __attribute__((noreturn));
void report(u32 kind, u32 value, const void *data, u32 size);
u32 length_of(const char *text);

void boot(char **modules);                              /* boot.c: up to where the machine is kept */
struct request *receive(void);                          /* request.c */
void settle(struct request *request);                   /* settle.c: clock, entropy, files */
void connect(struct request *request);                  /* network.c: the way to the host's network */
void write_resolver(const char *text);                  /* the same: how names are found there */
int start(struct request *request, struct flow *flows, int *terminal); /* start.c: the program; its process */
u32 serve(int child, struct flow *flows, int terminal); /* serve.c: until it has ended */

#endif
