"""Travels in time: what reaches a guest from outside is kept with its moment, and comes again when it is run from a snapshot.

With the instruction clock nothing else can make two runs differ. A moment is the number of executed instructions and guest time,
which moves alone while the guest sleeps. `events` are what is kept; `pages` has RAM and machine at some moments; `recording` runs
the machine on both, forwards and to any moment; `back` finds what stopped it last before one; `tape` keeps events in a file.
"""
