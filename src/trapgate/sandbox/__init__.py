"""Limits what a process may still ask of the host once a guest is about to run in it: a seccomp filter and a Landlock rule set.

Both are made here, with the kernel's own calls: a filter is a page of numbers, a rule set three calls. The packages that offer them
ask for libseccomp on the host, or know half of the rights.
"""
