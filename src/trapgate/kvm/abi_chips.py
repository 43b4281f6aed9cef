"""Declares the interface of KVM's own interrupt controllers, timer and clock (Linux asm/kvm.h, include/uapi/linux/kvm.h)."""

import ctypes
from ctypes import Structure, c_int64, c_uint8, c_uint16, c_uint32, c_uint64

from trapgate.kvm.abi import io, ior, iow, iowr


class IrqLevel(Structure):
    """kvm_irq_level: a GSI and the level of its line."""

    _fields_ = (("irq", c_uint32), ("level", c_uint32))


class PicState(Structure):
    """kvm_pic_state: one 8259."""

    _fields_ = tuple(
        (name, c_uint8)
        for name in (
            "last_irr", "irr", "imr", "isr", "priority_add", "irq_base", "read_reg_select", "poll", "special_mask", "init_state",
            "auto_eoi", "rotate_on_auto_eoi", "special_fully_nested_mode", "init4", "elcr", "elcr_mask",
        )
    )  # fmt: skip


class Irqchip(Structure):
    """kvm_irqchip, as one of the 8259s."""

    _fields_ = (("chip_id", c_uint32), ("pad", c_uint32), ("pic", PicState), ("room", c_uint8 * 496))


class IoApicChip(Structure):
    """kvm_irqchip, as the I/O APIC."""

    _fields_ = (
        ("chip_id", c_uint32), ("pad", c_uint32), ("base", c_uint64), ("select", c_uint32), ("identifier", c_uint32),
        ("lines", c_uint32), ("pad1", c_uint32), ("entries", c_uint64 * 24), ("room", c_uint8 * 296),
    )  # fmt: skip


PIC_MASTER, PIC_SLAVE, IOAPIC = 0, 1, 2  # chip_id


class Route(Structure):
    """kvm_irq_routing_entry of the kind that leads to a pin of a chip."""

    _fields_ = (
        ("gsi", c_uint32), ("type", c_uint32), ("flags", c_uint32), ("pad", c_uint32),
        ("irqchip", c_uint32), ("pin", c_uint32), ("room", c_uint32 * 6),
    )  # fmt: skip


TO_IRQCHIP = 1  # type
MAX_ROUTES = 64


class Routing(Structure):
    """kvm_irq_routing with room for `MAX_ROUTES`."""

    _fields_ = (("nr", c_uint32), ("flags", c_uint32), ("entries", Route * MAX_ROUTES))


class PitConfig(Structure):
    """kvm_pit_config."""

    _fields_ = (("flags", c_uint32), ("pad", c_uint32 * 15))


PIT_SPEAKER = 1  # port 61h is KVM's, too
PIT_SPEAKER_ON = 2  # PitState.flags: bit 1 of port 61h


class PitChannel(Structure):
    """kvm_pit_channel_state."""

    _fields_ = (
        ("count", c_uint32), ("latched_count", c_uint16), ("count_latched", c_uint8), ("status_latched", c_uint8),
        ("status", c_uint8), ("read_state", c_uint8), ("write_state", c_uint8), ("write_latch", c_uint8), ("rw_mode", c_uint8),
        ("mode", c_uint8), ("bcd", c_uint8), ("gate", c_uint8), ("count_load_time", c_int64),
    )  # fmt: skip


class PitState(Structure):
    """kvm_pit_state2."""

    _fields_ = (("channels", PitChannel * 3), ("flags", c_uint32), ("reserved", c_uint32 * 9))


class LapicState(Structure):
    """kvm_lapic_state: the register page, a register each 16 bytes."""

    _fields_ = (("regs", c_uint8 * 1024),)


class MpState(Structure):
    """kvm_mp_state."""

    _fields_ = (("mp_state", c_uint32),)


MP_RUNNABLE, MP_HALTED = 0, 3


class ClockData(Structure):
    """kvm_clock_data: what a guest's kvmclock shows, in ns."""

    _fields_ = (
        ("clock", c_uint64), ("flags", c_uint32), ("pad0", c_uint32), ("realtime", c_uint64), ("host_tsc", c_uint64),
        ("pad", c_uint32 * 4),
    )  # fmt: skip


SIZES: dict[type[Structure], int] = {
    IrqLevel: 8, PicState: 16, Irqchip: 520, IoApicChip: 520, Route: 48, Routing: 8 + 48 * MAX_ROUTES, PitConfig: 64,
    PitChannel: 24, PitState: 112, LapicState: 1024, MpState: 4, ClockData: 48,
}  # fmt: skip
assert all(ctypes.sizeof(kind) == size for kind, size in SIZES.items()), "the host's C ABI is not that of x86-64 Linux"

# Of a VM
CREATE_IRQCHIP, IRQ_LINE = io(0x60), iow(0x61, IrqLevel)
GET_IRQCHIP, SET_IRQCHIP = iowr(0x62, Irqchip), ior(0x63, Irqchip)
SET_GSI_ROUTING = iow(0x6A, 8)
CREATE_PIT2, GET_PIT2, SET_PIT2 = iow(0x77, PitConfig), ior(0x9F, PitState), iow(0xA0, PitState)
SET_CLOCK, GET_CLOCK = iow(0x7B, ClockData), ior(0x7C, ClockData)
# Of a vCPU
GET_LAPIC, SET_LAPIC = ior(0x8E, LapicState), iow(0x8F, LapicState)
GET_MP_STATE, SET_MP_STATE = ior(0x98, MpState), iow(0x99, MpState)

# Capabilities
CAP_IRQCHIP, CAP_MP_STATE, CAP_IRQ_ROUTING, CAP_PIT2, CAP_PIT_STATE2 = 0, 14, 25, 33, 35
CAP_ADJUST_CLOCK, CAP_TSC_DEADLINE, CAP_APIC_BUS_CYCLE = 39, 72, 237
