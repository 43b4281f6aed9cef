"""A process whose translated code crashes on purpose: `python -m unit.soft.crashing HEX` puts host code into a block that runs.

It prints what was told of it, and then that the guest runs on with sound code; `outside` crashes beside translated code.
"""

import ctypes
import sys

from trapgate.isa.native.placing import ENTRY, PLACED
from trapgate.soft.crash import Crashes, HostCrash
from unit.soft.bench import CODE, Bench

GUEST = "48ffc3 48ffc9 75f8 f4"  # inc rbx; dec rcx; jnz; hlt


def main(text: str) -> None:
    """See above."""
    bench = Bench("64")
    cpu = bench.cpu
    cpu.crashes = Crashes(cpu)
    cpu.crashes.catch()
    bench.ram.write(CODE, bytes.fromhex(GUEST))
    bench.st.rcx = 5
    cpu.run()
    if text == "outside":
        ctypes.string_at(8)
    entry = cpu.lookup(CODE, CODE, bench.st.mode)
    at = int.from_bytes(ctypes.string_at(entry + PLACED.code, 4), "little") + ENTRY
    sound = cpu.code.peek(at, 16)
    cpu.code.patch(at, bytes.fromhex(text))
    bench.st.rip = CODE
    try:
        cpu.run()
    except HostCrash as crash:
        print(crash)
    cpu.code.patch(at, sound)
    bench.st.rip, bench.st.rcx, bench.st.rbx = CODE, 7, 0
    print(cpu.run(), bench.st.rbx)


if __name__ == "__main__":
    main(sys.argv[1])
