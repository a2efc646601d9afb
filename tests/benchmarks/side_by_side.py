"""Two implementations timed in one run, one thread each, alternating, so that a busy machine slows both alike.

Import this module before JAX, which reads the environment that it sets once.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")


def pin_to_one_core() -> None:
    """Keep the whole process, both implementations, on one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def seconds_a_call(function: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def compare(
    name: str, ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = 15, budget: float = 0.1
) -> float:
    """Print the median times of both and their ratio, theirs over ours; return the ratio.

    Each round times both, for about `budget` seconds each; the ratio is the median of the rounds' ratios.
    """
    ours(), theirs()  # compile, and fill the caches
    calls = [max(1, int(budget / seconds_a_call(function, 3))) for function in (ours, theirs)]
    timed = [[seconds_a_call(ours, calls[0]), seconds_a_call(theirs, calls[1])] for _ in range(rounds)]
    ratio = statistics.median(b / a for a, b in timed)
    mine, other = (statistics.median(column) * 1e6 for column in zip(*timed, strict=True))
    print(f"{name:<60} {mine:10.1f} us {other:10.1f} us   x {ratio:5.2f}")
    return ratio


def header() -> None:
    print(f"{'':<60} {'refimpl':>13} {'jitted JAX':>13}   JAX / refimpl")


def verdict(ratios: list[float]) -> int:
    """Print the slowest ratio and how many rows are faster; return 1, for the shell, if one is slower by a tenth."""
    faster = sum(ratio > 1 for ratio in ratios)
    print(f"slowest: {min(ratios):.2f} of JAX's speed, to reach 0.91; faster in {faster} of {len(ratios)} rows")
    return int(min(ratios) < 1 / 1.1)
