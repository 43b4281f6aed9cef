/* The driver: arms each case, runs it, compares what the exception handler saw with the table, and prints one line for each event. */
#include "demo.h"

enum { COM1 = 0x3F8, DEBUG_EXIT = 0xF4, DEBUGCTL = 0x1D9, MTRR_DEFAULT_TYPE = 0x2FF };

struct event events[MAX_EVENTS];
u64 event_count;
volatile u64 takes_orders __attribute__((section(".data")));
volatile u64 ready, selected, done, untouched;
static u64 current;
static int bus_lock_trap;

static void put(char c)
{
    while (!(in8(COM1 + 5) & 0x20)) /* LSR.THRE */
        ;
    out8(COM1, c);
}

static void print(const char *text)
{
    for (; *text; text++)
        put(*text);
}

static void print_padded(const char *text, int width)
{
    for (; *text; text++, width--)
        put(*text);
    while (width-- > 0)
        put(' ');
}

static void print_hex(const char *label, word value)
{
    print(label);
    for (int shift = 28; shift >= 0; shift -= 4)
        put("0123456789abcdef"[value >> shift & 15]);
}

static void print_number(word value)
{
    if (value >= 10)
        print_number(value / 10);
    put('0' + value % 10);
}

static void finish(u8 status)
{
    out8(DEBUG_EXIT, status);
    for (;;)
        asm volatile("cli; hlt");
}

void on_exception(struct frame *frame)
{
    const struct test_case *test = &cases[current];

    if (event_count < MAX_EVENTS) {
        struct event *event = &events[event_count++];
        event->test_case = current;
        event->vector = frame->vector;
        event->dr6 = READ_DR(6);
        event->dr7 = READ_DR(7);
        event->rip = frame->rip;
        event->rflags = frame->rflags;
        event->debugctl = rdmsr(DEBUGCTL);
        event->cs = frame->cs;
    }
    if (takes_orders && (event_count == MAX_EVENTS || (frame->vector != DB && frame->vector != BP && !test->resume))) {
        if (frame->cs & 3)
            frame->ss = 0x10;
        frame->rip = (word)leave_ring3; /* the case is over; what was seen is in the events */
        frame->cs = 0x08;
        frame->rflags = 2;
        return;
    }
    frame->rflags &= ~(word)TF;
    if (test->flags & SET_RF)
        frame->rflags |= RF;
    if (frame->vector == DB) {
        if (!(test->flags & KEEP_DR6))
            WRITE_DR(6, DR6_RESET);
    } else if (frame->vector != BP) {
        if (!test->resume) {
            print(test->name);
            print_hex(": unexpected exception ", frame->vector);
            print_hex(" rip=", frame->rip);
            print_hex(" error=", frame->error);
            print("\n");
            finish(127);
        }
        frame->rip = (word)test->resume;
    }
}

static void arm(const struct test_case *test)
{
    if (bus_lock_trap)
        wrmsr(DEBUGCTL, BUS_LOCK_DETECT); /* AMD lets DR6.BLD be written only while this is set */
    WRITE_DR(6, DR6_RESET);
    WRITE_DR(0, test->dr[0]);
    WRITE_DR(1, test->dr[1]);
    WRITE_DR(2, test->dr[2]);
    WRITE_DR(3, test->dr[3]);
    wrmsr(DEBUGCTL, test->debugctl);
    WRITE_DR(7, test->dr7);
}

static void disarm(void)
{
    WRITE_DR(7, DR7_FIXED);
    wrmsr(DEBUGCTL, 0);
}

static int as_expected(const struct test_case *test, const struct event *event, const struct expected *expected)
{
    return event->vector == expected->vector && event->dr6 == expected->dr6 && event->rip == expected->rip
        && !!(event->rflags & TF) == expected->tf && event->dr7 == (test->dr7 & ~(word)DR7_GD)
        && event->debugctl == (test->debugctl & ~(word)(event->vector == DB ? BTF : 0));
}

static const char *exception_name(word vector)
{
    switch (vector) {
    case DB: return "#DB";
    case BP: return "#BP";
    case UD: return "#UD";
    case GP: return "#GP";
    case PF: return "#PF";
    default: return "#??";
    }
}

static void report(const struct test_case *test, const struct event *event, int right)
{
    print_padded(test->name, 24);
    if (event) {
        print(exception_name(event->vector));
        print_hex(" dr6=", event->dr6);
        print_hex(" dr7=", event->dr7);
        print_hex(" rip=", event->rip);
        print_hex(" rflags=", event->rflags);
    } else {
        print_padded("none", 59);
    }
    print(right ? "  ok\n" : "  WRONG\n");
}

static int judge(u64 number, u64 first)
{
    const struct test_case *test = &cases[number];
    u64 taken = event_count - first;
    int right = taken == test->count && (values[number] & test->value_mask) == test->value;

    for (u64 i = 0; i < taken; i++) {
        int match = i < test->count && as_expected(test, &events[first + i], &test->expected[i]);
        right &= match;
        report(test, &events[first + i], match);
    }
    if (!taken)
        report(test, 0, right);
    return right;
}

static void run(u64 number)
{
    const struct test_case *test = &cases[number];

    current = number;
    arm(test);
    values[number] = test->ring ? enter_ring3(test->entry, test->rflags) : enter_ring0(test->entry);
    disarm();
}

static int lacking(u64 number) { return cases[number].needs == NEEDS_BUS_LOCK && !bus_lock_trap; }

static void take_orders(void)
{
    for (;;) {
        selected = NOBODY;
        ready = READY;
        parked();
        u64 number = selected;
        event_count = 0;
        if (number < case_count && !lacking(number)) {
            verdicts[number] = RIGHT; /* it has run; who asked for it judges */
            run(number);
        }
        done++;
    }
}

void guest_main(void)
{
    u32 leaf[4];
    u64 wrong = 0, skipped = 0;

    cpuid(7, leaf);
    bus_lock_trap = leaf[2] >> 24 & 1;
    cpuid(1, leaf);
    if (leaf[3] >> 12 & 1)
        wrmsr(MTRR_DEFAULT_TYPE, 0xC06); /* all memory write-back, as firmware would have left it */

    if (takes_orders)
        take_orders();
    print("every debug exception, and what its handler reads\n");
    for (u64 number = 0; number < case_count; number++) {
        if (lacking(number)) {
            verdicts[number] = SKIPPED;
            skipped++;
            continue;
        }
        u64 first = event_count;
        run(number);
        verdicts[number] = judge(number, first) ? RIGHT : WRONG;
        wrong += verdicts[number] == WRONG;
    }
    print_number(case_count);
    print(" cases, ");
    print_number(wrong);
    print(" wrong, ");
    print_number(skipped);
    print(" skipped for want of bus lock detection\n");
    finish(wrong ? (wrong < 126 ? wrong : 126) : 0);
}
