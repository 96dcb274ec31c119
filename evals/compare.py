"""`recall-evals compare`: models on the same prompts, paired, from what lm-eval wrote with `--log_samples`."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

from tabulate import tabulate

from ..results.comparison import Comparison, Pairing, adjusted, compare_pairs, flips, pair
from ..results.rows import Row, latest, main_rows, mismatches, read_runs, short_names
from ..results.samples import Sample, SamplesFile, read_samples
from ..results.text import one_line
from ..task_configs.places import answers_of, characters, locate

SHOWN = 100  # characters of an answer
FEW = 30  # documents, below which clustered errors and intervals are too small


class CompareError(ValueError):
    """Runs that can't be compared; the message says which field, or what is missing."""


@dataclass(frozen=True)
class Contestant:
    """One model of one of the paths, and its rows by task."""

    name: str
    rows: dict[str, Row]


@dataclass(frozen=True)
class Compared:
    """One line of the table."""

    task: str
    metric: str
    a: Contestant
    b: Contestant
    pairing: Pairing
    found: Comparison

    @property
    def scale(self) -> float:
        return 100.0 if self.a.rows[self.task].percent else 1.0


def compare(
    runs: Sequence[Path], tasks: Collection[str] | None = None, n_flips: int = 0, allow_mismatch: bool = False
) -> None:
    """Print every pair of models on every task that both have.

    Args:
        tasks: the only ones to take; None: all.
        n_flips: prompts to list of each pair and task, of those whose scores differ.
        allow_mismatch: compare, with a note, rows whose must-match part differs.

    Raises:
        CompareError: fewer than two models, no task in common, no samples, or rows that don't match.
    """
    notes: list[str] = []
    contestants = _contestants(runs, tasks, notes)
    if len(contestants) < 2:
        found = ", ".join(one.name for one in contestants) or "none"
        raise CompareError("\n".join([f"two models are needed, and there is {found}: give the runs of both", *notes]))
    compared: list[Compared] = []
    refused: list[str] = []
    for a, b in combinations(contestants, 2):
        for task in [task for task in a.rows if task in b.rows]:
            one, other = a.rows[task], b.rows[task]
            if differing := mismatches(one, other):
                said = [one_line(f"{task}: {a.name} and {b.name} differ in {field}") for field in differing]
                (notes if allow_mismatch else refused).extend(said)
                if not allow_mismatch:
                    continue
            compared += _compared(task, a, b, notes)
        for here, there in ((a, b), (b, a)):
            if lacking := [task for task in here.rows if task not in there.rows]:
                notes.append(f"only {here.name} has {', '.join(lacking)}; {there.name} doesn't")
    if refused:
        raise CompareError("\n".join([*refused, "run both alike, or give --allow-mismatch to compare all the same"]))
    if not compared:
        raise CompareError("\n".join(["no prompts that two models answered and were scored on", *notes]))
    print(_table(compared))
    print(
        "\ndifference: first minus second; its 95 % interval and p are the clustered bootstrap's (10,000 resamples).\n"
        "McNemar: exact, prompts taken as independent. Holm: the p above it, corrected for all tests of this table.\n"
        "detectable: the least difference that is found with 80 % power at 5 %."
    )
    for note in dict.fromkeys(notes):
        print(f"\nNote: {one_line(note)}.")
    for line in compared if n_flips else []:
        print(_flips(line, n_flips))


def _contestants(runs: Sequence[Path], tasks: Collection[str] | None, notes: list[str]) -> list[Contestant]:
    """The models of each path in turn; one that two paths hold is there twice, named by its path."""
    found: list[tuple[Path, list[Row]]] = []
    for path in dict.fromkeys(runs):
        reading = read_runs([path])
        notes += reading.problems
        rows, changed = latest([row for row in reading.rows if tasks is None or row.task in tasks])
        notes += changed
        scored = [row for row in rows if row.samples is not None]
        if reading.rows and not rows:
            notes.append(f"{path} has none of these tasks; it has {', '.join(sorted({r.task for r in reading.rows}))}")
        asked = {row.task for row in rows if row.failure is None and row.task != "ppl"}  # which has no prompts
        if without := sorted(asked - {row.task for row in scored}):
            notes.append(f"{path}: no samples of {', '.join(without)}; run lm-eval with --log_samples")
        systems: dict[str, list[Row]] = {}
        for row in main_rows(scored):
            systems.setdefault(row.system, []).append(row)
        found += [(path, rows) for rows in systems.values()]
    names = short_names({rows[0].system: rows[0] for _, rows in found})
    systems_found = [rows[0].system for _, rows in found]
    contestants = []
    for path, rows in found:
        name = one_line(names[rows[0].system])
        if systems_found.count(rows[0].system) > 1:
            name += f" [{one_line(str(path))}]"
        by_task: dict[str, Row] = {}
        for row in rows:
            if row.task in by_task:
                notes.append(f"{name} was asked {row.task} under two protocols; the later, {row.source}, is compared")
            by_task[row.task] = row
        contestants.append(Contestant(name, by_task))
    return contestants


@cache
def _samples(file: str) -> SamplesFile:
    return read_samples(Path(file))


def _of(row: Row) -> list[Sample]:
    assert row.samples is not None
    return [sample for sample in _samples(row.samples).samples if sample.filter == row.filter]


def _compared(task: str, a: Contestant, b: Contestant, notes: list[str]) -> list[Compared]:
    """One line, or none and a note why."""
    metric = a.rows[task].metric
    pairing = pair(_of(a.rows[task]), _of(b.rows[task]), metric)
    if not pairing.pairs:
        if a.rows[task].must_match.get("output_type") == "loglikelihood_rolling":
            notes.append(f"{task} is left out: {metric} is no mean over prompts, which could be paired")
        else:
            notes.append(f"{task}: {a.name} and {b.name} have no prompt in common with a score of {metric}")
        return []
    for contestant, alone in ((a, pairing.alone_a), (b, pairing.alone_b)):
        if alone:
            notes.append(f"{task}: {alone:,} prompts of {contestant.name} alone have a score, and are left out")
        without = sum(metric not in sample.scores for sample in _of(contestant.rows[task]))
        if without:
            notes.append(f"{task}: {without:,} prompts of {contestant.name} have a {metric} that is no number")
    if pairing.by_document:
        notes.append(f"{task}: no prompt of {a.name} and {b.name} is the same; they are paired by document and answer")
    found = compare_pairs(pairing.pairs, metric)
    if found.documents < FEW:
        notes.append(f"{task}: with fewer than {FEW} documents the interval is too narrow and p too small")
    return [Compared(task, metric, a, b, pairing, found)]


def _table(compared: Sequence[Compared]) -> str:
    bootstrap = adjusted([line.found.bootstrap.p_value for line in compared])
    exact = adjusted([None if line.found.mcnemar is None else line.found.mcnemar.p_value for line in compared])
    rows = []
    for line, p_holm, mcnemar_holm in zip(compared, bootstrap, exact, strict=True):
        found, scale = line.found, line.scale
        digits = 1 if scale == 100 else 3
        rows.append(
            [
                f"{one_line(line.task)}\n{one_line(line.metric)}{', %' if scale == 100 else ''}",
                f"{line.a.name}\n- {line.b.name}",
                f"{found.n:,}\n{found.documents:,}",
                f"{scale * found.mean_a:.{digits}f}\n{scale * found.mean_b:.{digits}f}",
                f"{scale * found.bootstrap.difference:+.{digits}f}",
                _interval(scale * found.bootstrap.low, scale * found.bootstrap.high, digits),
                f"{_p(found.bootstrap.p_value)}\n{_p(p_holm)}",
                f"{_p(None if found.mcnemar is None else found.mcnemar.p_value)}\n{_p(mcnemar_holm)}",
                f"{found.wins:,} / {found.losses:,} / {found.ties:,}",
                "-" if math.isnan(found.detectable) else f"{scale * found.detectable:.{digits}f}",
            ]
        )
    headers = ["task", "models", "prompts\ndocuments", "scores", "difference", "95 % interval", "p\nHolm"]
    headers += ["McNemar\nHolm", "win / loss / tie", "detectable"]
    return tabulate(rows, headers, "simple", disable_numparse=True, colalign=("left", "left", *["right"] * 8))


def _interval(low: float, high: float, digits: int) -> str:
    return "-" if math.isnan(low) else f"{low:+.{digits}f} to {high:+.{digits}f}"


def _p(p: float | None) -> str:
    if p is None or math.isnan(p):
        return "-"
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"


def _flips(line: Compared, n: int) -> str:
    changed = flips(line.pairing.pairs, line.metric)
    parts = [f"\n{line.task}: {min(n, len(changed)):,} of {len(changed):,} prompts whose {line.metric} changed"]
    width = max(len(line.a.name), len(line.b.name), len("expected"))
    for a, b in changed[:n]:
        key = a.doc.get("key") if isinstance(a.doc, dict) else None
        document = f" of {one_line(a.document)}" if a.document is not None else ""
        parts.append(f"\n  {a.id}{document}: {'' if key is None else one_line(str(key)) + ', '}{_place(a)}")
        said = {"expected": _expected(a), line.a.name: a.answer, line.b.name: b.answer}
        for name, text in said.items():
            sample = {line.a.name: a, line.b.name: b}.get(name)
            mark = " " if sample is None else "+" if sample.scores[line.metric] else "-"
            parts.append(f"  {mark} {name:<{width}}  {one_line(text.strip(), SHOWN)!r}")
    return "\n".join(parts)


def _answers(sample: Sample) -> list[list[str]]:
    doc = sample.doc if isinstance(sample.doc, dict) else {}
    return answers_of(doc, sample.target) or [[sample.target]]


def _expected(sample: Sample) -> str:
    return " and ".join(" / ".join(alternatives) for alternatives in _answers(sample))


def _place(sample: Sample) -> str:
    """Where the answer stands in the prompt as asked, by characters, which every backend's samples have."""
    found = locate(sample.prompt, _answers(sample), characters(sample.prompt))
    if found.depth is None or found.distance is None:
        return "nowhere in the prompt"
    times = f", {found.repeats} times" if found.repeats > 1 else ""
    return f"at {found.depth:.0%} of the prompt, {found.distance:,} characters before the question{times}"
