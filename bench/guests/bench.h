// What a benchmark guest is made of: `run` does ITERATIONS rounds and returns a checksum; `result.ok` says whether it found it right.
#pragma once

typedef unsigned char u8;
typedef unsigned u32;
typedef unsigned long u64;

#ifndef ITERATIONS
#error "ITERATIONS is given by the build"
#endif

#define NOINLINE __attribute__((noinline))

// The guest's own part: rounds to run, the checksum to print; *ok becomes 0 when the result is wrong.
u64 run(u64 rounds, int *ok);

// A line on the serial port.
void say(const char *text);

// An interrupt gate at a vector, into the IDT (open to ring 3 when dpl is 3).
void set_gate(int vector, void (*entry)(void), int dpl);

static inline void write_msr(u32 index, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

// The next number of a linear congruential generator (Knuth's MMIX constants); use the high bits.
static inline u64 next_random(u64 *state)
{
    return *state = *state * 6364136223846793005UL + 1442695040888963407UL;
}
