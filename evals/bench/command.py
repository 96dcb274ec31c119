"""`recall-evals bench`: measures on the GPU that is there, prints a table and then one JSON line, keeps both."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from . import decode, drift, evaluation, kernels, matched, prefill
from .report import Row, keep, kept_rows, table
from .timing import ceilings, provenance

PARTS = {
    "kernels": {"taylor", "others"},
    "drift": {"taylor"},
    "decode": {"based", "single", "long", "mamba", "slots", "dynamic", "static"},
    "matched": matched.PARTS,
    "prefill": {"taylor", "others", "llama", "based", "mamba"},
    "eval": {"fda", "ppl"},
}


class BenchError(ValueError):
    """A benchmark that can't run here; the message says why."""


def bench(what: str, only: str | None, output: Path | None) -> None:
    """Run `what`, a name of PARTS, or of it what `only` names by comma; write the result into `output`.

    `matched`, which takes many minutes, goes on from the rows that `output` has of the same `what` and `only`, card and
    versions; of those, what was skipped is tried again.

    Raises:
        BenchError: no CUDA device, or an unknown name.
    """
    if what not in PARTS:
        raise BenchError(f"{what!r} is unknown; choose {', '.join(PARTS)}")
    parts = set(only.split(",")) if only else PARTS[what]
    if unknown := parts - PARTS[what]:
        raise BenchError(f"--only {', '.join(sorted(unknown))}: `bench {what}` has {', '.join(sorted(PARTS[what]))}")
    if not torch.cuda.is_available():
        raise BenchError("this measures a GPU, and PyTorch finds no CUDA device here")
    result: dict[str, Any] = {"machine": provenance(), "ceilings": ceilings()}
    copy, matmul = result["ceilings"].values()
    print(
        f"{result['machine']['card']}: copies {copy / 1e9:,.0f} GB/s, multiplies {matmul / 1e12:,.0f} TFLOP/s (bf16)\n"
    )
    runs: dict[str, Callable[[], Iterator[Row]]] = {
        "kernels": lambda: _kernels(parts, copy),
        "drift": drift.rows,
        "decode": lambda: decode.rows(copy, parts),
        "matched": lambda: matched.rows(parts, copy, [row["what"] for row in kept if "skipped" not in row]),
        "prefill": lambda: prefill.rows(copy, parts),
        "eval": lambda: evaluation.rows(parts),
    }
    key = what if only is None else f"{what} --only {only}"
    kept = kept_rows(output, key, result["machine"]) if what == "matched" else []
    result["rows"] = list(kept)
    for row in runs[what]():
        if what == "matched":  # in the place of one that was skipped
            result["rows"] = [old for old in result["rows"] if old["what"] != row["what"]]
        result["rows"].append(row)
        print(json.dumps(row), flush=True)
        if output is not None:  # a run that is cut off leaves what it has
            keep(output, key, result)
    print(f"\n{table(result['rows'])}\n")
    print(json.dumps(result))


def _kernels(parts: set[str], copy_rate: float) -> Iterator[Row]:
    if "taylor" in parts:
        yield from kernels.measure(kernels.taylor_cases(), copy_rate)
    if "others" in parts:
        yield from kernels.measure(kernels.other_cases(), copy_rate)
