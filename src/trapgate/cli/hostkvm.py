"""Tells what this host's /dev/kvm says it can do: the capabilities that debugging a guest rests on."""

import fcntl
import os

# Linux include/uapi/linux/kvm.h
KVM_GET_API_VERSION = 0xAE00
KVM_CHECK_EXTENSION = 0xAE03
API_VERSION = 12
CAPABILITIES = {
    "guest debugging": 23,  # KVM_CAP_SET_GUEST_DEBUG
    "debug registers": 50,  # KVM_CAP_DEBUGREGS
    "#DB with its causes": 164,  # KVM_CAP_EXCEPTION_PAYLOAD
    "steps without interrupts": 195,  # KVM_CAP_SET_GUEST_DEBUG2: a mask of the KVM_GUESTDBG flags it knows
    "bus-lock exits": 193,  # KVM_CAP_X86_BUS_LOCK_EXIT: a mask of modes
}
GUESTDBG_BLOCKIRQ = 0x00100000


def capabilities(path: str = "/dev/kvm") -> dict[str, bool]:
    """Each capability by a name for people, and whether the host has it; OSError when /dev/kvm cannot be used."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        version = fcntl.ioctl(handle, KVM_GET_API_VERSION, 0)
        if version != API_VERSION:
            raise OSError(0, f"its API version is {version}, not {API_VERSION}")
        found = {name: fcntl.ioctl(handle, KVM_CHECK_EXTENSION, number) for name, number in CAPABILITIES.items()}
    finally:
        os.close(handle)
    return {name: bool(value & GUESTDBG_BLOCKIRQ if name.startswith("steps") else value) for name, value in found.items()}
