"""Stencils are shortened without changing where they go."""

from trapgate.stencil.stencil import Hole, Stencil
from trapgate.stencil.tidy import tidy


def jump(at: int, name: str) -> Hole:
    return Hole(at, 4, True, name, -4)


def test_a_conditional_jump_goes_straight_out_of_line() -> None:
    # test eax, eax; jne +5 -> the second jmp; jmp NEXT; jmp COLD
    code = b"\x85\xc0\x75\x05\xe9\0\0\0\0\xe9\0\0\0\0"
    tidied = tidy(Stencil(code, (jump(5, "NEXT"), jump(10, "COLD"))))
    assert tidied.code == b"\x85\xc0\x0f\x85\0\0\0\0\xe9\0\0\0\0"
    assert [(h.offset, h.name) for h in tidied.holes] == [(4, "COLD"), (9, "NEXT")]


def test_next_comes_last() -> None:
    # test eax, eax; je NEXT (a hole); jmp COLD: turned round
    code = b"\x85\xc0\x0f\x84\0\0\0\0\xe9\0\0\0\0"
    tidied = tidy(Stencil(code, (jump(4, "NEXT"), jump(9, "COLD"))))
    assert tidied.code == b"\x85\xc0\x0f\x85\0\0\0\0\xe9\0\0\0\0"
    assert [(h.offset, h.name) for h in tidied.holes] == [(4, "COLD"), (9, "NEXT")]


def test_branches_inside_still_meet_their_targets() -> None:
    # loop: dec eax; jne loop; jmp NEXT
    code = b"\xff\xc8\x75\xfc\xe9\0\0\0\0"
    tidied = tidy(Stencil(code, (jump(5, "NEXT"),)))
    assert tidied.code == b"\xff\xc8\x0f\x85" + (-8).to_bytes(4, "little", signed=True) + b"\xe9\0\0\0\0"
    assert [(h.offset, h.name) for h in tidied.holes] == [(9, "NEXT")]


def test_constants_keep_their_place() -> None:
    # mov eax, imm32 (a hole with an addend); jmp NEXT
    tidied = tidy(Stencil(b"\xb8\0\0\0\0\xe9\0\0\0\0", (Hole(1, 4, False, "Uimm", 3), jump(6, "NEXT"))))
    assert tidied.holes[0] == Hole(1, 4, False, "Uimm", 3)
