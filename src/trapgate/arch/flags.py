"""Describes RFLAGS: its bits, what software may change, and its value at reset (SDM vol. 1, 3.4.3; APM vol. 2, 3.1.6)."""

CF = 1 << 0
FIXED = 1 << 1  # always reads 1
PF = 1 << 2
AF = 1 << 4
ZF = 1 << 6
SF = 1 << 7
TF = 1 << 8
IF = 1 << 9
DF = 1 << 10
OF = 1 << 11
IOPL = 3 << 12
NT = 1 << 14
RF = 1 << 16
VM = 1 << 17
AC = 1 << 18
VIF = 1 << 19
VIP = 1 << 20
ID = 1 << 21

IOPL_SHIFT = 12

STATUS = CF | PF | AF | ZF | SF | OF  # what arithmetic sets
DEFINED = STATUS | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID  # every bit that is neither fixed nor reserved
RESET = FIXED
SYSRET = DEFINED & ~(RF | VM)  # what SYSRET takes from R11 (SDM vol. 2, SYSRET: 3C7FD7h less bit 1)

NAMES = {
    CF: "CF", PF: "PF", AF: "AF", ZF: "ZF", SF: "SF", TF: "TF", IF: "IF", DF: "DF", OF: "OF",
    NT: "NT", RF: "RF", VM: "VM", AC: "AC", VIF: "VIF", VIP: "VIP", ID: "ID",
}  # fmt: skip


def canonical_form(value: int) -> int:
    """`value` with the reserved bits as the CPU keeps them: bit 1 reads 1, the others 0."""
    return value & DEFINED | FIXED
