"""Makes far jumps, calls and returns in every mode, through call gates too.

Sources: SDM vol. 2, JMP, CALL, RET; SDM vol. 3, 5.8; APM vol. 2, 4.7.
Task gates and TSS descriptors as targets raise #GP(selector): hardware task switching is not offered.
"""

from trapgate.arch import vectors
from trapgate.arch.control import EFER_LMA
from trapgate.arch.segments import ATTR_DB, ATTR_L, ATTR_S, SELECTOR_RPL, TYPE_CONFORMING, SystemType
from trapgate.isa import modes
from trapgate.isa.native.mode import has
from trapgate.isa.native.segments import TYPE_SHIFT, Descriptor, is_canonical, level, linear_in_table
from trapgate.isa.rules.events import RSP0, long_stack
from trapgate.isa.rules.loading import (
    fetch,
    inner_stack,
    is_code,
    is_long,
    is_null,
    mark_accessed,
    part,
    put_found,
    put_null,
    put_paragraph,
    require_present,
    stack_target,
)  # fmt: skip
from trapgate.isa.rules.reading import HARD, Reading, Stack, running_stack, width_of
from trapgate.isa.rules.returns import go_back
from trapgate.isa.vocabulary import Value

PARAMETERS = 0x1F  # of a call gate, in bits 36:32


def far_return(r: Reading, size: int) -> None:
    """far_return(bytes of parameters): RETF; `next_rip` is where it goes on."""
    m = r.m
    (extra,) = m.arguments
    if size < 8:
        with m.when(has(m.get("mode", 32), modes.REAL)):
            stack = running_stack(r, long=False)
            offset, selector = r.pop(stack, 2, size)
            _check_in_paragraph(r, offset)
            r.skip(stack, extra)
            r.commit(stack)
            _end_in_paragraph(r, selector & 0xFFFF, offset)
    for long in (True, False) if size < 8 else (True,):
        with m.when(has(m.get("mode", 32), modes.CODE64) == int(long)):
            stack = running_stack(r, long)
            offset, selector = r.pop(stack, 2, size)
            go_back(r, stack, selector & 0xFFFF, offset, size, always_stack=False, extra=extra)
            m.call("follow_mode", 0)
            r.done()
    m.result(HARD)  # no other mode has this instruction


def far_transfer(r: Reading, size: int) -> None:
    """far_transfer(selector, offset): CALL of this operand size, or JMP where `size` is 0; `next_rip` is where it goes on."""
    m = r.m
    selector, offset = m.arguments
    if size < 8:
        with m.when(has(m.get("mode", 32), modes.REAL)):
            _to_paragraph(r, selector, offset, size)
    with m.when(is_null(selector), likely=False):
        r.gp()
    found, cpl, rpl, error = fetch(r, selector), level(m), selector & SELECTOR_RPL, part(selector)
    with m.when(is_code(found)):
        fits = found.has(TYPE_CONFORMING).select(found.dpl.ule(cpl), rpl.ule(cpl) & (found.dpl == cpl))
        with m.when(~fits, likely=False):
            r.gp(error)
        require_present(r, found, vectors.NP, error)
        with m.when(is_long(m, found) & found.has(ATTR_DB), likely=False):
            r.gp(error)
        _enter(r, found, selector, offset, size)
    _through_gate(r, found, selector, size)


def _check_in_paragraph(r: Reading, offset: Value) -> None:
    m = r.m
    limit = (level(m) == 3).select(m.const(0xFFFF, 64), m.get("cs_limit", 32).zext(64))
    with m.when(offset.ugt(limit), likely=False):
        r.gp()


def _end_in_paragraph(r: Reading, selector: Value, offset: Value) -> None:
    put_paragraph(r.m, selector)
    r.m.put("next_rip", offset)
    r.m.call("follow_mode", 0)
    r.done()


def _to_paragraph(r: Reading, selector: Value, offset: Value, size: int) -> None:
    m = r.m
    if size:
        stack = running_stack(r, long=False)
        r.push(stack, [(None, m.get("cs_selector", 64)), (None, m.get("next_rip", 64))], size)
    _check_in_paragraph(r, offset)
    if size:
        r.commit(stack)
    _end_in_paragraph(r, selector, offset)


def _check_offset(r: Reading, code: Descriptor, offset: Value) -> None:
    outside = is_long(r.m, code).select(~is_canonical(offset), offset.ugt(code.limit))
    with r.m.when(outside, likely=False):
        r.gp()


def _enter(r: Reading, code: Descriptor, selector: Value, offset: Value, size: int) -> None:
    """On in a code segment at the same level."""
    m = r.m
    _check_offset(r, code, offset)
    if not size:
        _end_in_code(r, code, selector, level(m), offset)
        return
    for long in (True, False):
        with m.when(has(m.get("mode", 32), modes.CODE64) == int(long)):
            stack = running_stack(r, long)
            r.push(stack, [(None, m.get("cs_selector", 64)), (None, m.get("next_rip", 64))], size)
            mark_accessed(r, code)
            r.commit(stack)
            _end_in_code(r, code, selector, level(m), offset)


def _end_in_code(r: Reading, code: Descriptor, selector: Value, cpl: Value, offset: Value) -> None:
    m = r.m
    mark_accessed(r, code)
    put_found(m, "cs", part(selector) | cpl, code)
    m.put("next_rip", offset)
    m.call("follow_mode", 0)
    r.done()


def _through_gate(r: Reading, gate: Descriptor, selector: Value, size: int) -> None:
    m, cpl, error = r.m, level(r.m), part(selector)
    long, kind = has(m.get("efer", 64), EFER_LMA), gate.attributes & 0xF
    wide = kind == SystemType.CALL_GATE
    fits = ~gate.has(ATTR_S) & (wide | (~long & (kind == SystemType.CALL_GATE16)))
    with m.when(~fits | gate.dpl.ult(cpl) | gate.dpl.ult(selector & SELECTOR_RPL), likely=False):
        r.gp(error)
    require_present(r, gate, vectors.NP, error)
    offset = m.variable(64, gate.raw & 0xFFFF)
    with m.when(wide):
        offset.set(offset.value | (gate.raw >> 32) & 0xFFFF0000)
    with m.when(long):
        high = r.read(linear_in_table(m, selector, 16, lambda: r.gp(error)) + 8, 8)
        with m.when(((high >> TYPE_SHIFT) & 0x1F) != 0, likely=False):
            r.gp(error)
        offset.set(offset.value | high << 32)
    target = (gate.raw >> 16) & 0xFFFF
    with m.when(is_null(target), likely=False):
        r.gp()
    code, error = fetch(r, target), part(target)
    conforming = code.has(TYPE_CONFORMING)
    refused = ~is_code(code) | code.dpl.ugt(cpl)
    if not size:
        refused = refused | (~conforming & (code.dpl != cpl))
    with m.when(refused | (long & (~code.has(ATTR_L) | code.has(ATTR_DB))), likely=False):
        r.gp(error)
    require_present(r, code, vectors.NP, error)
    if not size:
        _enter(r, code, target, offset.value, 0)
        return
    inner = ~conforming & code.dpl.ult(cpl)
    for words, there in ((8, long), (4, ~long & wide), (2, ~long & ~wide)):
        with m.when(there & inner):
            _call_inner(r, code, target, offset.value, words, gate.raw >> 32 & PARAMETERS)
        with m.when(there):
            _enter(r, code, target, offset.value, words)
    m.result(HARD)  # no gate has another size


def _call_inner(r: Reading, code: Descriptor, target: Value, offset: Value, size: int, parameters: Value) -> None:
    """More privilege: the stack of the TSS, parameters copied (SDM vol. 3, 5.8.5)."""
    m, cpl, always = r.m, code.dpl, r.m.const(1, 1)
    if size == 8:
        stack = Stack(r, long_stack(r, (cpl << 3) + RSP0), always, 0)
    else:
        selector, pointer = inner_stack(r, cpl)
        found = stack_target(r, selector, cpl, vectors.TS)
        segment = (width_of(found.attributes), found.base, found.limit, found.attributes)
        stack = Stack(r, pointer, always, part(selector), segment)
    _check_offset(r, code, offset)
    r.push(stack, [(None, m.get("ss_selector", 64)), (None, m.get("rsp", 64))], size)
    if size < 8:
        r.copy(running_stack(r, long=False), stack, parameters, size)
    r.push(stack, [(None, m.get("cs_selector", 64)), (None, m.get("next_rip", 64))], size)
    if size < 8:
        mark_accessed(r, found)
    mark_accessed(r, code)
    if size == 8:
        put_null(m, "ss", cpl)
    else:
        put_found(m, "ss", selector, found)
    r.commit(stack)
    _end_in_code(r, code, target, cpl, offset)
