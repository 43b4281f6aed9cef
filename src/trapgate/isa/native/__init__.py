"""Holds native functions: what translated code calls on or jumps to, written in the same vocabulary as the instruction bodies.

They settle the plain case of each task and hand everything else to Python before anything has changed.
"""
