"""Silicon is the judge: the same instruction bytes on the host CPU and on another CPU, compared bit by bit.

In the order a case passes:
`catalog`, `catalog_sse`, `catalog_x87`, `catalog_branches` list instructions; `forms` encodes them;
`inputs`, `inputs_float` (with `draft`, `operands`) make a state for each; `families` and `sample` choose cases by a seed;
`sequences` makes runs of them (out of `pieces`), `regressions` keeps what went wrong once;
`state` says what a state and an outcome are; `host` runs them natively (`host_code`, `host_worker`), `soft_runner` on any vCPU and
`qemu_runner` on QEMU (both with `guest_kernel`); `compare` tells what differs, without what `undefined` lists;
`host_trace` and `soft_tracer` record every step of a run as a `trace`, `stepwise` compares two;
`soft` makes the software CPU for the tests, `processor` tells which processor the host has;
`record` keeps what it answered to a choice of cases and to all of `vendor_kinds`, in `recordings/` as `recording` has the format;
`decoded` turns such cases into forms again;
`alignment_cases` are those with RFLAGS.AC, `segment_cases` those with operands in FS and GS.

A judge that is not here has left recordings. The judge knows user mode only. Faults are compared with vector, error code and CR2;
debug exceptions are judged elsewhere.
"""
