"""The table of targets: their names, each a module here, and the rooms that get probes.

A room is a module by its name, or all of a package with a dot behind it. The modules are imported behind the probes.
"""

ROOMS = {
    "elf": ("trapgate.boot.",),
    "multiboot": ("trapgate.boot.",),
    "linux": ("trapgate.boot.",),
    "flat": ("trapgate.boot.",),
    "initrd": ("trapgate.boot.",),
    "symbols": ("trapgate.symbols", "elftools.elf."),
    "framing": ("trapgate.gdb.framing",),
    "stub": ("trapgate.gdb.",),
    "devices": ("trapgate.devices.",),
    "kept": ("trapgate.stencil.cache", "trapgate.stencil.library", "trapgate.soft.loops.kept", "trapgate.soft.blocks.known"),
    "debugger": ("trapgate.gdb.", "trapgate.debug.", "trapgate.machine"),
    "tables": ("trapgate.soft.exact.",),
    "command_line": ("trapgate.cli.", "trapgate.gdb.address", "trapgate.arch.models"),
    "agent": ("trapgate.gdb.agent",),
    "shares": ("trapgate.fuse.",),
}
