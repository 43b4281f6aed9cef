"""What QEMU's TCG does otherwise than the manuals say, without any KVM, and which tests cannot be judged on it for that.

`tests/guests/test_not_judged.py` runs each of the cases on that QEMU, bare, and sees it get them wrong.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One fault of QEMU's, with the manual's section, and the debug-exception cases (`programs.debug.cases`) that show it."""

    what: str
    cases: tuple[str, ...]


ROWS = (
    Row(
        "MOV SS does not hold debug exceptions back until behind the next instruction (SDM vol. 3, 7.8.3)",
        (
            *("MOV SS + Bn", "MOV SS + Bn, ring 0", "MOV SS + Bn + BS", "MOV SS + Bn, then a fault", "MOV SS + Bn, then ICEBP"),
            "MOV SS, then Bn exec",
            *(
                f"MOV SS + Bn, then {one}, {cpu}"
                for one in ("INT3", "INT n", "SYSCALL")
                for cpu in ("EPYC-Turin", "SapphireRapids")
            ),
        ),
    ),
    Row("one access reports one data breakpoint, though two match (SDM vol. 3, 18.2.3)", ("two Bn", "REP MOVSB, both")),
    Row("a single step behind REP's last iteration finds RIP on it once more (SDM vol. 3, 18.3.1.4)", ("REP with TF",)),
    Row(
        "a data breakpoint behind REP's last iteration finds RIP on it, and RF set (SDM vol. 3, 18.3.1.2)",
        ("REP, data, the last one",),
    ),
    Row(
        "a single-step trap tells of a breakpoint on the next instruction, whatever RF is (SDM vol. 3, 18.3.1.1)",
        ("BS, then Bn exec under RF",),
    ),
    Row(
        "DEBUGCTL.BTF is not there: a single step traps behind each instruction (SDM vol. 3, 18.4.4)",
        ("BTF", "BTF, to the next instruction", "BTF, not taken", "BTF, REP"),
    ),
    Row("the address of a data breakpoint is not aligned down to its length (SDM vol. 3, 18.2.5)", ("Bn write, aligned down",)),
)


def reason(test: str) -> str | None:
    """Why a test that failed is not judged; None when it is."""
    found = re.fullmatch(
        r"tests/kvm/test_debug_cases\.py::test_case\[(.*)-(alone|beside a (?:software )?breakpoint|stepped)\]", test
    )
    return next((row.what for row in ROWS if found and found[1] in row.cases), None)
