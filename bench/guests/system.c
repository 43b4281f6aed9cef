// What each system instruction costs, by loops, in ticks of the TSC: a line for each of system.S, with turns and ticks of the fastest
// of many short runs, which no other work on the host has disturbed, less those of one turn.
#include "bench.h"

enum { CODE16_AT = 0x10000, LDT = 0x50, TSS64 = 0x28, TSS32 = 0x60, CALL_GATE = 0x70 };
#ifndef BATCHES
#define BATCHES 40
#define BATCH_TICKS 1500000UL  // a batch is shorter than what a host's scheduler gives
#endif

struct operation {
    const char *name;
    void (*run)(u64 turns);
    u64 mode;
};

extern const struct operation operations[], operations_end[];
extern u64 system_gdt[], system_ldt[], idt32[];
extern const u64 gate_target;
extern const u32 entries32[], int_entry16_at;
extern u8 low[], low_end[], system_gdt_pointer[], tss[], tss32[];
void in_mode(void (*run)(u64 turns), u64 turns, u64 mode);
void int_entry(void);
void ud_entry(void);

static u64 ticks(void)
{
    u32 low_half, high_half;
    __asm__ volatile("rdtsc" : "=a"(low_half), "=d"(high_half) : : "memory");
    return (u64)high_half << 32 | low_half;
}

static u64 batch(const struct operation *one, u64 turns)
{
    u64 begin = ticks();
    if (one->mode)
        in_mode(one->run, turns, one->mode);
    else
        one->run(turns);
    return ticks() - begin;
}

static u64 fastest(const struct operation *one, u64 turns, u64 batches)
{
    u64 best = batch(one, turns);
    while (--batches) {
        u64 took = batch(one, turns);
        best = took < best ? took : best;
    }
    return best;
}

static void tell(const char *what, u64 mode, u64 turns, u64 best)
{
    char line[3 * 17 + 2], *at = line;
    const u64 numbers[] = { mode, turns, best };
    for (int n = 0; n < 3; n++) {
        for (int shift = 60; shift >= 0; shift -= 4)
            *at++ = "0123456789abcdef"[numbers[n] >> shift & 15];
        *at++ = ' ';
    }
    *at = 0;
    say("system: ");
    say(line);
    say(what);
    say("\n");
}

static void base(int selector, u64 address)
{
    system_gdt[selector / 8] |= (address & 0xFFFFFF) << 16 | (address >> 24 & 0xFF) << 56;
}

static void enable_xsave(void)
{
    __asm__ volatile("mov %%cr4, %%rax\n\tor $0x40000, %%eax\n\tmov %%rax, %%cr4\n\t"
                     "xor %%ecx, %%ecx\n\txor %%edx, %%edx\n\tmov $3, %%eax\n\txsetbv"
                     : : : "rax", "rcx", "rdx");
}

static void prepare(void)
{
    u64 gate = gate_target;
    base(TSS64, (u64)tss);
    base(TSS32, (u64)tss32);
    base(LDT, (u64)system_ldt);
    system_gdt[CALL_GATE / 8] = (gate & 0xFFFF) | 0x08 << 16 | 0x8CUL << 40 | (gate >> 16 & 0xFFFF) << 48;
    ((u32 *)tss32)[2] = 0x10;  // SS0
    tss32[0x66] = 0x68;  // no I/O bitmap
    for (u8 *from = low, *to = (u8 *)CODE16_AT; from < low_end; from++, to++)
        *to = *from;
    for (int n = 0; n < 3; n++)
        idt32[(const int[]){ 6, 0x40, 0x41 }[n]] =
            (entries32[n] & 0xFFFF) | 0x38 << 16 | 0xEEUL << 40 | (u64)(entries32[n] >> 16) << 48;
    __asm__ volatile("mov %0, 0x100" : : "r"((u32)(CODE16_AT / 16) << 16 | (u32)(int_entry16_at)));  // of INT 40h in real mode
    set_gate(0x40, int_entry, 0);
    set_gate(6, ud_entry, 0);
    __asm__ volatile("lgdt system_gdt_pointer\n\tltr %w0" : : "r"(TSS64));
    enable_xsave();
    __asm__ volatile("outb %b0, $0x21\n\toutb %b0, $0xA1" : : "a"(0xFF));  // no interrupts: STI is measured, too
}

u64 run(u64 rounds, int *ok)
{
    u64 measured = 0;
    prepare();
    tell("begin", 0, 0, ticks());
    for (const struct operation *one = operations; one < operations_end; one++) {
        u64 turns = 2, once = fastest(one, 1, 3);  // of one turn, the way into the mode and back is in it
        while (fastest(one, turns, 3) < once + BATCH_TICKS)
            turns *= 2;
        u64 best = fastest(one, turns, BATCHES * rounds);
        once = fastest(one, 1, BATCHES * rounds);
        tell(one->name, one->mode, turns - 1, best > once ? best - once : 0);
        measured++;
    }
    tell("end", 0, 0, ticks());
    *ok = measured > 0;
    return measured;
}
