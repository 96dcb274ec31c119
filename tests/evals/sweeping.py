"""Suites on a tiny model and made-up forms, run in this process or in one that is killed; and what came of them."""

import json
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import tiny
from recall_evals.evals.sweep.command import sweep

PROMPTS = 48


def write_forms(file: Path, forms: int = 12) -> None:
    """Forms of four fields, a prompt for each, in the schema of the published sets."""
    draw = random.Random(0)
    rows = []
    for number in range(forms):
        fields = {key: f"{draw.choice(['Alba', 'Corvo', 'Pico'])} {draw.randint(100, 999)}" for key in "ABCD"}
        text = " ".join(
            f"{key}: {value}. {'It was stored dry. ' * draw.randint(1, 4)}" for key, value in fields.items()
        )
        rows += [
            {"doc_id": f"form-{number}", "key": key, "value": value, "text": f"{text}\n{key}:"}
            for key, value in fields.items()
        ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def workplace(root: Path) -> None:
    """A model and documents."""
    tiny.save(root / "model", tiny.BASED)
    write_forms(root / "documents" / "fda" / "validation.jsonl")


def write_suite(file: Path, **fields: Any) -> str:
    """JSON, which is YAML."""
    file.write_text(json.dumps(fields), encoding="utf-8")
    return str(file)


def run(suite: str, output: Path, **options: Any) -> bool:
    return sweep(suite, output, options.get("workers"), options.get("plan", False), options.get("ray"))


def start(suite: str, output: Path, log: Path) -> int:
    """`sweep` in a process of its own, which has imported all that this one has; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in what a shell runs behind it
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        code = 0 if run(suite, output) else 1
    except BaseException as error:
        os.write(2, repr(error).encode())
        code = 2
    os._exit(code)


def kill_when(pid: int, reached: Callable[[], bool]) -> bool:
    """Kill -9 a process once it has got so far; False: it had ended before."""
    while not reached():
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return False
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def workers_of(pid: int) -> list[int]:
    """The processes that a sweep has started."""
    found = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for children in found for child in children.split()]


def answers(output: Path) -> int:
    """Those that the caches of all jobs hold."""
    total = 0
    for file in output.glob(".sweep/*/answers/*.db"):
        with closing(sqlite3.connect(file, timeout=10)) as db:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'unnamed'").fetchone():
                total += db.execute("SELECT COUNT(*) FROM unnamed").fetchone()[0]
    return total


def found(output: Path) -> dict[str, Any]:
    """Of each job: lm-eval's scores, and the samples files to the letter."""
    said = {}
    for folder in sorted(output.glob("*-*")):
        (results,) = folder.rglob("results_*.json")
        samples = sorted(folder.rglob("samples_*.jsonl"), key=lambda file: file.name)
        said[folder.name] = json.loads(results.read_text())["results"], [file.read_bytes() for file in samples]
    return said


def log_of(output: Path) -> str:
    return "".join(file.read_text(errors="replace") for file in sorted(output.glob(".sweep/*/*.log")))
