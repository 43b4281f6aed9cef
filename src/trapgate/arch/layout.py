"""Says where the hardware of the board answers: ports, interrupt lines, addresses, a sentence each. Shared by machine and boot."""

# Ports (first port of each block; the length follows where a table needs it)
PIC_MASTER_PORT = 0x20  # command and data port of the first 8259
PIC_SLAVE_PORT = 0xA0  # command and data port of the second 8259
ELCR_PORT = 0x4D0  # edge/level control: one byte for each 8259
PIT_PORT = 0x40  # 8254: three channels and the control word
SYSTEM_CONTROL_PORT = 0x61  # gate and output of PIT channel 2, speaker
SYSTEM_PORT_A = 0x92  # fast reset (bit 0) and A20 gate (bit 1) of the PS/2
I8042_DATA_PORT = 0x60  # keyboard controller: data
I8042_COMMAND_PORT = 0x64  # keyboard controller: status and command; command FEh resets the machine
RTC_PORT = 0x70  # CMOS index (bit 7 masks NMI) and data
RTC_CENTURY_INDEX = 0x32  # CMOS byte that holds the century, as the FADT says
COM1_PORT = 0x3F8  # 16550A, eight registers
DEBUGCON_PORT = 0xE9  # a byte written here is printed; reads answer E9h
EXIT_PORT = 0xF4  # a value written here ends the run with status value * 2 + 1
EXIT_PORT_ISA = 0x501  # the same, at the port that older guests use
READY_PORT = 0x505  # where the guest of `trapgate exec` says that it may be kept
FW_CFG_PORT = 0x510  # QEMU's firmware configuration: selector, data, DMA address
FW_CFG_LENGTH = 12  # ports that belong to it
TEST_SCRATCH_PORT = 0xE0  # four bytes that remember, for guests that test port accesses
TEST_SCRATCH_BYTE_PORT = 0xE8  # one more byte
TEST_IRQ_PORT = 0x2000  # one port for each interrupt line, for guests that test interrupt controllers
ACPI_PM_BASE = 0x600  # ACPI fixed hardware, first port
ACPI_PM_LENGTH = 0x10  # ports that belong to it
PM1_EVENT_PORT = 0x600  # PM1a_EVT_BLK: status (2 bytes), enable (2 bytes)
PM1_EVENT_LENGTH = 4
PM1_CONTROL_PORT = 0x604  # PM1a_CNT_BLK; writing 2000h (SLP_EN, SLP_TYP 0) powers off
PM1_CONTROL_LENGTH = 2
PM_TIMER_PORT = 0x608  # PM_TMR_BLK
PM_TIMER_LENGTH = 4
PM_TIMER_HZ = 3_579_545  # ACPI 6.5, 4.8.2.1
PM_TIMER_BITS = 32  # FADT flag TMR_VAL_EXT is set
S5_SLEEP_TYPE = 0  # SLP_TYP of S5: the first two elements of \_S5. 0, because small guests write 2000h without looking
PCI_PORT = 0xCF8  # configuration address (4 bytes) and data (4 bytes)
RESET_PORT = 0xCF9  # FADT RESET_REG, one byte
RESET_VALUE = 0x06  # FADT RESET_VALUE: bit 2 starts the reset, bit 1 makes it a hard one

# ISA interrupt lines
PIT_IRQ = 0
KEYBOARD_IRQ = 1
COM1_IRQ = 4
RTC_IRQ = 8
SCI_IRQ = 9  # ACPI events: level, active high
MOUSE_IRQ = 12
PIT_GSI = 2  # MADT interrupt source override: IRQ 0 arrives at pin 2 of the I/O APIC
VIRTIO_GSI = 16  # interrupt line of the first virtio device, level-triggered; the next ones have the next
GSI_COUNT = 24  # pins of the I/O APIC, from GSI 0

# Physical addresses
LAPIC_BASE = 0xFEE0_0000  # local APIC page after reset; IA32_APIC_BASE moves it
IOAPIC_BASE = 0xFEC0_0000  # I/O APIC page
IOAPIC_ID = 0  # its identifier in the MADT
TEST_MEMORY_BASE = 0xFF00_0000  # memory-mapped bytes that remember, for guests that test MMIO
TEST_MEMORY_LENGTH = 0x1_0000
VIRTIO_BASE = 0xFEB0_0000  # registers of the first virtio device; those of the next follow a page further each
VIRTIO_LENGTH = 0x200  # registers and configuration of one
VIRTIO_MOST = 8  # devices
PAGE_BYTES = 0x1000  # length of a page
MIRROR_BASE = 0xFFFE_0000  # read-only: the firmware at the end of the first MiB once more, where a CPU begins after reset
MIRRORED_BASE = 0xE_0000  # that firmware
MIRROR_LENGTH = 0x2_0000  # its room

# Frequencies
PIT_HZ = 1_193_182  # the 8254's input
