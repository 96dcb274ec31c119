"""A Ray cluster as a place for jobs. Its machines share the folder of the results, and have recall-evals installed."""

import os
import secrets
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ... import __version__
from .attempt import Outcome, Processes, attempt
from .jobs import HIDDEN, Job
from .names import TaskNames
from .schedule import Shard, work_of
from .suite import Suite
from .worker import Work
from .yaml_lines import SuiteError

KNOCK_SECONDS = 10
PROBE_SECONDS = 120
TRIES = 3  # Ray places work anew whose machine is gone; its answers are in the shared folder


class RayPool:
    """Runs work where the cluster has the GPUs that a job needs, or on the CPU a share of a machine's cores.

    Args:
        workers: pieces of work at a time; default: the cluster's GPUs; without any, its machines.
        address: `auto`, `host:port` or `ray://host:port`.

    Raises:
        SuiteError: no Ray, no cluster there, a machine that doesn't see `folder` or has another version, or a job that
            needs more GPUs than a machine has.
    """

    def __init__(
        self, suite: Suite, jobs: Sequence[Job], workers: int | None, names: TaskNames, address: str, folder: Path
    ) -> None:
        try:
            import ray
        except ImportError:
            raise SuiteError("--ray needs Ray: pip install 'recall-evals[ray]'") from None
        self.ray, self.suite, self.names = ray, suite, names
        self.stopped = False
        self._running: set[Any] = set()
        self._lock = threading.Lock()
        try:
            _knock(address)
            ray.init(address=address, logging_level="error", log_to_driver=False)
        except (OSError, ValueError, RuntimeError, AssertionError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise SuiteError(f"--ray {address}: no cluster there ({reason}); `ray start --head` starts one") from error
        try:
            nodes = [node for node in ray.nodes() if node["Alive"]]
            self._check(nodes, folder)
            gpus = [0 if suite.device == "cpu" else int(node["Resources"].get("GPU", 0)) for node in nodes]
            self.on_gpus = any(gpus)
            if self.on_gpus and (wide := [job for job in jobs if self.need(job) > max(gpus)]):
                raise SuiteError(
                    f"{suite.file}:{wide[0].model.line}: {wide[0].model.name} needs {self.need(wide[0])} GPUs, no "
                    f"machine of the cluster has more than {max(gpus)}"
                )
            cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes]
            self.workers = workers or (sum(gpus) if self.on_gpus else sum(count > 0 for count in cpus))
            on_each = -(-self.workers // max(1, len(nodes)))
            self.threads = max(1, min(count for count in cpus if count) // on_each) if any(cpus) else 1
        except BaseException:
            ray.shutdown()
            raise

    def need(self, job: Job) -> int:
        """GPUs of a job."""
        return 1 if job.model.gpus is None else job.model.gpus

    def _check(self, nodes: Sequence[dict[str, Any]], folder: Path) -> None:
        """Whether each machine sees what is written here, and has this version."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        token = secrets.token_hex(16)
        file = (folder / HIDDEN / "shared").absolute()
        file.write_text(token, encoding="utf-8")
        probe = self.ray.remote(num_cpus=0, max_retries=0)(look_at)
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            name = node.get("NodeManagerHostname") or node["NodeID"]
            try:
                seen, version = self.ray.get(
                    probe.options(scheduling_strategy=there).remote(str(file)), timeout=PROBE_SECONDS
                )
            except self.ray.exceptions.RayError as error:
                reason = str(error).strip().rpartition("\n")[2]
                raise SuiteError(f"--ray: {name} can't run recall-evals ({reason}); install it there") from error
            if version != __version__:
                raise SuiteError(f"--ray: {name} has recall-evals {version}, here it is {__version__}: install one")
            if seen != token:
                raise SuiteError(
                    f"--ray: {name} doesn't see {folder.absolute()}: give an --output that all machines share"
                )
        file.unlink()

    def place(self, job: Job, shard: Shard) -> Outcome:
        work = work_of(job, shard, self.suite.device, self.suite.shard_prompts, self.names)
        need = {"num_gpus": self.need(job), "num_cpus": 1} if self.on_gpus else {"num_cpus": self.threads}
        with self._lock:
            if self.stopped:
                return Outcome("stopped", (), 0.0)
            remote = self.ray.remote(max_retries=TRIES - 1, scheduling_strategy="SPREAD", **need)(attempt_there)
            environment = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE", **_handed_on()}
            reference = remote.remote(work, job.model.timeout, environment)
            self._running.add(reference)
        try:
            outcome: Outcome = self.ray.get(reference)
            return outcome
        except self.ray.exceptions.RayError as error:
            reason = "stopped" if self.stopped else f"lost by Ray: {str(error).strip().partition(chr(10))[0]}"
            return Outcome(reason, tuple(str(error).strip().split("\n")[-12:]), 0.0)
        finally:
            with self._lock:
                self._running.discard(reference)

    def stop(self) -> None:
        """Leave the cluster; what still runs is killed."""
        with self._lock:
            self.stopped = True
            running = list(self._running)
        if self.ray.is_initialized():
            for reference in running:
                self.ray.cancel(reference, force=True)
            self.ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nobody answers at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


def look_at(file: str) -> tuple[str | None, str]:
    """What a file holds on some machine (None: it isn't there), and the version of this package there."""
    path = Path(file)
    return (path.read_text(encoding="utf-8") if path.is_file() else None), __version__


def attempt_there(work: Work, timeout: float | None, environment: Mapping[str, str]) -> Outcome:
    """An attempt, on the machine and with the GPUs that Ray chose. Its process ends with Ray's worker."""
    import ray

    outcome = attempt(work, timeout, environment, Processes())
    return replace(outcome, host=f"{outcome.host} ({ray.get_runtime_context().get_node_id()[:8]})")


def _handed_on() -> dict[str, str]:
    """Of this machine's environment what says which documents and hub; caches and tokens are each machine's own."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("RECALL_EVALS_") or name in ("HF_HUB_OFFLINE", "HF_ENDPOINT")
    }
