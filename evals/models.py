"""`recall-evals models`: every architecture there is, and what its state takes at 1.3 billion parameters."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from ..kernels.precision import plain_sums
from ..models.architectures import FLA, OURS, architectures, detect_architecture, model_class
from ..models.cache_forms import first_state
from ..models.matched import matched_config, matched_names
from ..models.state import State
from ..models.transformers_loading import named_class

LENGTH = 2048  # tokens
BENCHMARKS = Path(__file__).parents[1] / "results" / "benchmarks" / "h200.json"


def models() -> None:
    """Print the table. Other packages' architectures are listed, not imported; no size of theirs is known.

    Below Transformers and flash-linear-attention stands each of their architectures that has a configuration.
    """
    rows = []
    libraries: dict[str, list[str]] = {"transformers": [], "fla": []}
    for name in (config.removesuffix("-1b") for config in matched_names() if config.endswith("-1b")):
        if name not in OURS:
            libraries["fla" if name in FLA else "transformers"].append(name)
    for name, row in architectures().items():
        needs = f"recall-evals[{row.extra}]" if row.extra else ""
        sizes = state_bytes(f"{name}-1b", LENGTH) if f"{name}-1b" in matched_names() else ("", "")
        rows.append([name, row.formats, *sizes, row.devices, needs])
        for kind in libraries.get(name, []):
            more = f"{needs}, mamba-ssm" if kind == "mamba3" else needs
            measured = measured_bytes if name == "fla" else library_state_bytes
            rows.append([f"- {kind}", "", *measured(f"{kind}-1b", LENGTH), row.devices, more])
    headers = ["architecture", "reads", "parameters", f"bytes of state at {LENGTH:,} tokens", "runs on", "needs"]
    align = ("left", "left", "right", "right", "left", "left")
    print(tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=align))
    print("\nParameters and state of one sequence in bfloat16, of the 1.3 B configurations in models/configs:")
    print("from their tensors, now; of flash-linear-attention as measured on a GPU (results/benchmarks).")


@torch.inference_mode()
def state_bytes(config: str, length: int) -> tuple[str, str]:
    """Parameters of a configuration of ours, and the bytes of one sequence's state in bfloat16, from its tensors.

    Layers of the same shapes have states of the same shapes: one of each kind is run, and stands for all of them.
    """
    settings = matched_config(config)
    with torch.device("meta"):
        model = model_class(detect_architecture(settings))(settings).to(torch.bfloat16)
        parameters = model.n_parameters
    name, blocks = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList))
    shapes = [tuple((n, t.shape) for n, t in block.state_dict().items()) for block in blocks]
    kinds = list(dict.fromkeys(shapes))
    model.set_submodule(name, nn.ModuleList(blocks[shapes.index(kind)] for kind in kinds))
    model.to_empty(device="cpu")
    for p in model.parameters():
        p.zero_()

    with plain_sums():
        _, one = model.prefill(torch.zeros(1, dtype=torch.int64), [1])
    each = len(one.layers) // len(kinds)
    parts = [one.layers[i : i + each] for i in range(0, len(one.layers), each)]
    state = State(one.position, [layer for shape in shapes for layer in parts[kinds.index(shape)]])
    state.reserve(length)  # what grows has its full size
    return f"{parameters:,}", f"{state.nbytes:,}"


@torch.inference_mode()
def library_state_bytes(config: str, length: int) -> tuple[str, str]:
    """The same of a configuration of Transformers, whose classes run without numbers too."""
    settings = matched_config(config)
    kind = named_class(settings)
    with torch.device("meta"):
        network = kind._from_config(kind.config_class(**settings), dtype=torch.bfloat16).eval()
        state = first_state(network.base_model, torch.zeros(1, 3, dtype=torch.int64))
        state.reserve(length)
    return f"{sum(p.numel() for p in network.parameters()):,}", f"{state.nbytes:,}"


def measured_bytes(config: str, length: int) -> tuple[str, str]:
    """The same as `recall-evals bench matched` measured it; flash-linear-attention's classes run on a GPU alone."""
    row = next((row for row in benchmarked() if row["what"] == config), {})
    parameters, state = row.get("parameters"), row.get(f"state_bytes_{length}")
    return "" if parameters is None else f"{parameters:,}", "" if state is None else f"{state:,}"


@cache
def benchmarked() -> list[dict[str, Any]]:
    """The rows of `recall-evals bench matched` that this version comes with."""
    parts = json.loads(BENCHMARKS.read_text(encoding="utf-8"))
    return [row for part, kept in parts.items() if part.startswith("matched") for row in kept["rows"]]
