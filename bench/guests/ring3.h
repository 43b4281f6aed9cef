// Ring 3 for the guests that measure there: `run_ring3(entry, count)` enters with IRETQ, RBX = count; INT 80h comes back.
#pragma once
#include "bench.h"

void run_ring3(void (*entry)(void), u64 count);
void back_entry(void);
extern volatile u64 taken;  // what the handlers of the guests count

// Bus Lock Detect: DEBUGCTL bit 2.
static inline void detect_bus_locks(int on)
{
    write_msr(0x1D9, on ? 4 : 0);
}
