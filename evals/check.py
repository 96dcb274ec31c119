"""`recall-evals check`: the conformance gate, one line a check."""

import sys
import time

import torch
from tabulate import tabulate

from ..adapters.conformance import check_conformance
from ..adapters.placement import parse_device, parse_dtype
from ..models import load_model


def check(source: str, revision: str | None, device: str, dtype: str) -> bool:
    """Run the gate on a checkpoint and print its table; whether nothing failed. Raises as `load_model` does."""
    began = time.perf_counter()
    where = parse_device(device)
    model = load_model(source, revision=revision, dtype=parse_dtype(dtype, where), device=where)
    name, rounds = (str(dtype).removeprefix("torch.") for dtype in (model.dtype, model.arithmetic))
    name += "" if rounds == name else f" with kernels in {rounds}"
    card = f" ({torch.cuda.get_device_name(where)})" if where.type == "cuda" else ""
    print(f"{source}: {model.architecture}, {model.n_parameters:,} parameters, {name}, {where}{card}")
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}\n", flush=True)
    findings = []
    for finding in check_conformance(model):
        findings.append(finding)
        if sys.stderr.isatty():
            print(f"{finding.verdict}: {finding.name}", file=sys.stderr, flush=True)
    rows = [
        [f.name, _number(f.difference, "-"), _number(f.bound, "reported only"), f.unit, f.verdict, f.compared]
        for f in findings
    ]
    headers = ["what must be equal", "largest difference", "bound", "in", "", "compared"]
    print(tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=("left", "right", "right")))
    passed, unmade = sum(f.passed for f in findings), sum(f.difference is None for f in findings)
    left = f", {unmade} could not be made," if unmade else ""
    print(f"\n{passed} of {len(findings)} checks passed{left} in {time.perf_counter() - began:.1f} s.")
    return not any(f.failed for f in findings)


def _number(x: float | None, none: str) -> str:
    return none if x is None else f"{x:.2g}"
