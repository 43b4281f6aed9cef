/* reads FILE COUNT: COUNT reads of 4 KiB each, at random places of a file or a disk, past the guest's cache.
 *
 * No C library. Exit status: 0 all done, 1 one failed. The places are the same in each run. */

typedef unsigned long word;

enum { SYS_READ = 0, SYS_OPEN = 2, SYS_LSEEK = 8, SYS_PREAD = 17, SYS_EXIT = 60, O_DIRECT = 040000, SEEK_END = 2, PAGE = 4096 };

static char page[PAGE] __attribute__((aligned(PAGE)));

static long call(word number, word a, word b, word c, word d)
{
    long result;
    register word fourth __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth) : "rcx", "r11", "memory");
    return result;
}

__asm__(".globl _start\n_start:\n\tmovq %rsp, %rdi\n\txorl %ebp, %ebp\n\tandq $-16, %rsp\n\tcall start");

void start(word *stack)
{
    word count = 0, chance = 1, failed = stack[0] != 3;
    if (!failed) {
        for (char *digit = (char *)stack[3]; *digit; digit++)
            count = 10 * count + (*digit - '0');
        long file = call(SYS_OPEN, stack[2], O_DIRECT, 0, 0);
        long pages = file < 0 ? 0 : call(SYS_LSEEK, file, 0, SEEK_END, 0) / PAGE;
        failed = pages <= 0;
        while (!failed && count--) {
            chance = chance * 6364136223846793005 + 1442695040888963407;
            failed = call(SYS_PREAD, file, (word)page, PAGE, (chance >> 33) % pages * PAGE) != PAGE;
        }
    }
    call(SYS_EXIT, failed, 0, 0, 0);
    __builtin_unreachable();
}
