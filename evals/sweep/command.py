"""`recall-evals sweep`: many models, many tasks, one command, which goes on from wherever it was stopped."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from ...results.row import Row
from ...results.rows import append_rows
from ..report import report
from .jobs import HIDDEN, Job, make_jobs
from .ledger import Ledger
from .live import Watch, clock
from .local_pool import LocalPool
from .names import TaskNames, backends
from .plan import print_plan
from .schedule import Progress, run_jobs
from .suite import Suite, find_suite, read_suite
from .yaml_lines import SuiteError

FAILURES = "failures.jsonl"


def sweep(given: str, output: Path | None, workers: int | None, plan: bool, ray: str | None) -> bool:
    """Run the suite's jobs that aren't finished, and print what came of all of them; whether none failed.

    Args:
        given: a suite's file, or a bundled one's name.
        output: the folder of its results; default: out/<the suite's name>.
        workers: jobs at a time; default: as many as the machine (or with `ray` the cluster) has GPUs, or room for.
        plan: only say what would run.
        ray: the address of a Ray cluster, as `ray.init` takes it.

    Raises:
        SuiteError: everything that is wrong with the suite, before anything starts; another sweep in the same folder.
    """
    names = TaskNames()
    suite = read_suite(find_suite(given), backends(), names)
    output = output or Path("out") / suite.name
    jobs = make_jobs(suite, output)
    ledger = Ledger(output / HIDDEN / "ledger.jsonl")
    console = Console()
    if plan:
        print_plan(jobs, ledger, console, names)
        return True
    try:
        with FileLock(output / HIDDEN / "lock", timeout=0):
            failed = _run(suite, jobs, ledger, console, names, workers, ray)
            _keep_failures(failed, output / FAILURES)
    except Timeout:
        raise SuiteError(f"another sweep is at work in {output}: wait for it, or give another --output") from None
    _print_end(suite, jobs, failed, console)
    return not failed


def _run(
    suite: Suite,
    jobs: Sequence[Job],
    ledger: Ledger,
    console: Console,
    names: TaskNames,
    workers: int | None,
    ray: str | None,
) -> list[Progress]:
    """Run what isn't finished; those that failed."""
    left = [job for job in jobs if not job.finished]
    console.print(f"{suite.name}: {len(jobs)} jobs, {len(jobs) - len(left)} finished before", highlight=False)
    if not left:
        return []
    pool: Any
    if ray is None:
        pool = LocalPool(suite, left, workers, names)
    else:
        from .ray_pool import RayPool

        pool = RayPool(suite, left, workers, names, ray, jobs[0].output)
    try:
        with Watch(suite.name, console) as watch:
            shown = run_jobs(left, pool.workers, pool.place, ledger, watch, pool.stop)
    except KeyboardInterrupt:
        over = sum(job.finished for job in jobs)
        raise KeyboardInterrupt(
            f"interrupted: {over} of {len(jobs)} jobs are finished; the answers of the others are kept, the same "
            "command goes on"
        ) from None
    finally:
        pool.stop()
    return [one for one in shown if one.state == "failed"]


def _keep_failures(failed: Sequence[Progress], file: Path) -> None:
    """A row a task that has no score, for `report`; in the place of those of the sweep before."""
    rows = []
    for one in failed:
        assert one.outcome is not None
        failure = "\n".join([str(one.outcome.reason), *one.outcome.lines])
        rows += [
            Row(one.job.model.name, task, "failed", math.nan, failure=failure, source=str(file))
            for task in one.job.questions.tasks
        ]
    file.unlink(missing_ok=True)
    if rows:
        append_rows(file, rows)


def _print_end(suite: Suite, jobs: Sequence[Job], failed: Sequence[Progress], console: Console) -> None:
    """The leaderboard of the finished jobs, then those that failed, with what they printed last."""
    if finished := [job.results for job in jobs if job.finished]:
        text, notes = report(finished, published=suite.published)
        console.print(f"\n{text}", highlight=False, markup=False, soft_wrap=True)
        for note in notes:
            console.print(f"Note: {note}.", highlight=False, markup=False, soft_wrap=True)
    for one in failed:
        assert one.outcome is not None
        console.print(
            f"\nfailed: {one.job.model.name}: {one.job.label}: {one.outcome.reason} "
            f"({clock(one.outcome.seconds)}, {one.job.folder})",
            style="red",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        for line in one.outcome.lines:
            console.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)
