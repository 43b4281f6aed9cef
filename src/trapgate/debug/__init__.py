"""What decides about debugging: whose #DB it is, which breakpoints are armed, which bus locks are told. No I/O."""
