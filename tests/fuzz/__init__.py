"""Fuzzing with coverage: inputs are mutated, and those that reach new branches of the rooms under test are mutated further.

In the order an input passes: `targets/` has one file a target, and its first inputs; `corpus` keeps what served, in `corpus/`;
`probes` tells which branches an input reached; `mutate` makes inputs of inputs; `explore` is the loop and the judge;
`worker` is a process with one target; `driver` watches workers, for `make fuzz` and for CI.

A seed decides everything: the same seed, corpus and sources give the same inputs in the same order.
"""
