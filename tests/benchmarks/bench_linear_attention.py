"""The training step of ``incontext/linear_attention`` beside the same step in jitted JAX and in eager PyTorch.

Run ``python tests/benchmarks/bench_linear_attention.py`` (extra ``bench``); it takes about two minutes.

1. Loss and all gradients at the paper's sizes (10 inputs, 10 context points, batch 2048), one thread each, in one
   process that goes round all candidates again and again, so that whatever else the machine does meets all of them.
   Each library computes the step in several ways: the whole layer on all tokens, as the authors do, and, as here,
   only the query's prediction (per task or batched, in two memory layouts, summed in either order). The goals are
   held against the step as most users would write it, and against the fastest of all these.
2. The same step against the number of context points: time and peak memory are linear in it.
3. The cold start: CPU time from the start of a process to the end of its first step.
"""

import os

# One thread each, before anything is imported that would start more.
os.environ.update(
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
)

import argparse
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from refimpl.incontext.linear_attention import LinearAttentionWeights, Prompts, loss_and_gradients, make_prompts
from refimpl.primitives.memory import keep_freed_memory
from refimpl.tasks.linear_regression import sample_linear_tasks

INPUTS, CONTEXT, BATCH = 10, 10, 2048
SIZE = INPUTS + 1
AS_WRITTEN = {"JAX": "JAX, per task", "PyTorch": "PyTorch, batched"}  # the step as most users of the library write it
GOALS = {"float32": {"JAX": 2.0, "PyTorch": 4.0}, "float64": {"JAX": 1.5, "PyTorch": 3.0}}
COLD_START_GOAL = 8.0

Step = Callable[[], tuple[Any, Any]]


def problem(dtype: Any, n_context: int = CONTEXT, n_tasks: int = BATCH) -> tuple[LinearAttentionWeights, Prompts]:
    """Random weights of one head, and prompts."""
    rng = np.random.default_rng(0)
    weights = (0.3 * rng.standard_normal((4, 1, SIZE, SIZE))).astype(dtype)
    return LinearAttentionWeights(*weights), make_prompts(
        sample_linear_tasks(n_tasks, INPUTS, n_context, 0.5, 1.0, rng, dtype=dtype)
    )


def refimpl_step(weights: LinearAttentionWeights, prompts: Prompts) -> Step:
    """What the training loop calls: the arguments were checked when it began."""
    return lambda: loss_and_gradients.unchecked([weights], prompts)


# --- the same step elsewhere; tokens (n_tasks, n_tokens, D), or (D, n_tokens, n_tasks) where the name says so ---


def jax_steps(weights: LinearAttentionWeights, prompts: Prompts) -> Iterator[tuple[str, Step]]:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def products(w: Any) -> tuple[Any, Any]:
        key, query, value, projection = w
        return key.T @ query, projection[-1] @ value

    def per_task(w: Any, tokens: Any) -> Any:
        a, b = products(w)

        def one(task: Any) -> Any:
            context, query = task[:-1], task[-1]
            return -(query[-1] + (context @ (a @ query)) @ (context @ b))

        return jax.vmap(one)(tokens)

    def per_task_gathered(w: Any, tokens: Any) -> Any:
        a, b = products(w)

        def one(task: Any) -> Any:
            context, query = task[:-1], task[-1]
            return -(query[-1] + b @ (context.T @ (context @ (a @ query))))

        return jax.vmap(one)(tokens)

    def batched(w: Any, tokens: Any) -> Any:
        a, b = products(w)
        context, query = tokens[:, :-1], tokens[:, -1]
        scores = jnp.einsum("bnd,bd->bn", context, query @ a.T)
        return -(query[:, -1] + jnp.einsum("bnd,bn->bd", context, scores) @ b)

    def tasks_last(w: Any, tokens: Any) -> Any:
        a, b = products(w)
        context, query = tokens[:, :-1], tokens[:, -1]
        scores = (context * (a @ query)[:, None]).sum(0)
        return -(query[-1] + (scores * jnp.einsum("d,dnb->nb", b, context)).sum(0))

    def whole_layer(w: Any, tokens: Any) -> Any:
        key, query, value, projection = w
        context = tokens[:, :-1]
        scores = jnp.einsum("btd,bnd->btn", tokens @ query.T, context @ key.T)
        return -(tokens + jnp.einsum("btn,bnd->btd", scores, context @ value.T) @ projection.T)[:, -1, -1]

    matrices = [jnp.asarray(matrix[0]) for matrix in weights]
    targets = jnp.asarray(prompts.targets[0])
    for predict in (per_task, per_task_gathered, batched, tasks_last, whole_layer):
        layout = (1, 0, 2) if predict is tasks_last else (2, 0, 1)
        tokens = jnp.asarray(np.ascontiguousarray(prompts.tokens.transpose(layout)))

        def loss(w: Any, tokens: Any, targets: Any, predict: Callable[..., Any] = predict) -> Any:
            return ((predict(w, tokens) - targets) ** 2).mean() / 2

        step = jax.jit(jax.value_and_grad(loss))
        yield (
            f"JAX, {predict.__name__.replace('_', ' ')}",
            lambda step=step, tokens=tokens: jax.block_until_ready(step(matrices, tokens, targets)),
        )


def torch_steps(weights: LinearAttentionWeights, prompts: Prompts) -> Iterator[tuple[str, Step]]:
    import torch

    torch.set_num_threads(1)

    def products(w: Any) -> tuple[Any, Any]:
        key, query, value, projection = w
        return key.T @ query, projection[-1] @ value

    def batched(w: Any, tokens: Any) -> Any:
        a, b = products(w)
        context, query = tokens[:, :-1], tokens[:, -1]
        scores = torch.bmm(context, (query @ a.T)[:, :, None])[:, :, 0]
        return -(query[:, -1] + (scores * (context @ b)).sum(-1))

    def batched_einsum(w: Any, tokens: Any) -> Any:
        a, b = products(w)
        context, query = tokens[:, :-1], tokens[:, -1]
        scores = torch.einsum("bnd,bd->bn", context, query @ a.T)
        return -(query[:, -1] + torch.einsum("bnd,bn->bd", context, scores) @ b)

    def tasks_last(w: Any, tokens: Any) -> Any:
        a, b = products(w)
        context, query = tokens[:, :-1], tokens[:, -1]
        scores = (context * (a @ query)[:, None]).sum(0)
        return -(query[-1] + (scores * torch.einsum("d,dnb->nb", b, context)).sum(0))

    def whole_layer(w: Any, tokens: Any) -> Any:
        key, query, value, projection = w
        context = tokens[:, :-1]
        scores = (tokens @ query.T) @ (context @ key.T).mT
        return -(tokens + scores @ (context @ value.T) @ projection.T)[:, -1, -1]

    matrices = [torch.tensor(matrix[0], requires_grad=True) for matrix in weights]
    targets = torch.tensor(prompts.targets[0])
    for predict in (batched, batched_einsum, tasks_last, whole_layer):
        layout = (1, 0, 2) if predict is tasks_last else (2, 0, 1)
        tokens = torch.tensor(np.ascontiguousarray(prompts.tokens.transpose(layout)))

        def step(predict: Callable[..., Any] = predict, tokens: Any = tokens) -> tuple[Any, Any]:
            loss = ((predict(matrices, tokens) - targets) ** 2).mean() / 2
            return loss.detach(), torch.autograd.grad(loss, matrices)

        yield f"PyTorch, {predict.__name__.replace('_', ' ')}", step


# --- measurements ---


def check_agreement(name: str, step: Step, reference: Step, tolerance: float) -> None:
    """Raise unless both steps have the same loss and gradients."""
    loss, gradients = step()
    expected_loss, (expected,) = reference()
    pairs = zip([loss, *gradients], [expected_loss, *(matrix[0] for matrix in expected)], strict=True)
    for index, (value, wanted) in enumerate(pairs):
        error = np.max(np.abs(np.asarray(value) - wanted)) / (np.max(np.abs(wanted)) or 1)
        if not error <= tolerance:
            raise AssertionError(f"{name}: result {index} differs by {error:.1e} of its size")


def time_in_turn(steps: dict[str, Step], rounds: int, repeats: int) -> dict[str, float]:
    """Median microseconds of a step, over rounds in which all candidates take their turn."""
    seen: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()
            start = time.perf_counter()
            for _ in range(repeats):
                step()
            seen[name].append((time.perf_counter() - start) / repeats * 1e6)
    return {name: median(times) for name, times in seen.items()}


def bench_step(rounds: int) -> None:
    for dtype in ("float32", "float64"):
        weights, prompts = problem(np.dtype(dtype))
        reference = refimpl_step(weights, prompts)
        steps = {"refimpl": reference} | dict(jax_steps(weights, prompts)) | dict(torch_steps(weights, prompts))
        for name, step in list(steps.items())[1:]:
            check_agreement(name, step, reference, 1e-4 if dtype == "float32" else 1e-12)
        slow = {name: step for name, step in steps.items() if name.endswith("whole layer")}
        fast = {name: step for name, step in steps.items() if name not in slow}
        times = time_in_turn(fast, rounds, 10) | time_in_turn(slow, max(3, rounds // 10), 2)
        print(f"\nLoss and all gradients, {dtype}, batch {BATCH}, one thread: median over {rounds} rounds")
        for name, microseconds in times.items():
            print(f"  {name:32s} {microseconds:9.0f} us {microseconds / times['refimpl']:7.2f} x")
        for library, goal in GOALS[dtype].items():
            fastest = min((name for name in times if name.startswith(library)), key=lambda name: times[name])
            for what, name in (("as written", AS_WRITTEN[library]), ("fastest of all", fastest)):
                ratio = times[name] / times["refimpl"]
                print(f"  {f'{what}: {name}':44s} {ratio:8.2f} x  (goal {goal}{', missed' if ratio < goal else ''})")


def bench_context() -> None:
    print("\nThe step against the number of context points, float32, batch 256")
    print("  context      us  us per point  peak MiB  MiB per 1000 points  scores n x n would be MiB")
    for n_context in (10, 20, 40, 80, 160, 320, 640, 1280):
        step = refimpl_step(*problem(np.float32, n_context, 256))
        microseconds = time_in_turn({"refimpl": step}, 15, 3)["refimpl"]
        tracemalloc.start()
        step()
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        scores = 256 * 4 * n_context**2 / 2**20
        print(
            f"  {n_context:7d} {microseconds:7.0f} {microseconds / n_context:13.2f} {peak:9.2f}"
            f" {1000 * peak / n_context:20.2f} {scores:26.1f}"
        )


FIRST_STEPS = {
    "refimpl": "import bench_linear_attention as b, numpy as np; b.refimpl_step(*b.problem(np.float32))()",
    "JAX": "import bench_linear_attention as b, numpy as np; next(b.jax_steps(*b.problem(np.float32)))[1]()",
    "PyTorch": "import bench_linear_attention as b, numpy as np; next(b.torch_steps(*b.problem(np.float32)))[1]()",
}


def cpu_seconds(command: str) -> float:
    """CPU time of a Python process that runs this, and of all that it starts."""
    import resource

    here = Path(__file__).resolve()
    path = os.pathsep.join([str(here.parents[2]), str(here.parent), os.environ.get("PYTHONPATH", "")])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", command], check=True, env=os.environ | {"PYTHONPATH": path})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def bench_cold_start(rounds: int) -> None:
    seen: dict[str, list[float]] = {name: [] for name in FIRST_STEPS}
    for _ in range(rounds):
        for name, command in FIRST_STEPS.items():
            seen[name].append(cpu_seconds(command))
    times = {name: median(values) for name, values in seen.items()}
    print(f"\nCold start to the end of the first step, CPU seconds, prompts included: median of {rounds}")
    for name, seconds in times.items():
        goal = f"  (goal {COLD_START_GOAL})" if name == "JAX" else ""
        print(f"  {name:32s} {seconds:9.2f} s  {seconds / times['refimpl']:7.2f} x{goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="rounds of the step benchmark (default 60)")
    parser.add_argument("--only", choices=["step", "context", "cold"], help="one of the three benchmarks")
    chosen = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    keep_freed_memory()  # for all candidates alike: they share this process's allocator
    if chosen.only in (None, "step"):
        bench_step(chosen.rounds)
    if chosen.only in (None, "context"):
        bench_context()
    if chosen.only in (None, "cold"):
        bench_cold_start(5)


if __name__ == "__main__":
    main()
