"""The machine at hand as a place for jobs: each of its GPUs, or a share of its cores, has one at a time."""

import os
import threading
from collections.abc import Sequence

from .attempt import Outcome, Processes, attempt
from .jobs import Job
from .names import TaskNames
from .schedule import Shard, work_of
from .suite import Suite
from .yaml_lines import SuiteError


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus_here() -> list[str]:
    """The names by which CUDA_VISIBLE_DEVICES tells them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


class LocalPool:
    """Runs work on GPUs, where there are any and the suite's device isn't `cpu`, else on cores.

    Args:
        workers: pieces of work at a time; default: the GPUs; on the CPU the cores, at most one a job.

    Raises:
        SuiteError: a job needs more GPUs than there are.
    """

    def __init__(self, suite: Suite, jobs: Sequence[Job], workers: int | None, names: TaskNames) -> None:
        self.suite, self.names, self.processes = suite, names, Processes()
        self.free = [] if suite.device == "cpu" else gpus_here()
        self.on_gpus = bool(self.free)
        if self.on_gpus and (wide := [job for job in jobs if self.need(job) > len(self.free)]):
            raise SuiteError(
                f"{suite.file}:{wide[0].model.line}: {wide[0].model.name} needs {self.need(wide[0])} GPUs, there are "
                f"{len(self.free)} here"
            )
        most = len(self.free) if self.on_gpus else min(cores(), max(1, len(jobs)))
        self.workers = workers or most
        self.threads = max(1, cores() // self.workers)
        self._changed = threading.Condition()

    def need(self, job: Job) -> int:
        """GPUs of a job."""
        return 1 if job.model.gpus is None else job.model.gpus

    def place(self, job: Job, shard: Shard) -> Outcome:
        environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads))}
        # Threads that wait busily for one whose core another process has are ten times slower than those that sleep.
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        mine: list[str] = []
        if self.on_gpus:
            need = self.need(job)
            with self._changed:
                self._changed.wait_for(lambda: len(self.free) >= need or self.processes.stopped)
                mine, self.free = self.free[:need], self.free[need:]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        try:
            work = work_of(job, shard, self.suite.device, self.suite.shard_prompts, self.names)
            return attempt(work, job.model.timeout, environment, self.processes)
        finally:
            with self._changed:
                self.free += mine
                self._changed.notify_all()

    def stop(self) -> None:
        self.processes.stop()
        with self._changed:
            self._changed.notify_all()
