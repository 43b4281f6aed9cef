"""Says how the guest is set to the network that passt leads to, and how it finds names there."""

from ipaddress import IPv4Network
from pathlib import Path

from trapgate.exec.messages import Network
from trapgate.passt import ADDRESS, GATEWAY, MTU, NETMASK_BITS, RESOLVER

RESOLV_CONF = Path("/etc/resolv.conf")


def network(path: Path = RESOLV_CONF) -> Network:
    """The addresses that passt has it by. `path` says whom the host asks for names: the guest asks passt, which asks them."""
    netmask = str(IPv4Network((0, NETMASK_BITS)).netmask)
    return Network(ADDRESS, netmask, GATEWAY, MTU, resolver(path))


def resolver(path: Path) -> bytes:
    """What resolv.conf(5) is in the guest: the host's own options and domains, and passt in the place of its servers.

    They may listen on the host's loopback, which is not the guest's. Empty: the host has no servers, or no file.
    """
    try:
        lines = path.read_bytes().replace(b"\0", b"").splitlines()
    except OSError:
        return b""
    kept = [line for line in lines if line.split()[:1] != [b"nameserver"]]
    if len(kept) == len(lines):
        return b""
    return b"".join(line + b"\n" for line in [*kept, b"nameserver " + RESOLVER.encode()])
