"""Runs programs of this host in a Linux guest: the kernel, the first program, what passes between, and the machine kept booted."""
