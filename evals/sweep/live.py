"""What is seen of a sweep while it runs: a table in a terminal, elsewhere a line for each job that ends."""

import math
import re
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from .attempt import STARTED
from .jobs import Job
from .schedule import Progress, Shard
from .worker import RANK, part_name

TAKEN = re.compile(r"^sweep: (\d+) answers are here", re.MULTILINE)
ASKED = re.compile(r"Cached requests: (\d+), Requests remaining: (\d+)")
SECONDS_BETWEEN_LOOKS = 2.0
FEW = 20  # jobs, of which the finished ones have a row too
COLOURS = {"finished": "green", "failed": "red", "running": "cyan", "waiting": "dim"}


@dataclass(frozen=True)
class Done:
    """Prompts of one process: answered, of so many that it was asked for so far, and those it answered itself."""

    answered: int = 0
    asked: int = 0
    own: int = 0


def look(folder: Path, shard: Shard) -> Done:
    """How far the last process is, by its log and by its cache of answers."""
    part = part_name(shard)
    try:
        text = (folder / f"{part}.log").read_text(encoding="utf-8", errors="replace").rpartition(STARTED)[2]
        taken, asked = TAKEN.search(text), ASKED.findall(text)
        if not taken or not asked:
            return Done()
        own = answers_in(folder / "answers" / f"{part}{RANK}") - int(taken[1])
    except (OSError, sqlite3.Error):  # not there yet, or locked for a moment
        return Done()
    cached, remaining = (sum(int(pair[i]) for pair in asked) for i in (0, 1))
    return Done(cached + min(own, remaining), cached + remaining, own)


def answers_in(cache: Path) -> int:
    """How many answers a cache of lm-eval holds."""
    with closing(sqlite3.connect(f"{cache.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as db:
        return int(db.execute("SELECT COUNT(*) FROM unnamed").fetchone()[0])


class Watch:
    """Shows the progress of jobs; a context, and what `run_jobs` calls."""

    def __init__(self, title: str, console: Console) -> None:
        self.title, self.console = title, console
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self.began = self.looked = time.monotonic()
        self.done: dict[tuple[str, str], Done] = {}
        self.began_at: dict[tuple[str, str], float] = {}

    def __enter__(self) -> "Watch":
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, shown: Sequence[Progress], ended: Job | None) -> None:
        if ended is not None and self.live is None:
            one = next(one for one in shown if one.job is ended)
            if one.state in ("finished", "failed"):
                over = sum(other.state in ("finished", "failed") for other in shown)
                self.console.print(f"{over}/{len(shown)} {_line(one)}", highlight=False, markup=False, soft_wrap=True)
        now = time.monotonic()
        if self.live is None or (ended is None and now - self.looked < SECONDS_BETWEEN_LOOKS):
            return
        self.looked = now
        for one in shown:
            for shard in list(one.running):
                key = one.job.id, part_name(shard)
                self.began_at.setdefault(key, now)
                self.done[key] = look(one.job.folder, shard)
        self.live.update(self.table(shown), refresh=True)

    def table(self, shown: Sequence[Progress]) -> Table:
        """A row a job at work or over: prompts, rate, time left; below them the same of all."""
        over = sum(one.state in ("finished", "failed") for one in shown)
        failed = sum(one.state == "failed" for one in shown)
        elapsed = time.monotonic() - self.began
        caption = f"{over} of {len(shown)} jobs, {failed} failed, {clock(elapsed)}"
        if 0 < over < len(shown):
            caption += f", about {clock(elapsed / over * (len(shown) - over))} left"
        table = Table(title=self.title, caption=caption)
        for header in ("model", "tasks", "state"):
            table.add_column(header, overflow="fold")
        for header in ("prompts", "prompts/s", "left"):
            table.add_column(header, justify="right")
        for one in shown:
            if one.state == "waiting" or (one.state == "finished" and len(shown) > FEW):
                continue
            table.add_row(
                escape(one.job.model.name),
                escape(one.job.label),
                f"[{COLOURS[one.state]}]{one.state}[/]",
                *self._figures(one),
            )
        if waiting := sum(one.state == "waiting" for one in shown):
            table.add_row("", "", f"[dim]{waiting} waiting[/]")
        return table

    def _figures(self, one: Progress) -> tuple[str, str, str]:
        if one.state != "running":
            outcome = one.outcome
            return "", "", clock(outcome.seconds) + " taken" if outcome else ""
        keys = [(one.job.id, part_name(shard)) for shard in list(one.running)]
        found = [self.done.get(key, Done()) for key in keys]
        answered, asked = sum(done.answered for done in found), sum(done.asked for done in found)
        since = time.monotonic() - min(self.began_at.get(key, math.inf) for key in keys) if keys else 0.0
        rate = sum(done.own for done in found) / since if since > 0 else 0.0
        return (
            f"{answered:,} / {asked:,}" if asked else "loading",
            f"{rate:.1f}" if rate else "",
            clock((asked - answered) / rate) if rate else "",
        )


def _line(one: Progress) -> str:
    outcome = one.outcome
    assert outcome is not None
    text = f"{one.job.model.name}: {one.job.label}: {one.state} after {clock(outcome.seconds)}"
    if outcome.halved:
        text += f", the second time with {outcome.halved}"
    return text if outcome.reason is None else f"{text}: {outcome.reason}"


def clock(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
