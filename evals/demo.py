"""`recall-evals demo`, `make demo`: the bundled checkpoints on generated documents, as one table. Downloads nothing."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..models.bundled import PREFIX, bundled_here, bundled_names

RECALL = ("mini_fda", "mini_swde")
TEXT, PERPLEXITY = "mini_text", "word_perplexity"
BATCH_SIZE = 16
HEADERS = ("model", "parameters", *(f"{task}\n%" for task in RECALL), f"{TEXT}\n{PERPLEXITY}")
HEADERS += ("state\nbytes", "prefill\ntokens/s", "decode\ntokens/s")


class DemoError(ValueError):
    """A demo that can't run; the message says why and how to get on."""


def demo(documents: int, models: Sequence[str] | None = None) -> None:
    """Evaluate bundled checkpoints, all of them by default, through lm-eval, and print the table.

    Args:
        documents: how many of each task, at least 1; they are taken whole, with all their prompts.

    Raises:
        DemoError: no bundled checkpoint at all, or none of a given name.
        ModelError: one that can't be used; before any is evaluated.
    """
    names = list(models or bundled_names())
    if unknown := [name for name in names if name not in bundled_names()]:
        raise DemoError(f"no bundled checkpoint {', '.join(map(repr, unknown))}: {bundled_here()}")
    if not names:
        raise DemoError(f"no bundled checkpoint to show: {bundled_here()}")
    began = time.perf_counter()
    # Torch, imported below, reads these once. With a second thread these models read prompts 1.3 to 1.9 times as fast,
    # but threads that wait busily for one whose core another process has are ten times slower than those that sleep.
    os.environ.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    from tabulate import tabulate

    from ..adapters.lm import BasedLM

    evaluated = [BasedLM(PREFIX + name, device="cpu", batch_size=BATCH_SIZE) for name in names]
    manager, ids = _load_tasks()
    samples = {task: rows_of_documents(ids[task], documents) for task in ids}
    for task in ids:
        chosen = {ids[task][row] for row in samples[task]}
        what = f"{len(samples[task])} prompts" if task in RECALL else "their text"
        print(f"{task}: {len(chosen)} of {len(set(ids[task]))} generated documents, {what}")
    rows = []
    for name, lm in zip(names, evaluated, strict=True):
        print(f"{name} ...", file=sys.stderr, flush=True)
        results = _evaluate(lm, manager, samples)
        rows.append(_row(name, results))
    print(f"\n{tabulate(rows, HEADERS, 'simple', disable_numparse=True, colalign=('left', *['right'] * 7))}\n")
    measured = results["config"]
    print(
        f"%: prompts answered, ± the standard error clustered by document. State: of one sequence after "
        f"{measured['longest_prompt'] or 0:,} tokens.\n"
        f"{time.perf_counter() - began:.0f} s on the CPU with {torch.get_num_threads()} threads, "
        f"{BATCH_SIZE} sequences at a time."
    )


def rows_of_documents(doc_ids: Sequence[str], count: int) -> list[int]:
    """The rows of `count` whole documents, spread evenly over all; of all documents where there are no more."""
    documents = list(dict.fromkeys(doc_ids))
    count = min(count, len(documents))
    chosen = {documents[i * len(documents) // count] for i in range(count)}
    return [row for row, document in enumerate(doc_ids) if document in chosen]


def _load_tasks() -> tuple[Any, dict[str, list[str]]]:
    """A task manager, and the document of each row of each task."""
    from lm_eval.tasks import TaskManager

    from .. import task_configs

    # Not lm-eval's own tasks: to look through them takes 4 s.
    manager = TaskManager(include_path=[f"{folder}/mini" for folder in task_configs.__path__], include_defaults=False)
    loaded = manager.load([*RECALL, TEXT])["tasks"]
    return manager, {name: list(task.eval_docs["doc_id"]) for name, task in loaded.items()}


def _evaluate(lm: Any, manager: Any, samples: Mapping[str, list[int]]) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    # No bootstrap: the standard error that is shown is computed by the tasks.
    return simple_evaluate(
        model=lm,
        tasks=list(samples),
        samples=dict(samples),
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=False,
    )


def _row(name: str, results: Mapping[str, Any]) -> list[str]:
    scores, measured = results["results"], results["config"]
    cells = [name, f"{measured['parameters']:,}"]
    for task in RECALL:
        error = scores[task]["contains_stderr_clustered,none"]  # "N/A" for a single document
        error = error if isinstance(error, str) else f"{100 * error:.1f}"
        cells.append(f"{100 * scores[task]['contains,none']:.1f} ± {error}")
    perplexity = scores[TEXT][f"{PERPLEXITY},none"]
    cells.append(f"{perplexity:,.1f}" if perplexity < 1e6 else f"{perplexity:.1e}")
    figures = ("state_bytes", "prefill_tokens_per_second", "decode_tokens_per_second")
    # No token is decoded where every answer ends with its first.
    return cells + ["-" if measured[name] is None else f"{measured[name]:,.0f}" for name in figures]
