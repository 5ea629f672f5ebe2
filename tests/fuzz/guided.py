# SPDX-License-Identifier: GPL-3.0-or-later
"""Fuzzing guided by coverage, for longer runs: `python -m tests.fuzz.guided engine|codec [SECONDS]`.

engine: builds the compiled rooms once more in a temporary folder, with address and undefined-behaviour
sanitizers and a counter for each branch, and keeps the packet sequences that reach new ones.
codec: the same idea for the Python codec, done by atheris.
A finding ends the run: the sanitizer's report, or the exception with the seed that leads to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from ctdbpy.errors import ProtocolError

ROOT: Final = Path(__file__).resolve().parents[2]
SIZE: Final = 1 << 16
CORPUS_MAX: Final = 5000
SANITIZE: Final = "-fsanitize=address,undefined"

#: What the instrumented code calls at each branch; built into one small library of its own.
COUNTER: Final = """
#include <stdint.h>
uint8_t fuzz_reached[65536];
extern "C" void __sanitizer_cov_trace_pc(void)
{
    uintptr_t where = (uintptr_t)__builtin_return_address(0);
    fuzz_reached[(where ^ (where >> 16)) & 65535] = 1;
}
"""


def build(folder: Path) -> dict[str, str]:
    """Build an instrumented copy of the package; returns the environment to run it in."""
    shutil.copytree(ROOT / "ctdbpy", folder / "ctdbpy", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "COPYING"):
        shutil.copy(ROOT / name, folder)
    counter = folder / "libcounter.so"
    (folder / "counter.cpp").write_text(COUNTER)
    compiler = ["g++", "-shared", "-fPIC", "-O1", str(folder / "counter.cpp"), "-o", str(counter)]
    subprocess.run(compiler, check=True, timeout=60)
    flags = f"{SANITIZE} -fsanitize-coverage=trace-pc -fno-omit-frame-pointer -g -O1"
    environment = {**os.environ, "CFLAGS": flags, "CXXFLAGS": flags, "LDFLAGS": SANITIZE}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=600)
    libraries = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join([*libraries, str(counter)]),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:max_malloc_fill_size=4096",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "CTDBPY_FUZZ_COUNTER": str(counter),
    }


def explore_engine(seconds: float) -> None:
    """Evolve packet sequences by what they reach. Runs inside the instrumented copy."""
    from tests.fuzz.mutation import client_packets, mutated, node_packets
    from tests.fuzz.test_engine_packets import DB, GENERATION, NODES, Target

    reached = (ctypes.c_ubyte * SIZE).in_dll(ctypes.CDLL(os.environ["CTDBPY_FUZZ_COUNTER"]), "fuzz_reached")
    seed = int(os.environ.get("CTDBPY_FUZZ_SEED", "1"))
    chance = random.Random(seed)
    # (from a node, packet): what follows what decides which branches there are to reach.
    valid = [(False, packet) for packet in client_packets(DB)]
    valid += [(True, packet) for packet in node_packets(GENERATION, DB, NODES)]
    corpus = [[choice] for choice in valid]
    known = bytearray(SIZE)
    packets = runs = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        steps = list(chance.choice(corpus))
        for _ in range(1 + chance.randrange(4)):
            at = chance.randrange(len(steps) + 1)
            if at == len(steps) or chance.random() < 0.2:
                steps.insert(at, chance.choice(valid))
            elif chance.random() < 0.1 and len(steps) > 1:
                del steps[at]
            else:
                is_node, packet = steps[at]
                steps[at] = is_node, mutated(chance, packet, is_node) or packet
        steps = [(is_node, packet) for is_node, packet in steps[:40] if len(packet) >= 4]
        ctypes.memset(reached, 0, SIZE)
        target = Target()
        for is_node, packet in steps:
            (target.from_nodes if is_node else target.from_clients)([packet])
        target.check_others()
        target.recover()
        target.turn()
        fresh = [place for place, hit in enumerate(bytes(reached)) if hit and not known[place]]
        for place in fresh:
            known[place] = 1
        if fresh and steps and len(corpus) < CORPUS_MAX:
            corpus.append(steps)
        packets += len(steps)
        runs += 1
    print(f"seed {seed}: {runs} sequences, {packets} packets, {sum(known)} branches, corpus {len(corpus)}")


def explore_codec(seconds: float) -> None:
    """Let atheris look for input that does more than raise ProtocolError."""
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.exit("cannot fuzz the codec: atheris is not installed; run .venv/bin/pip install atheris")

    with atheris.instrument_imports(include=["ctdbpy.wire"]):
        from ctdbpy.wire import controls, packets

    from tests.fuzz.mutation import client_packets, node_packets

    def one(data: bytes) -> None:
        with contextlib.suppress(ProtocolError):
            packet = packets.decode(data)
            if isinstance(packet, packets.ReqControl):
                controls.decode_request(packet.opcode, packet.data)
                controls.decode_reply(packet.opcode, packet.data)

    with tempfile.TemporaryDirectory() as folder:
        for number, packet in enumerate(client_packets(0x2001) + node_packets(7, 0x2001, 3)):
            Path(folder, str(number)).write_bytes(packet)
        atheris.Setup([sys.argv[0], folder, f"-max_total_time={int(seconds)}", "-max_len=4096"], one)
        atheris.Fuzz()


def main(arguments: list[str]) -> int:
    """Run one of the two explorations."""
    if not arguments or arguments[0] not in {"engine", "codec", "engine-inside"}:
        print(__doc__)
        return 2
    seconds = float(arguments[1]) if len(arguments) > 1 else 60.0
    if arguments[0] == "codec":
        explore_codec(seconds)
        return 0
    if arguments[0] == "engine-inside":
        explore_engine(seconds)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        environment = build(Path(folder))
        command = [sys.executable, "-m", "tests.fuzz.guided", "engine-inside", str(seconds)]
        return subprocess.run(
            command, cwd=folder, env=environment, timeout=seconds + 300, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
