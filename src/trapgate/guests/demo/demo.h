/* What a case is, what an event is, and the few privileged instructions that C needs. The host reads both tables by these layouts. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned long word; /* what a register holds: the guest is built for 64-bit and for 32-bit mode */

enum { DB = 1, BP = 3, UD = 6, GP = 13, PF = 14 };
enum { TF = 1 << 8, IOPL3 = 3 << 12, RF = 1 << 16 };
enum { DR7_FIXED = 0x400, DR7_GD = 0x2000 };
enum { BTF = 2, BUS_LOCK_DETECT = 4 }; /* DEBUGCTL */
#define DR6_RESET 0xFFFF0FF0u          /* SDM vol. 3, 18.2.3: all causes absent; bits 11 and 16 are active low */

enum needs { NOTHING, NEEDS_BUS_LOCK };
enum flags {
    KEEP_DR6 = 1,   /* the handler leaves DR6 as it found it */
    SET_RF = 2,     /* the handler sets RF, so that an execution breakpoint lets its instruction pass */
};
enum verdict { SKIPPED, RIGHT, WRONG };

/* One exception that a case must raise, as its handler must find it. */
struct expected {
    word vector, dr6, rip, tf;
};

/* One case: what is armed, what runs, and what must come of it. The host unpacks it, by the size of a word. */
struct test_case {
    const char *name;
    void *entry;        /* where it starts */
    void *at;           /* the instruction that matters: where a debugger puts its breakpoint */
    void *resume;       /* where to go on after a fault other than #DB and #BP */
    word ring;          /* 0 or 3 */
    word rflags;        /* at the start, ring 3 only */
    word dr[4], dr7, debugctl;
    word needs, flags;
    u64 value_mask, value; /* RBX at the end; ECX and EBX */
    word count;
    struct expected expected[2];
};

/* One exception taken, as its handler found it. */
struct event {
    word test_case, vector, dr6, dr7, rip, rflags, debugctl, cs;
};

/* What the stubs push. */
struct frame {
#ifdef __x86_64__
    word r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
#else
    word rdi, rsi, rbp, unused, rbx, rdx, rcx, rax;
#endif
    word vector, error, rip, cs, rflags, rsp, ss; /* in 32-bit mode no RSP and SS from ring 0 */
};

#define MAX_EVENTS 128
extern const struct test_case cases[];
extern const u64 case_count;
extern struct event events[MAX_EVENTS];
extern u64 event_count, verdicts[], values[];

/* For `trapgate check`, which sets `takes_orders` in the image: cases run one by one, when a debugger writes their number. */
#define NOBODY ~0ull
#define READY 0x59444145522D4741ull
extern volatile u64 takes_orders, ready, selected, done;
void parked(void);

void leave_ring3(void);
u64 enter_ring3(void *entry, word rflags);
u64 enter_ring0(void *entry);
void on_exception(struct frame *frame);
void guest_main(void);

static inline void out8(u16 port, u8 value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline u8 in8(u16 port) { u8 value; asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port)); return value; }
static inline u64 rdmsr(u32 index) { u32 low, high; asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index)); return (u64)high << 32 | low; }
static inline void wrmsr(u32 index, u64 value) { asm volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory"); }
static inline void cpuid(u32 leaf, u32 out[4]) { asm volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(0)); }

#define READ_DR(n) ({ word value_; asm volatile("mov %%dr" #n ", %0" : "=r"(value_)); value_; })
#define WRITE_DR(n, value) asm volatile("mov %0, %%dr" #n : : "r"((word)(value)) : "memory")
