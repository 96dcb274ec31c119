"""What became of each attempt, a line of JSON each, only ever appended to."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonlines

from .attempt import Outcome
from .jobs import Job
from .worker import part_name


class Ledger:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records, oldest first; a line that was cut short is passed over."""
        if self.file.is_file():
            with jsonlines.open(self.file) as reader:
                yield from reader.iter(type=dict, skip_empty=True, skip_invalid=True)

    def add(self, job: Job, shard: list[int] | None, outcome: Outcome) -> None:
        record = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "job": job.id,
            "model": job.model.name,
            "tasks": list(job.questions.tasks),
            "limit": job.questions.limit,
            "part": part_name(shard),
            "status": "finished" if outcome.reason is None else "failed",
            "reason": outcome.reason,
            "seconds": round(outcome.seconds, 3),
            "halved": outcome.halved,
            "host": outcome.host,
            "last_lines": list(outcome.lines),
        }
        with self.file.open("a+b") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":  # a line was cut short
                file.write(b"\n")
            file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
