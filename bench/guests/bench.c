// Common half of the benchmark guests: serial output, the IDT, and the frame around `run`.
#include "bench.h"

extern u8 unexpected_entries[];
void leave_guest(int value) __attribute__((noreturn));

enum { VECTORS = 129 };

static struct {
    unsigned short offset_low, selector;
    u8 ist, type;
    unsigned short offset_middle;
    u32 offset_high, zero;
} idt[VECTORS] __attribute__((aligned(16)));

void set_gate(int vector, void (*entry)(void), int dpl)
{
    u64 address = (u64)entry;
    idt[vector].offset_low = (unsigned short)address;
    idt[vector].offset_middle = (unsigned short)(address >> 16);
    idt[vector].offset_high = (u32)(address >> 32);
    idt[vector].selector = 0x08;
    idt[vector].type = (u8)(0x8E | dpl << 5);
}

static void put(char letter)
{
    u8 status;
    do
        __asm__ volatile("inb %w1, %b0" : "=a"(status) : "Nd"(0x3FD));
    while (!(status & 0x20));
    __asm__ volatile("outb %b0, %w1" : : "a"(letter), "Nd"(0x3F8));
}

void say(const char *text)
{
    while (*text)
        put(*text++);
}

static void say_number(u64 value)
{
    for (int shift = 60; shift >= 0; shift -= 4)
        put("0123456789abcdef"[value >> shift & 15]);
}

void bench_unexpected(u64 vector)
{
    u64 address;
    __asm__ volatile("mov %%cr2, %0" : "=r"(address));
    say("bench: unexpected exception ");
    say_number(vector);
    say(", CR2 ");
    say_number(address);
    say("\n");
    leave_guest(1);
}

int bench_start(void)
{
    struct {
        unsigned short limit;
        u64 base;
    } __attribute__((packed)) pointer = { sizeof idt - 1, (u64)idt };
    for (int vector = 0; vector < 32; vector++)
        set_gate(vector, (void (*)(void))(unexpected_entries + 16 * vector), 0);
    __asm__ volatile("lidt %0" : : "m"(pointer));
    int ok = 1;
    u64 checksum = run(ITERATIONS, &ok);
    say("bench: " NAME " ");
    say_number(checksum);
    say(ok ? " ok\n" : " WRONG\n");
    return ok ? 0 : 1;
}
