/* A plugin for qemu-user: how often each locked instruction accessed memory across two lines of 64 bytes. It declares what it uses
   of the interface itself (QEMU, "TCG Plugins", API version 1), as distributions have no header of it. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
unsigned qemu_plugin_mem_size_shift(uint32_t);
bool qemu_plugin_mem_is_store(uint32_t);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, void (*)(unsigned, uint32_t, uint64_t, void *), int, int, void *);
void qemu_plugin_register_atexit_cb(uint64_t, void (*)(uint64_t, void *), void *);

int qemu_plugin_version = 1;
static const char *results;
static struct site { uint64_t address, count; struct site *next; } *sites;

static void accessed(unsigned cpu, uint32_t info, uint64_t address, void *site)
{
    if (qemu_plugin_mem_is_store(info) && (address & 63) + (1u << qemu_plugin_mem_size_shift(info)) > 64)
        __atomic_fetch_add(&((struct site *)site)->count, 1, __ATOMIC_RELAXED);
}

static bool locks(const uint8_t *code, size_t size)
{
    bool locked = false;
    size_t at = 0;
    for (; at < size; at++) {
        uint8_t one = code[at];
        if (one == 0xF0)
            locked = true;
        else if (one != 0x66 && one != 0x67 && one != 0xF2 && one != 0xF3 && (one & 0xE7) != 0x26 && (one & 0xFE) != 0x64)
            break;
    }
    if (at < size && (code[at] & 0xF0) == 0x40)
        at++; /* REX */
    return locked || (at + 1 < size && (code[at] & 0xFE) == 0x86 && code[at + 1] < 0xC0); /* XCHG with memory */
}

static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
    for (size_t n = 0; n < qemu_plugin_tb_n_insns(block); n++) {
        struct qemu_plugin_insn *one = qemu_plugin_tb_get_insn(block, n);
        if (!locks(qemu_plugin_insn_data(one), qemu_plugin_insn_size(one)))
            continue;
        struct site *site = calloc(1, sizeof *site);
        site->address = qemu_plugin_insn_vaddr(one);
        site->next = sites;
        sites = site;
        qemu_plugin_register_vcpu_mem_cb(one, accessed, 0, 3, site);
    }
}

static void ended(uint64_t id, void *nothing)
{
    FILE *file = fopen(results, "w");
    for (struct site *one = sites; one; one = one->next)
        if (one->count)
            fprintf(file, "%lx %lu\n", one->address, one->count);
    fclose(file);
}

int qemu_plugin_install(uint64_t id, const void *info, int count, char **words)
{
    results = getenv("JUDGE_RESULTS");
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, 0);
    return 0;
}
