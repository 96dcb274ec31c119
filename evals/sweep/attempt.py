"""One attempt at a job or shard: its process started, watched and judged; out of memory, once more at half of it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .worker import Work, part_name

LAST_LINES = 12
STARTED = "sweep: started\n"  # in a log, before what a process prints
BAR_SECONDS = "5"  # of tqdm, whose bars in a log of days would be megabytes
PREFILL_TOKENS, MOST_SLOTS = 8192, 64  # of our models, and of lm-eval's hf with `auto`
OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|out of memory|\bMemoryError\b|[Cc]annot allocate memory|can't allocate memory|std::bad_alloc"
    r"|CUBLAS_STATUS_ALLOC_FAILED"
)


@dataclass(frozen=True)
class Outcome:
    """How it ended.

    Attributes:
        reason: None where it is finished, else what went wrong.
        lines: the last that it printed, where it failed.
        seconds: wall time, of a second attempt too.
        halved: what the second attempt ran with, after the first had run out of memory; None where there was none.
        host: the machine.
    """

    reason: str | None
    lines: tuple[str, ...]
    seconds: float
    halved: str | None = None
    host: str = ""


class Processes:
    """The processes that run, so that they can be stopped."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def start(self, work: Work, log: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        with self._lock, log.open("ab") as output:
            if self.stopped:
                raise InterruptedError
            output.write(STARTED.encode())
            output.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.worker"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TQDM_MININTERVAL": BAR_SECONDS, **environment},
                text=True,
                start_new_session=True,  # Ctrl-C is for the sweep; and what it starts itself is killed with it
            )
            self._running.add(process.pid)
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it ended already: its log says why
            process.stdin.write(json.dumps(work) + "\n")
            process.stdin.flush()
        return process

    def ended(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._running.discard(process.pid)

    def stop(self) -> None:
        """Kill all, and start no more."""
        with self._lock:
            self.stopped = True
            for pid in self._running:
                kill(pid)


def kill(pid: int) -> None:
    """A process and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def attempt(work: Work, timeout: float | None, environment: Mapping[str, str], processes: Processes) -> Outcome:
    """Run one job or shard to its end, or to its time-out; out of memory, once more with `halved`."""
    began = time.monotonic()
    reason, lines = _once(work, timeout, environment, processes)
    second = halve(work) if reason is not None and reason.startswith("out of memory") else None
    what = None
    if second is not None:
        half, what = second
        reason, lines = _once(half, timeout, environment, processes)
    return Outcome(reason, lines, time.monotonic() - began, what, socket.gethostname())


def _once(
    work: Work, timeout: float | None, environment: Mapping[str, str], processes: Processes
) -> tuple[str | None, tuple[str, ...]]:
    log = Path(work["folder"]) / f"{part_name(work['shard'])}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    start = log.stat().st_size if log.exists() else 0
    try:
        process = processes.start(work, log, environment)
    except InterruptedError:
        return "stopped", ()
    late = False
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        late = True
        kill(process.pid)
        code = process.wait()
    finally:
        processes.ended(process)
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
    if code == 0:
        return None, ()
    searched = last_lines(log, start, 200)
    lines = searched[-LAST_LINES:]
    if processes.stopped:
        return "stopped", ()
    if late:
        return f"time-out: not finished after {timeout:g} s", lines
    if any(OUT_OF_MEMORY.search(line) for line in searched):
        return "out of memory", lines
    if code == -signal.SIGKILL:
        return "out of memory, presumably: the system killed it", lines
    if code < 0:
        return f"crash: signal {signal.Signals(-code).name}", lines
    return f"crash: exit code {code}", lines


def halve(work: Work) -> tuple[Work, str] | None:
    """The same work with half the memory, and what that means; None where nothing is left to halve.

    Of our models `state_memory`, where given; else the batch size, unless answers depend on it, and the tokens that our
    models prefill.
    """
    from ...adapters.memory import parse_bytes
    from .suite import OURS

    args, ours = dict(work["args"]), work["backend"] in OURS
    if ours and args.get("state_memory"):
        args["state_memory"] = parse_bytes(args["state_memory"]) // 2
        return {**work, "args": args}, f"state_memory={args['state_memory']}"
    batch, most, changed = work["batch_size"] or "1", work["max_batch_size"], []
    if batch.startswith("auto"):
        most = (most or MOST_SLOTS) // 2
        changed.append(f"max_batch_size={most}")
    elif int(batch) > 1 and not work["in_batches"]:
        batch = str(int(batch) // 2)
        changed.append(f"batch_size={batch}")
    if ours:
        args["prefill_tokens"] = int(args.get("prefill_tokens", PREFILL_TOKENS)) // 2
        changed.append(f"prefill_tokens={args['prefill_tokens']}")
    if not changed:
        return None
    return {**work, "args": args, "batch_size": batch, "max_batch_size": most}, ", ".join(changed)


def last_lines(log: Path, start: int, count: int) -> tuple[str, ...]:
    """The last lines of a log from a place on; of a progress bar what stood there last."""
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - 65536))
        text = file.read().decode("utf-8", "replace")
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.replace("\x1b[A", "\n").split("\n")]
    return tuple(line for line in lines if line.strip())[-count:]
