"""The process of one job, or of one shard of it: lm-eval, its answers kept as they come.

`python -m recall_evals.evals.sweep.worker`, with a line of JSON on stdin, which then stays open: when it closes, the
sweep is gone, and this process ends with it. A shard leaves its answers, which the whole job then takes as its own.
"""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypedDict

from filelock import FileLock, Timeout

from .figures import Figures, complete, together

RANK = "_rank0.db"  # lm-eval's ending of a cache's name
TABLE = "CREATE TABLE IF NOT EXISTS unnamed (key TEXT PRIMARY KEY, value BLOB)"  # as sqlitedict makes it
LOCK_SECONDS = 60  # a predecessor whose sweep is gone ends within a second


class Work(TypedDict):
    """What the process is told: where the job and its results lie, lm-eval's flags, and which part of the documents,
    `[number, of]`, or None for all."""

    folder: str
    results: str
    backend: str
    args: dict[str, Any]
    tasks: list[str]
    only_ours: bool
    limit: float | int | None
    num_fewshot: int | None
    gen_kwargs: dict[str, Any] | None
    metadata: dict[str, Any] | None
    batch_size: str | None
    max_batch_size: int | None
    in_batches: bool
    device: str | None
    shard: list[int] | None
    shard_prompts: int


def part_name(shard: Sequence[int] | None) -> str:
    """The name of the files of one process."""
    return "whole" if shard is None else f"shard-{shard[0] + 1}-of-{shard[1]}"


def main() -> int:
    work: Work = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    folder, part = Path(work["folder"]), part_name(work["shard"])
    answers = folder / "answers"
    answers.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(answers / f"{part}.lock", timeout=LOCK_SECONDS):
            return _run(work, folder, answers / f"{part}{RANK}")
    except Timeout:
        print(f"recall-evals sweep: another process still works on {folder}", file=sys.stderr)
        return 1


def _end_with_the_sweep() -> None:
    os.read(0, 1)  # nothing is sent: it returns when the other end is closed, by whatever end the sweep came to
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _run(work: Work, folder: Path, cache: Path) -> int:
    results = Path(work["results"])
    if results.is_dir():  # by a process that outlived its sweep
        return 0
    figures = Figures(cache.parent, part_name(work["shard"]))
    write_answers_at_once(figures)
    if work["only_ours"]:
        leave_out_lm_evals_tasks()
    from ..run import run

    taken = take_over_answers(cache)
    print(f"sweep: {taken} answers are here", file=sys.stderr, flush=True)
    flags = ["--model", work["backend"], "--model_args", json.dumps(work["args"])]
    if not work["in_batches"]:
        flags += ["--use_cache", str(cache).removesuffix(RANK)]
    for name in ("num_fewshot", "batch_size", "max_batch_size", "device"):
        if (value := work[name]) is not None:
            flags += [f"--{name}", str(value)]
    for key in ("gen_kwargs", "metadata"):
        if fields := work[key]:
            flags += [f"--{key}", json.dumps(fields)]
    if work["shard"] is not None:
        samples = samples_of_shard(work)
        if not samples:
            return 0
        file = folder / f"{part_name(work['shard'])}.json"
        file.write_text(json.dumps(samples), encoding="utf-8")
        code = run([*flags, "--tasks", *samples, "--samples", str(file)])
        figures.keep(last=True)
        return code
    unfinished = folder / "results.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    flags += ["--tasks", *work["tasks"], "--log_samples", "--output_path", str(unfinished)]
    if work["limit"] is not None:
        flags += ["--limit", str(work["limit"])]
    code = run(flags)
    figures.keep(last=True)
    if code == 0:
        if taken:
            complete(unfinished, together(cache.parent))
        unfinished.rename(results)
    return code


def write_answers_at_once(figures: Figures | None = None) -> None:
    """Have lm-eval's cache wait until an answer is in its file, for it writes in a thread that may be behind.

    The model's figures are kept beside it now and then, and after the last answer.

    A killed process then loses the prompts in flight and no other. On a disk that loses power more may be gone.
    """
    from lm_eval.api.model import CacheHook, CachingLM

    original, hook_of = CacheHook.add_partial, CachingLM.get_cache_hook

    def add_partial(self: Any, attr: str, req: Iterable[Any], res: Any) -> None:
        original(self, attr, req, res)
        if self.dbdict is not None:
            self.dbdict.commit()
            if figures is not None:
                figures.keep()

    def get_cache_hook(self: Any) -> Any:
        if figures is not None:
            figures.model = self.lm
        return hook_of(self)

    CacheHook.add_partial, CachingLM.get_cache_hook = add_partial, get_cache_hook


def leave_out_lm_evals_tasks() -> None:
    """To look through lm-eval's own 14,000 tasks takes as long as a small job."""
    from lm_eval.tasks import TaskManager

    from ... import task_configs

    original = TaskManager.__init__

    def only_ours(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs | {"include_path": list(task_configs.__path__), "include_defaults": False})

    TaskManager.__init__ = only_ours


def take_over_answers(cache: Path) -> int:
    """Copy into a cache what the other processes' caches of this job hold; how many answers it has then."""
    with closing(sqlite3.connect(cache, timeout=LOCK_SECONDS, isolation_level=None)) as own:
        own.execute(TABLE)
        for other in sorted(cache.parent.glob(f"*{RANK}")):
            if other != cache:
                own.execute("ATTACH ? AS other", (str(other),))
                if own.execute("SELECT 1 FROM other.sqlite_master WHERE name = 'unnamed'").fetchone():
                    own.execute("INSERT OR IGNORE INTO unnamed SELECT key, value FROM other.unnamed")
                own.execute("DETACH other")
        return int(own.execute("SELECT COUNT(*) FROM unnamed").fetchone()[0])


def samples_of_shard(work: Work) -> dict[str, list[int]]:
    """The documents of this shard, as `--samples` takes them; a task of which it has none is left out."""
    from lm_eval.evaluator_utils import get_sample_size
    from lm_eval.tasks import TaskManager

    loaded = TaskManager(metadata={**work["args"], **(work["metadata"] or {})}).load(work["tasks"])["tasks"]
    ids = {}
    for name, task in loaded.items():
        limit = get_sample_size(task, work["limit"])
        documents = list(task.eval_docs)[: None if limit is None else int(limit)]
        ids[name] = [document_id(document, row) for row, document in enumerate(documents)]
    assert work["shard"] is not None
    number, of = work["shard"]
    shards = max(1, min(of, sum(map(len, ids.values())) // work["shard_prompts"]))
    picked = {name: rows_of_shard(of_task, number, shards) for name, of_task in ids.items()}
    return {name: rows for name, rows in picked.items() if rows}


def document_id(document: Any, row: int) -> str:
    """What the rows of one document have in common; a document without `doc_id` is its row."""
    found = document.get("doc_id") if isinstance(document, Mapping) else None
    return str(row if found is None else found)


def rows_of_shard(ids: Iterable[str], number: int, shards: int) -> list[int]:
    """The rows of every `shards`-th document, in the order of their ids' SHA-256, which no neighbour changes."""
    ids = list(ids)
    order = sorted(set(ids), key=lambda name: hashlib.sha256(name.encode()).digest())
    mine = {name for place, name in enumerate(order) if place % shards == number}
    return [row for row, name in enumerate(ids) if name in mine]


if __name__ == "__main__":
    sys.exit(main())
