"""How long the site takes to build from a results file, and how it grows: ``python -m tests.benchmarks.bench_report``.

Two cores or more are used for the figures; the processor time tells how much of the wall time was somebody else's.
Fresh processes build the site of the first 1, 2, 4, ... papers from one results file (its path may be given; otherwise
``refimpl check`` of the quick claims writes one first, whose time does not count). To reach: all papers within 60 s,
and linear growth: the time from the size of the site by a straight line, with no sign of a square.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from refimpl.catalogue import PAPERS

TARGET = 60.0


def build(names: list[str], results: Path, directory: Path) -> tuple[float, float, int]:
    """Wall and processor seconds of one build, and the bytes that it wrote."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "refimpl", "report", *names, "--results", str(results), "--out", str(directory)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, processor, sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def main() -> int:
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "results.jsonl"
        if len(sys.argv) < 2:
            subprocess.run([sys.executable, "-m", "refimpl", "check", "--json", str(results)], check=True)
        counts = [*(2**power for power in range(len(PAPERS).bit_length())), len(PAPERS)]
        print(f"{'papers':>7} {'wall s':>8} {'cpu s':>8} {'MB':>7} {'cpu s per paper':>16}")
        seconds, processor, sizes = [], [], []
        for count in sorted(set(counts)):
            took, used, size = build([paper.slug for paper in PAPERS[:count]], results, Path(scratch) / f"site{count}")
            seconds.append(took)
            processor.append(used)
            sizes.append(size / 1e6)
            print(f"{count:>7} {took:>8.1f} {used:>8.1f} {size / 1e6:>7.1f} {used / count:>16.2f}", flush=True)
    slope, start = np.polyfit(sizes, processor, 1)
    error = np.sqrt(np.mean((np.polyval([slope, start], sizes) - processor) ** 2)) / np.mean(processor)
    print(f"processor time on a straight line: {start:.1f} s + {slope:.2f} s per MB, off by {error:.0%} of the mean")
    print(f"all {len(PAPERS)} papers: {seconds[-1]:.1f} s, target {TARGET:.0f} s")
    return 0 if seconds[-1] < TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
