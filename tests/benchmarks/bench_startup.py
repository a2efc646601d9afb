"""How long it takes to import refimpl and to list the papers: ``python -m tests.benchmarks.bench_startup``.

Fresh processes, the cases in turn so that a busy machine slows all alike; medians of wall and of processor time.
"""

import os
import resource
import subprocess
import sys
import time
from statistics import median

ROUNDS = 15
CASES = {
    "python": ["-c", ""],
    "import numpy": ["-c", "import numpy"],
    "import numpy, refimpl": ["-c", "import numpy, refimpl"],
    "import a paper": ["-c", "import refimpl.incontext.linear_attention"],
    "refimpl list": ["-m", "refimpl", "list"],
    "refimpl list --json": ["-m", "refimpl", "list", "--json"],
}


def measure(arguments: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one fresh process."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, processor


def main() -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for arguments in CASES.values():  # writes the byte code that any second run has
        measure(arguments)
    taken = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, arguments in CASES.items():
            taken[name].append(measure(arguments))
    wall = {name: median(one for one, _ in times) for name, times in taken.items()}
    processor = {name: median(one for _, one in times) for name, times in taken.items()}
    print(f"{'median of ' + str(ROUNDS) + ' fresh processes':<32}{'wall s':>8}{'cpu s':>8}")
    for name in CASES:
        print(f"{name:<32}{wall[name]:>8.3f}{processor[name]:>8.3f}")
    for what, seconds, target in [
        ("refimpl beyond numpy", wall["import numpy, refimpl"] - wall["import numpy"], 0.15),
        ("refimpl list", wall["refimpl list"], 1.0),
    ]:
        print(f"{what}: {seconds:.3f} s, target {target} s, {'reached' if seconds < target else 'MISSED'}")


if __name__ == "__main__":
    main()
