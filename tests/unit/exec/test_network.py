"""How the guest is set to the host's network, whatever the host's resolv.conf is."""

from pathlib import Path

import pytest

from trapgate.exec.network import network


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (b"nameserver 127.0.0.53\noptions edns0\nsearch a.example\n", b"options edns0\nsearch a.example\nnameserver 10.0.2.3\n"),
        (b"# none\n nameserver\t::1\nnameserver 192.0.2.1", b"# none\nnameserver 10.0.2.3\n"),
        (b"nameserver 1.1.1.1\n\0\xff", b"\xff\nnameserver 10.0.2.3\n"),
        (b"search a.example\n", b""),
        (b"", b""),
    ],
)
def test_names_are_asked_of_passt(theirs: bytes, ours: bytes, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_bytes(theirs)
    assert network(tmp_path / "resolv.conf").resolver == ours


def test_a_host_without_the_file(tmp_path: Path) -> None:
    found = network(tmp_path / "none")
    assert (found.address, found.netmask, found.gateway, found.resolver) == ("10.0.2.15", "255.255.255.0", "10.0.2.2", b"")
