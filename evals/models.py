"""`recall-evals models`: every architecture there is, and what its state takes at 1.3 billion parameters."""

import torch
from tabulate import tabulate
from torch import nn

from ..kernels.precision import plain_sums
from ..models.architectures import architectures, detect_architecture, model_class
from ..models.matched import matched_config, matched_names
from ..models.state import State

LENGTH = 2048  # tokens


def models() -> None:
    """Print the table. Other packages' architectures are listed, not imported; no size of theirs is known."""
    rows = []
    for name, row in architectures().items():
        config = f"{name}-1b"
        measured = state_bytes(config, LENGTH) if config in matched_names() else ("", "")
        needs = f"recall-evals[{row.extra}]" if row.extra else ""
        rows.append([name, row.formats, *measured, row.devices, needs])
    headers = ["architecture", "reads", "parameters", f"bytes of state at {LENGTH:,} tokens", "runs on", "needs"]
    align = ("left", "left", "right", "right", "left", "left")
    print(tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=align))
    print("\nParameters and state of one sequence: of the 1.3 B configurations in models/configs, in bfloat16.")


@torch.inference_mode()
def state_bytes(config: str, length: int) -> tuple[str, str]:
    """Parameters of a configuration, and the bytes of one sequence's state in bfloat16, from its tensors.

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
