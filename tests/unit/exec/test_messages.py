"""What passes between the host and the guest's first program: both halves agree, and nothing is believed."""

import shutil
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.exec import messages
from trapgate.exec.errors import ExecError
from trapgate.exec.messages import (
    Exited,
    Failed,
    Killed,
    Network,
    Nonsense,
    NotStarted,
    Port,
    Reports,
    Request,
    Size,
    Started,
    Stopped,
    Used,
    Where,
)
from trapgate.guests import INIT

TALK = INIT.with_suffix("") / "talk.h"
ASKED = r"""
#include <stddef.h>
#include "%s"
int printf(const char *, ...);
#define AT(field) printf("%%zu ", offsetof(struct request, field))
int main(void)
{
    AT(length); AT(seconds); AT(ignored); AT(limits); AT(entropy); AT(uid); AT(groups); AT(streams); AT(share); AT(size);
    AT(modes); AT(blocked); AT(address); AT(netmask); AT(gateway); AT(mtu);
    printf("%%zu %%zu %%zu ", sizeof(struct request), sizeof(struct order), sizeof(struct report));
    printf("%%d %%d %%d %%d %%d ", CONTROL, STDIN, STDOUT, STDERR, TERMINAL);
    printf("%%d %%d %%d %%d ", TO_PORT, TO_TERMINAL, TO_NULL, TO_STDOUT);
    printf("%%d %%d %%d %%d ", SIGNAL, SIGNAL_GROUP, RESIZE, UNREAD);
    printf("%%d %%d %%d %%d %%d %%d %%d ", STARTED, EXITED, KILLED, STOPPED, NOT_STARTED, FAILED, USED);
    return 0;
}
"""


def request(**changes: object) -> Request:
    plain = {
        "arguments": [b"a", b"b c"], "environment": [b"X=1"], "directory": b"/d", "host": b"h", "uid": 1000, "gid": 100,
        "groups": [100, 27], "umask": 0o22, "limits": [(number, -1) for number in range(16)],
    }  # fmt: skip
    return Request(**{**plain, **changes})  # type: ignore[arg-type]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_both_halves_agree(tmp_path: Path) -> None:
    (tmp_path / "ask.c").write_text(ASKED % TALK)
    subprocess.run(["gcc", "-w", "-o", tmp_path / "ask", tmp_path / "ask.c"], check=True)
    told = subprocess.run([tmp_path / "ask"], capture_output=True, check=True, text=True).stdout
    offsets = "0 8 24 32 288 352 364 380 392 396 404 440 448 452 456 460"
    assert told.split() == [*offsets.split(), "464", "8", "12", *"12345", *"0123", *"1234", *"1234567"]
    assert messages._REQUEST.size == 464
    assert [int(one) for one in Port] == [1, 2, 3, 4, 5]
    assert [int(one) for one in (Where.PORT, Where.TERMINAL, Where.NOWHERE, Where.STDOUT)] == [0, 1, 2, 3]


def test_a_request_as_it_lies_in_memory() -> None:
    made = request(
        ignored=frozenset((1, 64)), blocked=frozenset((10,)),
        streams=(Where.NOWHERE, Where.PORT, Where.STDOUT), writes=[b"/w"], size=Size(33, 99),
        modes=bytes(range(36)),
    ).encode(5_000_000_007)  # fmt: skip
    assert struct.unpack_from("<4Q", made) == (len(made), 5, 7, 1 | 1 << 63)
    assert struct.unpack_from("<4Q", made, 32) == (0, (1 << 64) - 1, 1, (1 << 64) - 1)
    assert struct.unpack_from("<11I", made, 352) == (1000, 100, 0o22, 2, 1, 2, 1, 2, 0, 3, 1)
    assert struct.unpack_from("<4H36sQ", made, 396) == (33, 99, 0, 0, bytes(range(36)), 1 << 9)
    assert made[448:464] == bytes(16)
    assert made[464:] == struct.pack("<2I", 100, 27) + b"h\0\0/d\0/w\0a\0b c\0X=1\0"
    assert made[288:352] != request().encode(0)[288:352]  # entropy


def test_a_request_with_a_network() -> None:
    network = Network("10.0.2.15", "255.255.255.0", "10.0.2.2", 65520, b"nameserver 10.0.2.3\n")
    made = request(network=network).encode(0)
    assert made[448:460] == bytes([10, 0, 2, 15, 255, 255, 255, 0, 10, 0, 2, 2])
    assert struct.unpack_from("<I", made, 460) == (65520,)
    assert made[464 + 8 :].startswith(b"h\0nameserver 10.0.2.3\n\0/d\0")


def test_a_request_that_is_too_long() -> None:
    with pytest.raises(ExecError, match="8388608 are most"):
        request(arguments=[b"x" * (8 << 20)]).encode(0)


def told(kind: int, value: int = 0, behind: bytes = b"") -> bytes:
    return struct.pack("<3I", kind, value, len(behind)) + behind


REPORTS = {
    told(1, 77): Started(), told(2, 42): Exited(42), told(3, 9): Killed(9), told(4, 20): Stopped(20), told(5, 2): NotStarted(2),
    told(6, 13, b"a pipe"): Failed("a pipe", 13), told(7, 0, struct.pack("<Q", 1 << 40)): Used(1 << 40),
}  # fmt: skip


@given(st.lists(st.sampled_from(list(REPORTS))), st.integers(1, 9))
def test_reports_in_pieces(parts: list[bytes], size: int) -> None:
    reports, data = Reports(), b"".join(parts)
    found = [one for at in range(0, len(data), size) for one in reports.feed(data[at : at + size])]
    assert found == [REPORTS[part] for part in parts]


@given(st.binary())
def test_nothing_is_believed(data: bytes) -> None:
    with suppress(Nonsense):
        list(Reports().feed(data))


@pytest.mark.parametrize("data", [told(0), told(8), told(7, 0, b"short"), struct.pack("<3I", 6, 0, 1 << 20)])
def test_nonsense(data: bytes) -> None:
    with pytest.raises(Nonsense):
        list(Reports().feed(data))


def test_orders() -> None:
    orders = messages.signal(15), messages.signal_group(2), messages.resize(Size(24, 80)), messages.unread(Port.STDERR)
    assert [struct.unpack("<2I", one) for one in orders] == [(1, 15), (2, 2), (3, 24 << 16 | 80), (4, 4)]
