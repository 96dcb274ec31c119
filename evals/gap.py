"""`recall-evals gap`: the bundled checkpoints on every task that runs offline, beside two floors, as a table.

One file `<model>.json` a model is written when the model is done, so that an interrupted run goes on where it was; the
table and the plot are made from these files alone.
"""

import json
import platform
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..models.bundled import PREFIX, bundled, bundled_names
from ..results.loss_curves import plot_loss_curves
from ..results.statistics import clustered_standard_error, paired_bootstrap
from ..training.corpus import GENERATED, corpus_folder, read_corpus

TASKS = ("mini_fda", "mini_swde", "local_fda", "local_swde", "local_squad")
CORPORA = {"local_fda": "fda", "local_swde": "pages"}  # whose most common answers are the floor


@dataclass(frozen=True)
class Measured:
    """One model on one task.

    Attributes:
        hits: 1 or 0 a prompt, in the task's order.
        documents: the cluster of each prompt.
        truncated: prompts that were cut.
        without_document: share right when the prompt is only its last line.
    """

    task: str
    hits: list[int]
    documents: list[str]
    truncated: int
    without_document: float

    @property
    def score(self) -> float:
        return sum(self.hits) / len(self.hits)

    @property
    def error(self) -> float:
        return clustered_standard_error(self.hits, self.documents)


def measure(model: Any, tasks: tuple[str, ...]) -> list[Measured]:
    """Run lm-eval on each task and on its floor with the document removed."""
    measured = []
    for task in tasks:
        before = model.engine.meter.truncated
        rows = _samples(model, task)
        truncated = model.engine.meter.truncated - before
        floor = _samples(model, f"{task}_no_document")
        measured.append(
            Measured(
                task,
                [int(row["contains"]) for row in rows],
                [str(row["doc"]["doc_id"]) for row in rows],
                truncated,
                sum(row["contains"] for row in floor) / len(floor),
            )
        )
    return measured


def _samples(model: Any, task: str) -> list[dict[str, Any]]:
    from lm_eval import simple_evaluate

    results = simple_evaluate(model=model, tasks=[task], task_manager=_task_manager(), bootstrap_iters=0)
    return sorted(results["samples"][task], key=lambda row: row["doc_id"])


@cache
def _task_manager() -> Any:
    """Of our tasks alone: to look through lm-eval's own takes 4 s."""
    from lm_eval.tasks import TaskManager

    from .. import task_configs

    return TaskManager(include_path=list(task_configs.__path__), include_defaults=False)


def most_common_answers(task: str, corpus: Path | None) -> float | None:
    """Share right for always giving the most common answer of a key; None for a task without keys.

    Counted over the corpus that training saw, for the generated tasks over 2,000 documents of its training split.
    """
    if task in CORPORA:
        from ..task_configs.local.documents import load_documents

        rows = list(load_documents(task.removeprefix("local_")).rows)
        known = [pair for d in read_corpus(corpus_folder(corpus), CORPORA[task]) for pair in d.attributes]
    elif task in GENERATED:
        from ..task_configs.mini.documents import documents, prompts

        rows = prompts(GENERATED[task])
        known = [(fact.key, fact.value) for d in documents(GENERATED[task], "train", 2000) for fact in d.facts]
    else:
        return None
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for key, value in known:
        counts[key][value.strip()] += 1
    best = {key: counter.most_common(1)[0][0] for key, counter in counts.items()}
    right = [row["value"].strip().lower() in best.get(row["key"], "").lower() for row in rows]
    return sum(right) / len(right)


def run_gap(models: list[str], output: Path, corpus: Path | None, device: str | None, tasks: tuple[str, ...]) -> Path:
    """Measure what `output` lacks, then write its README.md, and the loss curves beside it; returns README.md."""
    from ..adapters.lm import BasedLM

    output.mkdir(parents=True, exist_ok=True)
    for name in models:
        file = output / f"{name}.json"
        if file.exists():
            continue
        model = BasedLM(PREFIX + name if name in bundled_names() else name, device=device, batch_size=32)
        measured = measure(model, tasks)
        kept = {"tasks": [asdict(m) for m in measured], "model": model.get_model_info(), "machine": _machine()}
        file.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    floors = {task: most_common_answers(task, corpus) for task in tasks}
    folders = {name: bundled(name) for name in models}
    curves = {n: f / "loss.jsonl" for n, f in folders.items() if f is not None and (f / "loss.jsonl").is_file()}
    text = table(models, output, floors)
    if curves:
        plot_loss_curves(curves, output / "loss.png")
        text += "\nTraining loss; it jumps where the sequences become longer:\n\n![Training loss](loss.png)\n"
    report = output / "README.md"
    report.write_text(text, encoding="utf-8")
    return report


def _machine() -> str:
    import torch

    return f"{platform.machine()}, PyTorch {torch.__version__}, Python {platform.python_version()}"


def table(models: list[str], folder: Path, floors: dict[str, float | None]) -> str:
    """Scores in per cent with clustered errors, floors, truncation, and the paired comparisons, in Markdown."""
    from tabulate import tabulate

    read = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in models}
    by_model = {name: {row["task"]: Measured(**row) for row in data["tasks"]} for name, data in read.items()}
    rows = []
    for task, floor in floors.items():
        cells = [by_model[name][task] for name in models]
        rows.append(
            [
                task,
                f"{len(cells[0].hits):,} / {len(set(cells[0].documents)):,}",
                *(f"{100 * c.score:.1f} ± {100 * c.error:.1f}" for c in cells),
                "" if floor is None else f"{100 * floor:.1f}",
                " / ".join(f"{100 * c.without_document:.1f}" for c in cells),
                " / ".join(f"{100 * c.truncated / len(c.hits):.1f}" for c in cells),
            ]
        )
    headers = ["task", "prompts / documents", *models, "most common answer", "document removed", "truncated"]
    pairs = []
    for task in floors:
        for better, worse in pairwise(models):
            a, b = by_model[better][task], by_model[worse][task]
            test = paired_bootstrap(a.hits, b.hits, a.documents)
            interval = f"[{100 * test.low:.1f}, {100 * test.high:.1f}]"
            p = f"{test.p_value:.4f}"
            pairs.append([task, f"{better} - {worse}", f"{100 * test.difference:.1f}", interval, p])
    state = [
        [name, f"{d['model']['parameters']:,}", f"{d['model']['state_bytes']:,}", d["model"]["content_hash"][:12]]
        for name, d in read.items()
    ]
    parts = [
        "# The recall gap of the bundled checkpoints",
        "",
        "Share of prompts answered (%), ± the standard error clustered by document. `most common answer`: always",
        "giving a key's most common one in training. `document removed`: the same model, asked the last line alone.",
        "",
        tabulate(rows, headers, "pipe", disable_numparse=True),
        "",
        "Paired differences (percentage points), clustered bootstrap of 10,000 resamples:",
        "",
        tabulate(pairs, ["task", "models", "difference", "95 % interval", "p"], "pipe", disable_numparse=True),
        "",
        tabulate(state, ["model", "parameters", "state bytes", "hash"], "pipe", disable_numparse=True),
        "",
        f"Measured on {', '.join(sorted({d['machine'] for d in read.values()}))}.",
        "",
    ]
    return "\n".join(parts)
