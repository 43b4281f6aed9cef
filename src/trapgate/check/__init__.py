"""Checks the debug exceptions of a guest in any monitor that has a gdb stub, alone and beside its debugger: `trapgate check`."""
