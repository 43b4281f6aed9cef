/* Writes numbered blocks to a virtio disk, BATCH at a time, flushes, and tells of each flush. The disk says from what number
   up to which; then it waits to be killed. */
#include "rt.h"

#define BASE ((volatile u8 *)0xFEB00000)
#define REGISTER(at) (*(volatile u32 *)(BASE + (at)))
#define BLOCKS 64                       /* of the disk, from the second on */
#define BATCH 8
#define BLOCK 4096
#define ENTRIES 64                      /* of the queue: 5 a request are enough */

enum { READ = 0, WRITE = 1, FLUSH = 4 };
enum { NEXT = 1, ROOM = 2 };

struct descriptor { u64 address; u32 length; u16 flags, next; };
struct header { u32 kind, zero; u64 sector; };
static struct descriptor table[ENTRIES] __attribute__((aligned(4096)));
static struct { u16 flags, index, ring[ENTRIES]; } offered __attribute__((aligned(4096)));
static volatile struct { u16 flags, index; struct { u32 head, length; } ring[ENTRIES]; } done __attribute__((aligned(4096)));
static struct header headers[BATCH];
static volatile u8 status[BATCH];
static u64 data[BATCH][BLOCK / 8];
static u16 descriptors;

static u64 mixed(u64 value)
{
    value ^= value >> 31;
    value *= 0x9E3779B97F4A7C15;
    return value ^ value >> 29;
}

static void link(volatile void *what, u32 length, u16 flags)
{
    u16 at = descriptors++;
    table[at] = (struct descriptor){(u64)what, length, flags, descriptors};
}

/* A request of the next batch. Its data are two buffers, cut where its number says. */
static void offer(u32 number, u32 kind, u64 sector, u32 length, u32 cut)
{
    u16 head = descriptors;
    u16 room = kind == READ ? ROOM : 0;
    headers[number] = (struct header){kind, 0, sector};
    status[number] = 0xFF;
    link(&headers[number], sizeof headers[number], NEXT);
    if (length) {
        link(data[number], cut, NEXT | room);
        link((u8 *)data[number] + cut, length - cut, NEXT | room);
    }
    link(&status[number], 1, ROOM);
    offered.ring[offered.index % ENTRIES] = head;
    asm volatile("" : : : "memory");
    offered.index++;
}

static void have_done(u32 count)
{
    REGISTER(0x50) = 0;
    while (done.index != offered.index)
        asm volatile("pause" : : : "memory");
    descriptors = 0;
    for (u32 number = 0; number < count; number++)
        if (status[number]) {
            line("status", status[number]);
            finish(2);
        }
}

static void set_up(void)
{
    REGISTER(0x70) = 0;
    REGISTER(0x70) = 3;
    REGISTER(0x24) = 1;
    REGISTER(0x20) = 1;                 /* VERSION_1 */
    REGISTER(0x24) = 0;
    REGISTER(0x20) = 1 << 9;            /* FLUSH */
    REGISTER(0x70) = 11;
    REGISTER(0x30) = 0;
    REGISTER(0x38) = ENTRIES;
    REGISTER(0x80) = (u64)table;
    REGISTER(0x90) = (u64)&offered;
    REGISTER(0xA0) = (u64)&done;
    REGISTER(0x44) = 1;
    REGISTER(0x70) = 15;
    if (!(REGISTER(0x70) & 8))
        finish(3);
}

void kmain(void)
{
    set_up();
    offer(0, READ, 0, BLOCK, 512);
    have_done(1);
    u64 end = data[0][1];
    for (u64 next = data[0][0]; next < end;) {
        for (u32 number = 0; number < BATCH; number++, next++) {
            u64 block = 1 + mixed(next) % BLOCKS;
            for (u32 at = 0; at < BLOCK / 8; at++)
                data[number][at] = at % 64 ? mixed(next * 512 + at) : next;     /* each sector begins with its number */
            offer(number, WRITE, block * (BLOCK / 512), BLOCK, 512 * (1 + next % 7));
        }
        have_done(BATCH);
        offer(0, FLUSH, 0, 0, 0);
        have_done(1);
        line("flushed", next);          /* all less than this */
    }
    for (;;)
        asm volatile("pause");
}
