"""Knows Linux guests: what their kernel is, where it lies and how its functions are called. Only reads; knows no machine."""
