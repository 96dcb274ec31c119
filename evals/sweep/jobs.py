"""Jobs: one model asked one set of tasks, named by what its answers depend on; and the folders of each.

<output>/<model>-<id>/             what lm-eval wrote; there once the job is finished, and then whole
<output>/.sweep/ledger.jsonl       a line for each attempt that ended
<output>/.sweep/<id>/job.json      what the job is
<output>/.sweep/<id>/answers/      lm-eval's cache of answers, a file for each process that works on the job
<output>/.sweep/<id>/*.log         what the processes printed
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ... import __version__
from .content import Digests, content_of, documents_of
from .suite import Model, Questions, Suite
from .yaml_lines import Problems

# How a job runs, not what it asks: with other values of these a finished job stays finished. (The batch size of
# `Model.in_batches` is an exception.)
RUNNING = frozenset({"batch_size", "max_batch_size", "device", "state_memory", "share_prefixes", "prefill_tokens"})
HIDDEN = ".sweep"


@dataclass(frozen=True)
class Job:
    """`folder`: its own, of what isn't results."""

    model: Model
    questions: Questions
    output: Path
    id: str

    @property
    def folder(self) -> Path:
        return self.output / HIDDEN / self.id

    @property
    def results(self) -> Path:
        """Where they are, under whatever name of the model they were made, or will be."""
        found = sorted(self.output.glob(f"*-{self.id}"))
        name = re.sub(r"[^\w.@+-]+", "_", self.model.name)
        return found[0] if found else self.output / f"{name}-{self.id}"

    @property
    def finished(self) -> bool:
        return self.results.is_dir()

    @cached_property
    def label(self) -> str:
        """Of its tasks, for tables."""
        tasks, limit = ", ".join(self.questions.tasks), self.questions.limit
        return tasks if limit is None else f"{tasks} (limit {limit:g})"


def make_jobs(suite: Suite, output: Path) -> list[Job]:
    """The jobs of a suite, a model's beside each other; those that would give the same answers, once.

    Raises:
        SuiteError: checkpoints that can't be found.
    """
    problems = Problems(suite.file)
    digests = Digests(output / HIDDEN / "digests.json").load()
    contents = {model.name: content_of(model, digests, problems) for model in suite.models}
    problems.raise_any()
    jobs: dict[str, Job] = {}
    for model in suite.models:
        content = contents[model.name]
        for questions in suite.questions:
            asked = {
                "backend": model.backend,
                "args": {key: value for key, value in model.args.items() if key not in RUNNING and key != "pretrained"},
                "content": content or model.args.get("pretrained"),
                "tasks": questions.tasks,
                "limit": questions.limit,
                "num_fewshot": questions.num_fewshot,
                "gen_kwargs": questions.gen_kwargs,
                "metadata": questions.metadata,
                "documents": documents_of(questions, digests),
                **({"batch_size": model.batch_size} if model.in_batches else {}),
                "lm_eval": version("lm_eval"),
                "recall_evals": __version__,
            }
            digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]
            jobs.setdefault(digest, Job(model, questions, output, digest))
            asked["name"] = model.name
            _described(jobs[digest], asked)
    digests.save()
    return list(jobs.values())


def _described(job: Job, asked: dict[str, Any]) -> None:
    """Keep what the job is beside what it answers."""
    file = job.folder / "job.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(asked, indent=2, default=str) + "\n", encoding="utf-8")
        new.replace(file)
