"""Speaks gdb's serial protocol: without I/O, the machine behind it, and one file with sockets."""
