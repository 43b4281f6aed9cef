"""Shortens what LLVM made of a stencil: conditional jumps go straight out of line, and the jump to NEXT comes last.

LLVM ends a path that leaves a stencil with `jmp SYMBOL`, and reaches that path by a short conditional jump. Here the two become one
`jcc SYMBOL`; what nobody reaches any more is dropped. A final `jmp NEXT` is cut off by the translator: the next stencil follows.
"""

from iced_x86 import Decoder, FlowControl, Instruction, OpKind

from trapgate.stencil.stencil import Hole, Stencil
from trapgate.values import dataclass, replace


@dataclass(slots=True)
class _Piece:
    """One instruction: its bytes, holes relative to its start, and the piece it branches to."""

    code: bytes
    holes: list[Hole]
    conditional: int | None  # condition code of a Jcc
    jumps: bool  # an unconditional JMP rel
    target: int | None  # index of the piece it branches to, when that lies in this stencil
    ends: bool  # nothing falls through


def tidy(stencil: Stencil) -> Stencil:
    """The same stencil, shorter."""
    stencil = _shown(stencil)
    pieces = _split(stencil)
    for piece in pieces:
        while piece.target is not None and (aim := pieces[piece.target]).jumps and aim.target is not None:
            piece.target = aim.target
        if piece.conditional is not None and piece.target is not None:
            aim = pieces[piece.target]
            if aim.jumps and aim.target is None and aim.holes:
                piece.target = None
                piece.holes = [Hole(2, 4, True, aim.holes[0].name, -4)]
    _next_last(pieces)
    keep = _reachable(pieces)
    return _join([p if i in keep else None for i, p in enumerate(pieces)])


def _shown(stencil: Stencil) -> Stencil:
    """A byte-sized hole shows its addend, so that a ModRM byte reads as what it will be; whoever fills it gives the whole byte."""
    code, holes = bytearray(stencil.code), list[Hole]()
    for hole in stencil.holes:
        if hole.size == 1 and not hole.relative and hole.addend:
            code[hole.offset] = hole.addend
            hole = replace(hole, addend=0)
        holes.append(hole)
    return Stencil(bytes(code), tuple(holes))


def _next_last(pieces: list[_Piece]) -> None:
    """`jcc NEXT; jmp ELSEWHERE` at the end becomes `jncc ELSEWHERE; jmp NEXT`."""
    if len(pieces) < 2:
        return
    branch, jump = pieces[-2:]
    leaves = branch.conditional is not None and branch.target is None and jump.jumps and jump.target is None
    if leaves and branch.holes[0].name == "NEXT":
        assert branch.conditional is not None
        branch.conditional ^= 1
        branch.holes, jump.holes = [Hole(2, 4, True, jump.holes[0].name, -4)], [Hole(1, 4, True, "NEXT", -4)]


def _split(stencil: Stencil) -> list[_Piece]:
    decoder = Decoder(64, stencil.code)
    instructions: list[Instruction] = [i for i in decoder]
    index = {i.ip: n for n, i in enumerate(instructions)}
    holes = sorted(stencil.holes, key=lambda h: h.offset)
    pieces = []
    for i in instructions:
        start, end = i.ip, i.ip + i.len
        own = [Hole(h.offset - start, h.size, h.relative, h.name, h.addend) for h in holes if start <= h.offset < end]
        near = i.op_count == 1 and i.op0_kind in (OpKind.NEAR_BRANCH64, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH16)
        conditional = i.flow_control == FlowControl.CONDITIONAL_BRANCH
        jumps = i.flow_control == FlowControl.UNCONDITIONAL_BRANCH and near
        code = stencil.code[start:end]
        target = index[i.near_branch_target] if near and not own and (conditional or jumps) else None
        cc = None
        if conditional:
            cc = (code[1] if code[0] == 0x0F else code[0]) & 15
            assert code[0] == 0x0F or 0x70 <= code[0] < 0x80, "only Jcc may be conditional"
            if own:
                own = [Hole(2, 4, True, own[0].name, -4)]
        ends = i.flow_control in (
            FlowControl.UNCONDITIONAL_BRANCH,
            FlowControl.INDIRECT_BRANCH,
            FlowControl.RETURN,
            FlowControl.EXCEPTION,
        )
        pieces.append(_Piece(code, own, cc, jumps, target, ends))
    return pieces


def _reachable(pieces: list[_Piece]) -> set[int]:
    seen: set[int] = set()
    todo = [0]
    while todo:
        at = todo.pop()
        while at < len(pieces) and at not in seen:
            seen.add(at)
            piece = pieces[at]
            if piece.target is not None:
                todo.append(piece.target)
            if piece.ends:
                break
            at += 1
    return seen


def _join(pieces: list[_Piece | None]) -> Stencil:
    """Lay the pieces out again, with 32-bit branches."""
    starts, at = [], 0
    for piece in pieces:
        starts.append(at)
        if piece is not None:
            at += 6 if piece.conditional is not None else 5 if piece.jumps else len(piece.code)
    code, holes = bytearray(), list[Hole]()
    for start, piece in zip(starts, pieces, strict=True):
        if piece is None:
            continue
        if piece.conditional is not None:
            body = bytes((0x0F, 0x80 | piece.conditional))
        elif piece.jumps:
            body = b"\xe9"
        else:
            code += piece.code
            holes += [Hole(start + h.offset, h.size, h.relative, h.name, h.addend) for h in piece.holes]
            continue
        if piece.target is not None:
            distance = starts[piece.target] - (start + len(body) + 4)
            code += body + distance.to_bytes(4, "little", signed=True)
        else:
            holes.append(Hole(start + len(body), 4, True, piece.holes[0].name, -4))
            code += body + bytes(4)
    return Stencil(bytes(code), tuple(holes))
