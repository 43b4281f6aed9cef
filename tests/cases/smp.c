/* Several CPUs: started by INIT and SIPI, they do what CASE names; the status is 0 when all that is checked held. */
#include "rt.h"

#define APIC ((volatile u32 *)0xFEE00000)
#define ID 8
#define EOI 44
#define LDR 52
#define SVR 60
#define ICR_LOW 192
#define ICR_HIGH 196
#define LVT_TIMER 200
#define TIMER 224
#define DIVIDE 248
#define MOST 64
#define ALL_BUT_SELF (3 << 18)
#define ALL (2 << 18)
#define LOGICAL (1 << 11)
#define NMI (4 << 8)
#define INIT (5 << 8)
#define START (6 << 8)
#define ASSERT (1 << 14)
#define TRAMPOLINE 0x8000
#define CODE 0x300000
#define WINDOW (1ul << 32 >> 1) /* 2 GiB: no RAM there, mapped as the cases like */
#ifndef CPUS
#define CPUS 4
#endif
#ifndef ROUNDS
#define ROUNDS 20000
#endif

extern u8 trampoline[], trampoline_end[];
asm(".pushsection .text\n"
    ".code16\n"
    "trampoline: cli; cld; xor %ax, %ax; mov %ax, %ds\n"
    " lgdtl %cs:(ap_gdt - trampoline)\n"
    " mov %cr4, %eax; or $0x620, %eax; mov %eax, %cr4\n"
    " mov %cs:(ap_cr3 - trampoline), %eax; mov %eax, %cr3\n"
    " mov $0xC0000080, %ecx; rdmsr; or $0x101, %eax; wrmsr\n"
    " mov %cr0, %eax; and $0x9FFFFFF3, %eax; or $0x80000023, %eax; mov %eax, %cr0\n"
    " ljmpl $8, $ap_long\n"
    " .balign 8\n"
    "ap_gdt: .word 0x5F; .long gdt; .word 0\n"
    "ap_cr3: .long 0\n"
    "trampoline_end:\n"
    ".code64\n"
    "ap_long: mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss\n"
    " mov $0xFEE00020, %eax; mov (%rax), %edi; shr $24, %edi\n"
    " lidt saved_idt\n"
    " mov %edi, %eax; inc %eax; shl $12, %rax; lea stacks(%rax), %rsp\n"
    " call ap_main\n"
    ".popsection\n");
extern u32 ap_cr3;
u8 stacks[MOST][4096] __attribute__((aligned(4096)));
struct { u16 limit; u64 base; } __attribute__((packed)) saved_idt;
static volatile u32 here, go, done[MOST], told[MOST], nmis[MOST], ticks[MOST], failed;
static volatile u64 shared, seen[MOST];

static u32 self(void) { return APIC[ID] >> 24; }
static void pause(void) { asm volatile("pause"); }
static void enable(void) { APIC[SVR] = 0x1FF; }

static void send(u32 to, u32 what)
{
    APIC[ICR_HIGH] = to << 24;
    APIC[ICR_LOW] = what;
}

static void check(int holds, const char *what, u64 value)
{
    if (!holds) {
        line(what, value);
        failed = 1;
    }
}

static void lock(volatile u32 *at)
{
    u32 one = 1;
    for (;;) {
        asm volatile("xchg %0, %1" : "+r"(one), "+m"(*at) : : "memory");
        if (!one)
            return;
#ifndef NO_PAUSE
        while (*at)
            pause();
#endif
    }
}

static void unlock(volatile u32 *at) { asm volatile("" ::: "memory"); *at = 0; }
static void add(volatile u32 *at) { asm volatile("lock incl %0" : "+m"(*at) : : "memory"); }

/* Everybody comes here `times` times; nobody goes on before the others are there. */
static volatile u32 gathered;
static void meet(u32 times)
{
    add(&gathered);
    while (gathered < CPUS * times)
        pause();
}

/* For a debugger's #DBs beside the guest's: what each CPU's own #DBs told, and a variable that it watches. */
volatile u32 own[MOST];
static volatile u32 watches[MOST], steps[MOST], icebps[MOST], executed[MOST];
__attribute__((noinline)) void marked(void) { asm volatile(""); }

static void debug(struct frame *f, u32 me)
{
    u64 dr6 = GET_DR(6), causes = dr6 ^ 0xFFFF0FF0;
    SET_DR(6, 0xFFFF0FF0);
    watches[me] += causes == 1;
    steps[me] += causes == 1 << 14;
    icebps[me] += causes == 0;
    executed[me] += causes == 2;
    if (causes == 2)
        f->rflags |= 1 << 16; /* RF */
    check(causes == 1 || causes == 2 || causes == 1 << 14 || causes == 0, "DR6", dr6);
    f->rflags &= ~0x100ul;
}

static void interrupt(struct frame *f)
{
    u32 me = self();
    if (f->vector == 1) {
        debug(f, me);
        return;
    }
    if (f->vector == 2) {
        nmis[me]++;
        return;
    }
    if (f->vector == 0x50)
        ticks[me]++;
    if (f->vector == 0x41) {
        asm volatile("invlpg (%0)" : : "r"(WINDOW) : "memory");
        done[me]++;
    }
    if (f->vector >= 0x42 && f->vector <= 0x46) /* one of each: two of a kind may be one */
        told[me]++;
    APIC[EOI] = 0;
}

static void cpuid(u32 leaf, u32 sub, u32 *a, u32 *b, u32 *c, u32 *d)
{
    asm volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(*c), "=d"(*d) : "a"(leaf), "c"(sub));
}

static u32 volatile guard;
static u64 counted;

/* For a debugger. */
volatile u32 turns[MOST], watched;

__attribute__((noinline)) void work(u32 me)
{
    turns[me]++;
    if (me == 2 && turns[me] == 5)
        watched = 7;
    asm volatile("" ::: "memory");
}

__attribute__((noinline)) void pause_here(void) { pause(); }

#define IS(name) (__builtin_strcmp(CASE, name) == 0)

static void everybody(u32 me)
{
    if (IS("start")) {
        u32 a, b, c, d;
        cpuid(1, 0, &a, &b, &c, &d);
        seen[me] = b >> 24;
        cpuid(11, 1, &a, &b, &c, &d);
        check(d == me, "x2APIC identifier", d);
        check(b == CPUS, "logical processors", b);
        check((rdmsr(0x1B) >> 8 & 1) == (me == 0), "boot processor", rdmsr(0x1B));
    }
    if (IS("lock"))
        for (u32 n = 0; n < ROUNDS; n++) {
            lock(&guard);
            counted = counted + 1;
            unlock(&guard);
            add((u32 *)&shared);
        }
    if (IS("ipi")) {
        asm volatile("sti");
        meet(2);
        if (me == 0) {
            for (u32 to = 0; to < CPUS; to++)
                send(to, 0x42);
            send(0, ALL_BUT_SELF | 0x43);
            send(0, ALL | 0x44);
            send(0xFF, LOGICAL | 0x45);
            send(2, LOGICAL | 0x46); /* the second CPU */
            for (u32 to = 1; to < CPUS; to++)
                send(to, NMI);
        }
        u32 wanted = (me ? 4 : 3) + (me == 1);
        while (told[me] < wanted || nmis[me] < (me ? 1 : 0))
            pause();
        meet(3);
        check(told[me] == wanted, "interrupts", told[me]);
    }
    if (IS("shootdown")) {
        volatile u64 *window = (volatile u64 *)WINDOW;
        asm volatile("sti");
        for (u32 n = 0; n < 50; n++) {
            check(*window == 0x1000 + n, "the page before", *window);
            meet(2 + 2 * n);
            if (me == 0) {
                pds[WINDOW >> 21] = 0x400000 + (u64)(n + 1) * 0x200000 + 0x83;
                asm volatile("invlpg (%0)" : : "r"(WINDOW) : "memory");
                done[0]++;
                send(0, ALL_BUT_SELF | 0x41);
            }
            while (done[me] < n + 1)
                pause();
            meet(3 + 2 * n);
        }
    }
    if (IS("code")) { /* who has the turn rewrites a function that all have called */
        int (*function)(void) = (void *)CODE;
        for (u32 n = 0; n < 200; n++) {
            if (n % CPUS == me) {
                *(volatile u32 *)(CODE + 1) = n;
                if (n & 1)
                    *(volatile u32 *)(CODE + 4096 * 3 - 3) = n;
            }
            meet(2 + 2 * n);
            u32 cpu = n;
            for (int m = 0; m < 20; m++)
                check(function() == (int)cpu, "the function", function());
            int (*across)(void) = (void *)(CODE + 4096 * 3 - 4); /* its constant lies in two pages */
            check(across() == (int)(n & 1 ? n : n - 1) || n == 0, "across two pages", across());
            meet(3 + 2 * n);
        }
    }
    if (IS("patch")) { /* a loop that never ends, but for a branch that another CPU makes of a NOP: jmp +5 */
        u8 *at = (u8 *)CODE;
        if (me == 0) {
            for (volatile u32 n = 0; n < 3000000; n++)
                ;
            *(volatile u16 *)(at + 5) = 0x02EB; /* jmp over jmp */
        } else
            seen[me] = ((u64(*)(void))at)();
        check(me == 0 || seen[me] > 0, "turns", seen[me]);
    }
    if (IS("timers")) {
        APIC[DIVIDE] = 11;
        APIC[LVT_TIMER] = 1 << 17 | 0x50;
        APIC[TIMER] = 1000000;
        asm volatile("sti");
        if (me & 1)
            while (ticks[me] < 10)
                asm volatile("hlt");
        else
            while (ticks[me] < 10)
                ;
        APIC[LVT_TIMER] = 1 << 16;
    }
    if (IS("debug")) {
        u32 next = (me + 1) % CPUS;
        for (u32 n = 0; n < ROUNDS; n++) {
            SET_DR(0, &own[me]);
            SET_DR(7, 0xD0001);
            own[me]++;
            SET_DR(7, 0);
            own[next]++; /* watched by the other CPU alone */
            SET_DR(1, marked);
            SET_DR(7, me & 1 ? 4 : 0); /* some CPUs alone break there */
            marked();
            SET_DR(7, 0);
            asm volatile("pushf; orl $0x100, (%%rsp); popf; nop" ::: "memory");
            asm volatile(".byte 0xF1");
            pause_here();
        }
        check(watches[me] == ROUNDS, "data breakpoints", watches[me]);
        check(steps[me] == ROUNDS, "single steps", steps[me]);
        check(icebps[me] == ROUNDS, "ICEBPs", icebps[me]);
        check(executed[me] == (me & 1) * ROUNDS, "execution breakpoints", executed[me]);
    }
    if (IS("work")) { /* a share of it for each */
        u64 x = me + 1, table[64] = {0};
        for (u64 n = 0; n < (u64)ROUNDS * 1000 / CPUS; n++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            table[x & 63] += x;
        }
        seen[me] = table[3];
    }
    if (IS("buslocks")) { /* CPU n locks the bus n times, at different places */
        static u8 lines[128] __attribute__((aligned(64)));
        for (u32 n = 0; n < me; n++)
            asm volatile("lock incl %0" : "+m"(*(u32 *)(lines + 62)) : : "memory");
    }
    if (IS("debugger")) {
        for (u32 n = 0; n < ROUNDS; n++)
        {
            work(me);
            pause();
        }
        check(turns[me] == ROUNDS, "turns", turns[me]);
    }
    if (IS("state")) { /* for snapshots: everybody's registers hold their own */
        u64 x = me + 1;
        for (u32 n = 0; n < ROUNDS; n++) {
            x = x * 6364136223846793005ul + 1442695040888963407ul;
            if (!(x >> 60))
                pause();
            add((u32 *)&shared);
        }
        seen[me] = x;
    }
}

void ap_main(u32 me)
{
    enable();
    APIC[LDR] = me < 8 ? 1 << (24 + me) : 0;
    add(&here);
    while (!go)
        pause();
    everybody(me);
    add((u32 *)&gathered + 0);
    add(&go);
    for (;;)
        asm volatile("cli; hlt");
}

void kmain(void)
{
    u64 cr3;
    on_trap = interrupt;
    asm volatile("mov %%cr3, %0; sidt saved_idt" : "=r"(cr3));
    ap_cr3 = cr3;
    for (u8 *from = trampoline, *to = (u8 *)TRAMPOLINE; from < trampoline_end; from++, to++)
        *to = *from;
    for (u32 n = 0; n < 64; n++) /* for "shootdown": pages that say which they are */
        *(u64 *)(0x400000 + (u64)n * 0x200000) = 0x1000 + n;
    pds[WINDOW >> 21] = 0x400000 + 0x83;
    u8 made[] = {0xB8, 0, 0, 0, 0, 0xC3}, spin[] = {0x31, 0xC0, 0x48, 0xFF, 0xC0, 0x66, 0x90, 0xEB, 0xF9, 0xC3};
    for (u32 n = 0; n < sizeof made; n++)
        ((u8 *)CODE)[n] = ((u8 *)CODE)[4096 * 3 - 4 + n] = made[n];
    if (IS("patch"))
        for (u32 n = 0; n < sizeof spin; n++)
            ((u8 *)CODE)[n] = spin[n];
    enable();
    APIC[LDR] = 1 << 24;
    send(0, ALL_BUT_SELF | INIT | ASSERT);
    send(0, ALL_BUT_SELF | START | TRAMPOLINE >> 12);
    send(0, ALL_BUT_SELF | START | TRAMPOLINE >> 12);
    while (here < CPUS - 1)
        pause();
    gathered = CPUS;
    go = 1;
    everybody(0);
    while (go < CPUS)
        pause();
    if (IS("start"))
        for (u32 n = 0; n < CPUS; n++)
            check(seen[n] == n, "APIC identifier", seen[n]);
    if (IS("lock")) {
        check(counted == (u64)CPUS * ROUNDS, "under the lock", counted);
        check(shared == (u64)CPUS * ROUNDS, "locked", shared);
    }
    if (IS("state"))
        for (u32 n = 0; n < CPUS; n++)
            line("x", seen[n]);
    line("time", __builtin_ia32_rdtsc());
    finish(failed);
}
