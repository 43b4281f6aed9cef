"""What a debugger's requests cost, over the remote protocol: round trips, memory, steps and breakpoints, beside QEMU's stub."""

import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from bench import engines as run
from bench.build import EMPTY, BenchError, build
from bench.engines import Engine
from bench.measuring import Bench
from bench.report import Row, Sample, Table, compare
from trapgate.gdb.client import Client, ClientError
from trapgate.gdb.target import BreakKind

LOOP = bytes.fromhex("48ffc0ebfb")  # inc rax; jmp back
START, BULK = 0x100000, 16 << 20  # of the memory that is read
PIECE = 0x800  # bytes that every stub gives in one reply


@dataclass(frozen=True, slots=True)
class Request:
    """`do` makes `times` requests of a guest that stands at the beginning of LOOP, at an address."""

    what: str
    times: int
    do: Callable[[Client, int, int], None]


def _registers(client: Client, at: int, times: int) -> None:
    for _ in range(times):
        client.ask(b"g")


def _memory(client: Client, at: int, times: int) -> None:
    for _ in range(times):
        client.ask(b"m%x,%x" % (at, PIECE))


def _bulk(client: Client, at: int, times: int) -> None:
    """As gdb dumps memory: in binary where the stub can, in the largest pieces that it takes."""
    most = next(int(one.partition("=")[2], 16) for one in client.features if one.startswith("PacketSize="))
    binary = client.may_ask(b"x%x,1" % START) != b""
    request, piece = (b"x%x,%x", most // 2 - 64) if binary else (b"m%x,%x", most // 2 - 64)
    for _ in range(times):
        for offset in range(0, BULK, piece):
            client.ask(request % (START + offset, min(piece, BULK - offset)))


def steps(client: Client, at: int, times: int) -> None:
    """Single steps."""
    for _ in range(times):
        client.step()


def hits(client: Client, at: int, times: int, kind: BreakKind = BreakKind.SOFTWARE) -> None:
    """As gdb goes on from a breakpoint: lifted, one step, set again."""
    client.insert(kind, at)
    for _ in range(times):
        client.remove(kind, at)
        client.step()
        client.insert(kind, at)
        client.go()
    client.remove(kind, at)


REQUESTS = (
    Request("registers", 500, _registers),
    Request("2 KiB of memory", 500, _memory),
    Request("16 MiB of memory", 1, _bulk),
    Request("a single step", 500, steps),
    Request("a breakpoint hit: lift, step, set, continue", 200, hits),
)


def stub(bench: Bench) -> Table:
    """Each request on each engine, in turn."""
    task = bench.progress.add_task("the stub", total=bench.runs * len(bench.engines) * len(REQUESTS))
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(bench.runs):
        for engine in bench.engines:
            for request in REQUESTS:
                bench.progress.update(task, description=f"{request.what} on {engine.name}")
                times.setdefault((request.what, engine.name), []).append(seconds(engine, request, bench.timeout))
                bench.progress.advance(task)
    names = [engine.name for engine in bench.engines]
    rows = [Row(one.what, f"x {one.times:,}", tuple(Sample(tuple(times[one.what, name])) for name in names)) for one in REQUESTS]
    return compare(f"The stub, over a UNIX socket, median of {bench.runs}", names, rows, rows)


def seconds(engine: Engine, request: Request, timeout: float) -> float:
    """Seconds for one request's turns, on a guest of its own."""
    image = build(EMPTY)
    with tempfile.TemporaryDirectory() as scratch:
        socket = Path(scratch) / "gdb"
        command = run.filled(f"{engine.image} {engine.debug}", image=str(image), memory=run.MEMORY, socket=str(socket))
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                with run.connected(engine, socket, timeout) as client:
                    at = arrive(client, image)
                    client.ask(b"M%x,%x:%b" % (at, len(LOOP), LOOP.hex().encode()))
                    begin = time.perf_counter()
                    request.do(client, at, request.times)
                    return time.perf_counter() - begin
            except ClientError as error:
                raise BenchError(f"{engine.name}: {request.what}: {error}") from error
            finally:
                process.kill()


def arrive(client: Client, image: Path) -> int:
    """Run to the guest's 64-bit C code; its address."""
    with image.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        found = table.get_symbol_by_name("run") if isinstance(table, SymbolTableSection) else None
        if not found:
            raise BenchError(f"{image.name} has no symbol `run`")
        at = int(found[0]["st_value"])
    client.insert(BreakKind.HARDWARE, at)
    client.go()
    client.remove(BreakKind.HARDWARE, at)
    return at
