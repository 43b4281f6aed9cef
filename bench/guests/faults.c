// Page faults: our own handler maps the page that was touched; after 512 of them all are unmapped with INVLPG. One round is 512 faults.
#include "bench.h"

enum { PAGES = 512 };
static u64 page_table[PAGES] __attribute__((aligned(4096)));
static u8 backing[4096] __attribute__((aligned(4096)));
extern u64 page_directory[];

// Linear addresses that the 2 MiB page of directory entry 256 covered until now.
static volatile u64 *const window = (volatile u64 *)(256UL << 21);

static volatile u64 taken;
void fault_entry(void);
__asm__(".pushsection .text\n"
        "fault_entry:\n\t"
        "pushq %rax\n\tpushq %rcx\n\tpushq %rdx\n\tpushq %rsi\n\tpushq %rdi\n\tpushq %r8\n\tpushq %r9\n\tpushq %r10\n\tpushq %r11\n\t"
        "movq %cr2, %rdi\n\tcall handle_fault\n\t"
        "popq %r11\n\tpopq %r10\n\tpopq %r9\n\tpopq %r8\n\tpopq %rdi\n\tpopq %rsi\n\tpopq %rdx\n\tpopq %rcx\n\tpopq %rax\n\t"
        "addq $8, %rsp\n\tiretq\n"  // the error code
        ".popsection");

void bench_unexpected(u64 vector) __attribute__((noreturn));

__attribute__((used)) void handle_fault(u64 address)
{
    u64 page = (address - (u64)window) >> 12;
    if (page >= PAGES || page_table[page])
        bench_unexpected(14);
    page_table[page] = (u64)backing | 3;
    taken++;
}

u64 run(u64 rounds, int *ok)
{
    set_gate(14, fault_entry, 0);
    page_directory[256] = (u64)page_table | 3;
    __asm__ volatile("mov %%cr3, %%rax\n\tmov %%rax, %%cr3" : : : "rax", "memory");
    for (u64 round = 0; round < rounds; round++) {
        for (u64 page = 0; page < PAGES; page++)
            window[page * 512 + page] += page;
        for (u64 page = 0; page < PAGES; page++) {
            page_table[page] = 0;
            __asm__ volatile("invlpg (%0)" : : "r"(window + page * 512) : "memory");
        }
    }
    u64 total = 0;
    for (u64 page = 0; page < PAGES; page++)
        total += ((u64 *)backing)[page];
    *ok = taken == rounds * PAGES && total == rounds * (PAGES * (PAGES - 1) / 2);
    return taken * 1000003 + total;
}
