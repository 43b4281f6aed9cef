"""Says who called: from the registers and the stack at one moment to the frames of all callers, as programs tell them."""
