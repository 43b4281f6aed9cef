"""This room decides about debugging: whose #DB it is, which breakpoints are armed, which bus locks are reported. It does no I/O."""
