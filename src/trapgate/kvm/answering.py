"""Has devices answer the guest's plain accesses at once, and the guest go on: the shortest way from one exit of KVM to the next.

An access costs KVM_RUN, one look at the guest's DR7, for no CPU looks for breakpoints on ports where KVM intercepts IN and OUT, and
what the device does. All else that may happen, a kick among it, ends KVM_RUN, or comes by another exit, and is `cpu`'s.
"""

import signal
from struct import Struct

from trapgate.kvm import abi
from trapgate.kvm.core import OUT, Core
from trapgate.kvm.kicks import KICK
from trapgate.vcpu import Devices

_PORT = Struct("<BBHIQ").unpack_from  # abi.ExitIo
_MEMORY = Struct("<Q8sIB").unpack_from  # abi.ExitMmio
_REASON = abi.Run.exit_reason.offset // 4
_EXIT = abi.Run.exit.offset
_DATA = _EXIT + abi.ExitMmio.data.offset


class Answering(Core):
    """Leaves the guest's accesses to `devices`, if it has any."""

    devices: Devices | None = None

    def answer(self) -> bool:
        """After an exit, and while the debugger has nothing armed: answer accesses until something else comes. As `enter`.

        With the kernel's interrupt controllers: without, what a device does may want an interrupt before the next instruction.
        """
        devices, fd, forget = self.devices, self.fd, self.registers.forget
        if devices is None or self.chips is None or self.bus_lock_exits:
            return True
        page, words, run, has_breakpoints, happened = fd.page, fd.words, fd.run, fd.has_breakpoints, True
        self._inside = True  # a kick's signal waits, and ends the next KVM_RUN
        while happened:
            reason = words[_REASON]
            if reason == abi.EXIT_IO:
                direction, size, port, count, at = _PORT(page, _EXIT)
                if count != 1 or has_breakpoints():
                    break
                if direction == OUT:
                    self._waiting = True
                    devices.port_write(port, size, page[at] if size == 1 else int.from_bytes(page[at : at + size], "little"))
                elif size == 1:  # as nearly all; a slice of the page costs as much as all of a device
                    page[at] = devices.port_read(port, 1)
                    self._waiting = True
                else:
                    page[at : at + size] = devices.port_read(port, size).to_bytes(size, "little")
                    self._waiting = True
            elif reason == abi.EXIT_MMIO:
                address, data, size, is_write = _MEMORY(page, _EXIT)
                if is_write:
                    self._waiting = True
                    devices.memory_write(address, size, int.from_bytes(data[:size], "little"))
                else:
                    page[_DATA : _DATA + size] = devices.memory_read(address, size).to_bytes(size, "little")
                    self._waiting = True
            else:
                break
            if self.unread:  # somebody looked at the registers, for which the instruction was completed
                self.unread = False
                break
            happened = run()
            forget()
            self._waiting = False
        self._inside = False
        if not happened:
            signal.sigtimedwait({KICK}, 0)
        return happened
