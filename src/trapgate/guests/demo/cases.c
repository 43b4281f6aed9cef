/* The table of cases: for each, what is armed and what its handler must find (AMD64 APM vol. 2, 13.1; SDM vol. 3, 18.2 and 18.3). */
#include "demo.h"

extern char line[], stack_selector[], fault_resume[], stale_step[];

#define USES(name) extern char name[], name##_at[];
#define RAISES(name) USES(name) extern char name##_rip[];
RAISES(step) RAISES(exec) RAISES(write) RAISES(access) RAISES(io) RAISES(detect) RAISES(icebp) RAISES(lock_add) RAISES(lock_xchg)
RAISES(lock_uncached) RAISES(lock_step) RAISES(lock_data) RAISES(lock_data_step) RAISES(mov_ss) RAISES(mov_ss_lock) RAISES(int3_)
RAISES(branch) RAISES(fault) RAISES(stale)
USES(aligned) USES(within) USES(kernel_lock) USES(plain_move) USES(disabled) USES(pushf) USES(read_debug) USES(read_code)

#define CODE(label) .entry = label, .at = label##_at
#define RING3 .ring = 3, .rflags = 2 | IOPL3
#define STEPPED .ring = 3, .rflags = 2 | IOPL3 | TF
#define BUS_LOCKS .needs = NEEDS_BUS_LOCK, .debugctl = BUS_LOCK_DETECT

/* DR7 that arms breakpoint n: R/Wn and LENn as the manual codes them, Gn. */
#define EXEC 0
#define WRITE 1
#define IO 2
#define ACCESS 3
#define LEN1 0
#define LEN2 1
#define LEN4 3
#define ARM(n, kind, length) (DR7_FIXED | 2 << 2 * (n) | (kind) << (16 + 4 * (n)) | (word)(length) << (18 + 4 * (n)))
#define ONCE(vector, dr6, label, tf) .count = 1, .expected = {{vector, dr6, (word)label##_rip, tf}}

const struct test_case cases[] = {
    {"single step", CODE(step), STEPPED, .dr7 = DR7_FIXED, ONCE(DB, 0xFFFF4FF0, step, 1)},
    {"exec breakpoint", CODE(exec), RING3, .dr = {(word)exec_at}, .dr7 = ARM(0, EXEC, LEN1), .flags = SET_RF, ONCE(DB, 0xFFFF0FF1, exec, 0)},
    {"data write", CODE(write), RING3, .dr = {0, (word)line}, .dr7 = ARM(1, WRITE, LEN4), ONCE(DB, 0xFFFF0FF2, write, 0)},
    {"data access", CODE(access), RING3, .dr = {0, 0, (word)line + 4}, .dr7 = ARM(2, ACCESS, LEN4), ONCE(DB, 0xFFFF0FF4, access, 0)},
    {"I/O breakpoint", CODE(io), RING3, .dr = {0, 0, 0, 0x80}, .dr7 = ARM(3, IO, LEN1), ONCE(DB, 0xFFFF0FF8, io, 0)},
    {"general detect", CODE(detect), .dr7 = DR7_FIXED | DR7_GD, ONCE(DB, 0xFFFF2FF0, detect, 0)},
    {"ICEBP", CODE(icebp), RING3, .dr7 = DR7_FIXED, .resume = icebp_rip, ONCE(DB, 0xFFFF0FF0, icebp, 0)},
    {"INT3", CODE(int3_), RING3, .dr7 = DR7_FIXED, ONCE(BP, 0xFFFF0FF0, int3_, 0)},
    {"branch step", CODE(branch), STEPPED, .dr7 = DR7_FIXED, .debugctl = BTF, ONCE(DB, 0xFFFF4FF0, branch, 1)},
    {"MOV SS, data", CODE(mov_ss), RING3, .dr = {(word)stack_selector}, .dr7 = ARM(0, ACCESS, LEN2), ONCE(DB, 0xFFFF0FF1, mov_ss, 0)},
    {"bus lock, ADD", CODE(lock_add), RING3, BUS_LOCKS, .dr7 = DR7_FIXED, ONCE(DB, 0xFFFF07F0, lock_add, 0)},
    {"bus lock, XCHG", CODE(lock_xchg), RING3, BUS_LOCKS, .dr7 = DR7_FIXED, ONCE(DB, 0xFFFF07F0, lock_xchg, 0)},
    {"bus lock, UC memory", CODE(lock_uncached), RING3, BUS_LOCKS, .dr7 = DR7_FIXED, ONCE(DB, 0xFFFF07F0, lock_uncached, 0)},
    {"bus lock + step", CODE(lock_step), STEPPED, BUS_LOCKS, .dr7 = DR7_FIXED, ONCE(DB, 0xFFFF47F0, lock_step, 1)},
    {"bus lock + data", CODE(lock_data), RING3, BUS_LOCKS, .dr = {(word)line + 60}, .dr7 = ARM(0, WRITE, LEN4),
     ONCE(DB, 0xFFFF07F1, lock_data, 0)},
    {"bus lock + data + step", CODE(lock_data_step), STEPPED, BUS_LOCKS, .dr = {(word)line + 60}, .dr7 = ARM(0, WRITE, LEN4),
     ONCE(DB, 0xFFFF47F1, lock_data_step, 1)},
    {"MOV SS, data + bus lock", CODE(mov_ss_lock), RING3, BUS_LOCKS, .dr = {(word)stack_selector}, .dr7 = ARM(0, ACCESS, LEN2),
     ONCE(DB, 0xFFFF07F1, mov_ss_lock, 0)},
    {"stale BLD, then step", CODE(stale), RING3, BUS_LOCKS, .dr7 = DR7_FIXED, .flags = KEEP_DR6, .count = 2,
     .expected = {{DB, 0xFFFF07F0, (word)stale_rip, 0}, {DB, 0xFFFF47F0, (word)stale_step, 1}}},
    {"no: aligned lock", CODE(aligned), RING3, BUS_LOCKS, .dr7 = DR7_FIXED},
    {"no: inside the line", CODE(within), RING3, BUS_LOCKS, .dr7 = DR7_FIXED},
    {"no: plain MOV", CODE(plain_move), RING3, BUS_LOCKS, .dr7 = DR7_FIXED},
    {"no: ring 0", CODE(kernel_lock), BUS_LOCKS, .dr7 = DR7_FIXED},
    {"no: DEBUGCTL[2] = 0", CODE(disabled), RING3, .dr7 = DR7_FIXED},
    {"no: faulting lock", CODE(fault), RING3, BUS_LOCKS, .dr7 = DR7_FIXED, .resume = fault_resume, ONCE(PF, DR6_RESET, fault, 0)},
    {"unseen: TF in PUSHF", CODE(pushf), RING3, .dr7 = DR7_FIXED, .value_mask = TF, .value = 0},
    {"unseen: DR6, DR7", CODE(read_debug), .dr7 = DR7_FIXED, .value_mask = ~0ull, .value = (u64)DR6_RESET << 32 | DR7_FIXED},
    {"unseen: code bytes", CODE(read_code), RING3, .dr7 = DR7_FIXED, .value_mask = ~0ull, .value = 0x90},
};

enum { CASES = sizeof cases / sizeof *cases };
const u64 case_count = CASES;
u64 verdicts[CASES], values[CASES];
