"""How long a comparison takes: 200 inputs with gradients, for a candidate that costs no more than the reference.

``python -m tests.benchmarks.bench_oracle [SPEC ...]`` prints seconds of processor time, on one core, and ends with
status 1 if a spec of the default selection takes more than 5.
"""

import sys
import time

from refimpl import oracle
from refimpl.oracle.spec import find_spec
from tests.benchmarks.side_by_side import pin_to_one_core

INPUTS = 200
LIMIT = 5.0
DEFAULT = (
    "primitives/softmax_attention",
    "primitives/linear_attention",
    "primitives/layer_norm",
    "primitives/mlp",
    "linear_attention/softmax_predict",
)


def seconds(name: str, dtype: str) -> tuple[float, oracle.Report]:
    """Processor time of one comparison of the reference with itself, which must pass."""
    spec = find_spec(name)
    start = time.process_time()
    report = oracle.compare(spec.reference, spec, dtype=dtype, vjp=spec.vjp, max_examples=INPUTS, seed=0)
    return time.process_time() - start, report


def main(names: list[str]) -> int:
    slow = False
    pin_to_one_core()
    seconds("primitives/relu", "float32")  # imports
    print(f"{'spec':<40} {'dtype':<8} {'seconds':>8} {'arrays':>7}  verdict")
    for name in names or DEFAULT:
        for dtype in ("float64", "float32"):
            taken, report = seconds(name, dtype)
            print(f"{name:<40} {dtype:<8} {taken:8.2f} {report.comparisons:7d}  {report.verdict}", flush=True)
            slow |= not names and taken > LIMIT
    return int(slow)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
