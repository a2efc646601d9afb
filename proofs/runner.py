"""Running claims and their controls, on this machine's cores or on a Dask cluster.

A :class:`Task` is all that a worker needs: it imports the claim's module by name, so that nothing is pickled but text.
Both runners yield exactly one :class:`~proofs.results.Result` a claim, as claims end.
"""

import contextlib
import hashlib
import importlib.metadata
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import proofs
import refimpl
from proofs.ledger import EXTRAS, Check, Claim, Control, Evidence, find, missing_requirements
from proofs.results import FORMAT, CheckResult, Controls, OneControl, Result, Status, plain
from refimpl.catalogue import PAPERS, Paper

# A claim in flight when its worker dies runs once more; that it was the cause is then as good as certain.
ATTEMPTS = 2

# Claims are as many as the cores: a BLAS that takes all cores for each of them only makes them wait for one another.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

# A Dask worker may have several threads, but neither Hypothesis nor a time measured stands another claim beside it.
_one_at_a_time = threading.Lock()


class Task(NamedTuple):
    """A claim to run: the module that enters it, and what its result says whatever becomes of it."""

    module: str
    header: dict[str, Any]


def task(one: Claim, paper: Paper, seed: int = 0) -> Task:
    """The task of running this claim of this paper."""
    module = one.function.__module__
    return Task(
        module,
        {
            "format": FORMAT,
            "claim": one.id,
            "title": one.title,
            "paper": one.paper,
            "area": paper.area,
            "arxiv": paper.arxiv,
            "source": one.source,
            "method": one.method,
            "scope": one.scope,
            "cost": one.cost,
            "seed": seed,
            "code": code_version(one.paper, module),
        },
    )


@cache
def code_version(paper: str, module: str) -> str:
    """A digest of the sources that a claim may depend on: its module, and refimpl and proofs without other papers'."""
    others = {other.slug for other in PAPERS} - {paper}
    digest = hashlib.sha256(Path(str(sys.modules[module].__file__)).read_bytes())
    for path, content in _sources():
        if not others & {*path.parts, path.stem}:
            digest.update(path.as_posix().encode() + content)
    return digest.hexdigest()[:16]


@cache
def _sources() -> list[tuple[Path, bytes]]:
    """The digest of each module of refimpl and proofs, with its path from the package on."""
    return [
        (path.relative_to(root.parent), hashlib.sha256(path.read_bytes()).digest())
        for root in (Path(str(package.__file__)).parent for package in (refimpl, proofs))
        for path in sorted(root.rglob("*.py"))
    ]


@cache
def environment() -> str:
    """The versions that a result may depend on."""
    libraries = (f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy", "sympy", "hypothesis"))
    return ", ".join((f"python {platform.python_version()}", *libraries))


def is_current(result: Result, wanted: Task) -> bool:
    """Whether a stored result is what the task would give: of the same seed, sources and versions."""
    stored = (result["seed"], result["code"], result["environment"])
    return stored == (wanted.header["seed"], wanted.header["code"], environment())


def decide(wanted: Task, elsewhere: bool = False) -> Result:
    """Run a claim and its controls in this process; if that is `elsewhere`, its sources must be the same."""
    with _one_at_a_time:
        start = time.perf_counter()
        try:
            outcome = _decide(wanted, elsewhere)
        # Whatever a claim raises, even SystemExit, is its own result and must not end the run.
        except BaseException as error:
            outcome = _no_outcome("error", error)
        return _result(wanted, outcome, time.perf_counter() - start)


def _decide(wanted: Task, elsewhere: bool) -> dict[str, Any]:
    one = find(wanted.module, wanted.header["claim"])
    if elsewhere and wanted.header["code"] != (here := code_version(one.paper, wanted.module)):
        raise RuntimeError(f"{platform.node()} has other sources ({here}) than this run ({wanted.header['code']})")
    if missing := missing_requirements(one):
        extras = ",".join(sorted({EXTRAS[module] for module in missing}))
        return _no_outcome("skipped", f"needs {', '.join(missing)}: pip install 'refimpl[{extras}]'")
    seed = wanted.header["seed"]
    evidence = one.evidence(seed)
    outcome: dict[str, Any] = {
        "status": _status(one, evidence),
        "measured": evidence.measured,
        "criterion": evidence.criterion,
        "checks": [_check_result(check) for check in evidence.checks],
    }
    controls: list[OneControl] = []
    outcome["control"] = Controls(fails=False, measured="", controls=controls)
    for control in one.controls:
        try:
            controls.append(_control_result(control, one.evidence(seed, control)))
        # A control that raises does not fail as it must: it never reached the check.
        except BaseException as error:
            where = f"control {control.description!r}: "
            return outcome | {"status": "error"} | _message(error, where)
    fails = all(control["fails"] for control in controls)
    outcome["control"] = Controls(fails=fails, measured=controls[0]["measured"], controls=controls)
    if evidence.holds and not fails:
        outcome["status"] = "vacuous"
    return outcome


def _status(one: Claim, evidence: Evidence) -> Status:
    if not evidence.holds:
        return "failed"
    if one.erratum:
        return "erratum"
    return "proved" if one.method == "symbolic" else "verified"


def _check_result(check: Check) -> CheckResult:
    return CheckResult(
        quantity=check.quantity,
        measured=plain(check.measured),
        criterion=check.criterion,
        holds=check.holds,
        text=f"{check} ({check.criterion})",
    )


def _control_result(control: Control, evidence: Evidence) -> OneControl:
    """What a control measured: the checks that fail on it, or all if none does."""
    decisive = [check for check in evidence.checks if not check.holds] or evidence.checks
    measured = ", ".join(str(check) for check in decisive)
    return OneControl(description=control.description, fails=not evidence.holds, measured=measured)


def _no_outcome(status: Status, reason: BaseException | str) -> dict[str, Any]:
    nothing: dict[str, Any] = {"status": status, "measured": "", "criterion": "", "checks": []}
    return nothing | {"control": Controls(fails=False, measured="", controls=[])} | _message(reason)


def _message(reason: BaseException | str, where: str = "") -> dict[str, str]:
    if isinstance(reason, str):
        return {"error": reason}
    text = "".join(traceback.format_exception(reason))
    return {"error": f"{where}{type(reason).__name__}: {reason}", "traceback": text}


def _result(wanted: Task, outcome: dict[str, Any], seconds: float) -> Result:
    return wanted.header | {"environment": environment()} | outcome | {"seconds": round(seconds, 6)}  # type: ignore[return-value]


def run_on_this_machine(tasks: Sequence[Task], jobs: int) -> Generator[Result, None, None]:
    """Run on `jobs` worker processes, each with one BLAS thread.

    Every worker is a pool of its own. So when one dies it is known which claim it had; that claim runs once more on a
    fresh one, and nobody else notices. A claim that kills its worker each time is an error.
    """
    # The longest first, so that none is left to run alone at the end.
    waiting = deque(sorted(tasks, key=lambda wanted: wanted.header["cost"] != "full"))
    attempts: Counter[str] = Counter()
    running: dict[Future[Result], tuple[ProcessPoolExecutor, Task]] = {}
    # Unlike in `wait`, Ctrl-C cannot come between taking a future's lock and giving it back.
    ended: SimpleQueue[Future[Result]] = SimpleQueue()
    with _worker_environment():
        idle = [_worker() for _ in range(min(jobs, len(tasks)))]
        try:
            while waiting or running:
                while waiting and idle:
                    worker, wanted = idle.pop(), waiting[0]
                    with _interrupts_deferred():
                        try:
                            future = worker.submit(decide, wanted)
                        except BrokenProcessPool:  # it died while idle
                            idle.append(_worker())
                            continue
                        running[future] = worker, wanted
                        future.add_done_callback(ended.put)
                    attempts[waiting.popleft().header["claim"]] += 1
                future = ended.get()
                worker, wanted = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    worker.shutdown(wait=False)
                    idle.append(_worker())
                    if attempts[wanted.header["claim"]] < ATTEMPTS:
                        waiting.append(wanted)
                        continue
                    reason = f"its worker process died {ATTEMPTS} times (killed, out of memory, or crashed)"
                    result = _result(wanted, _no_outcome("error", reason), 0.0)
                else:
                    idle.append(worker)
                yield result
        finally:
            for worker, _ in running.values():
                _kill(worker)
            for worker in idle:
                worker.shutdown()


def run_on_dask(tasks: Sequence[Task], address: str) -> Generator[Result, None, None]:
    """Run on the workers of the Dask scheduler at this address, which restarts a claim whose worker dies.

    The workers need the same sources; start them with one thread each, and one claim runs on each at a time.

    Raises
    ------
    ConnectionError
        If there is no scheduler at the address, or it goes away.
    ModuleNotFoundError
        If the extra ``dask`` is missing.
    """
    import distributed
    from distributed.comm import get_address_host_port
    from distributed.scheduler import KilledWorker

    try:
        get_address_host_port(address)  # a client is slow to find that it makes no sense, and slower to close
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Dask scheduler at {address}: {str(error) or type(error).__name__}") from error

    def collected(future: Future[Result], wanted: Task) -> tuple[Result, bool]:
        """The result, and whether it is but the death of the workers."""
        try:
            return future.result(), False
        except KilledWorker as error:
            return _result(wanted, _no_outcome("error", f"its workers died: {error}"), 0.0), True
        except CancelledError:
            raise ConnectionError(f"lost the Dask scheduler at {address}") from None
        except Exception as error:  # the worker could not even begin: it lacks refimpl, for one
            return _result(wanted, _no_outcome("error", error), 0.0), False

    with client:
        executor = client.get_executor(pure=False)
        try:
            suspects = []
            running = {executor.submit(decide, wanted, elsewhere=True): wanted for wanted in tasks}
            while running:
                done = wait(running, return_when=FIRST_COMPLETED).done
                while done:
                    future = done.pop()
                    wanted = running.pop(future)
                    result, died = collected(future, wanted)
                    # As long as a future is held, Dask computes its result again if the worker that has it dies.
                    del future
                    if died:
                        suspects.append(wanted)
                    else:
                        yield result
            # Dask counts a death against every claim that waited on the worker. Alone, it is one claim's own.
            for wanted in suspects:
                yield collected(executor.submit(decide, wanted, elsewhere=True), wanted)[0]
        finally:
            executor.shutdown(wait=False)


def _worker() -> ProcessPoolExecutor:
    """A pool of one process."""
    # A fork server imports the heavy libraries once; a plain fork of a process with threads may deadlock.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["proofs.runner", "proofs.symbolic", "proofs.statistics", "proofs.properties"])
    return ProcessPoolExecutor(1, mp_context=context, initializer=_die_with_parent)


def _die_with_parent() -> None:
    """End this process when its parent has, however it ended: a pool's worker would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _kill(worker: ProcessPoolExecutor) -> None:
    """Stop a pool in the midst of its work: what ``kill_workers`` does from Python 3.14 on."""
    for process in list((worker._processes or {}).values()):
        process.kill()
    worker.shutdown()


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """The environment that workers start with. It must stand before they load NumPy."""
    wanted = dict.fromkeys(_ONE_THREAD, "1")
    # Hypothesis keeps what it finds in source files; by default in the directory where the user happens to be.
    wanted["HYPOTHESIS_STORAGE_DIRECTORY"] = os.environ.get(
        "HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "refimpl-hypothesis")
    )
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Start a process whole, and one that never sees Ctrl-C.

    A terminal sends it to the workers too, but ending them is ours to do. They inherit a mask that blocks it. The mask
    alone does not keep it from this process, where threads of BLAS may take it, so that it is noted and raised after.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    noted: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if noted and callable(handler):
        handler(signal.SIGINT, None)
