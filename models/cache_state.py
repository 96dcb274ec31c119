"""States made of other libraries' caches: rows are copied out of them, joined, and written back.

What a library does to the cache it was given thus touches no state, but where all rows of a state that does not grow
are stepped: there it is given the state's own tensors, in which the step's result belongs (`put_rows`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .state import GROWING, State

Layers = list[dict[str, Tensor]]


@dataclass
class CacheState(State):
    """A state in which what grows may have a bound.

    Attributes:
        bounds: for each layer the most tokens that its growing tensors hold; None: no bound.
    """

    bounds: list[int | None]

    def select(self, rows: Sequence[int] | Tensor) -> "CacheState":
        chosen = super().select(rows)
        return CacheState(chosen.position, chosen.layers, self.bounds)

    def reserve(self, tokens: int) -> None:
        for layer, bound in zip(self.layers, self.bounds, strict=True):
            State(self.position, [layer]).reserve(tokens if bound is None else min(tokens, bound))


def take(layers: Layers, rows: Tensor, begun: Sequence[int], bounds: Sequence[int | None]) -> Layers:
    """Copies of some rows, cut to what is used, after `begun[i]` tokens of row i.

    Where these differ, what grows ends together: before it, row i has some tokens too many, to be masked.
    """
    found = []
    for layer, bound in zip(layers, bounds, strict=True):
        used = [n if bound is None else min(n, bound) for n in begun]
        longest, places = max(used), None
        if min(used) < longest:
            missing = longest - torch.tensor(used, device=rows.device)
            places = (torch.arange(longest, device=rows.device) - missing[:, None]).clamp(min=0)
        taken = {}
        for name, tensor in layer.items():
            if name not in GROWING:
                taken[name] = tensor[rows]
            else:
                taken[name] = tensor[rows, :longest] if places is None else tensor[rows[:, None], places]
        found.append(taken)
    return found


def begin_together(layers: Layers, read: Sequence[int], bounds: Sequence[int | None]) -> Layers:
    """Move what ends together, after `read[i]` tokens of row i, to the beginning."""
    found = []
    for layer, bound in zip(layers, bounds, strict=True):
        used = [n if bound is None else min(n, bound) for n in read]
        moved = dict(layer)
        for name in GROWING & layer.keys() if min(used) < max(used) else ():
            tensor = layer[name]
            first = tensor.shape[1] - torch.tensor(used, device=tensor.device)
            places = (torch.arange(tensor.shape[1], device=tensor.device) + first[:, None]).clamp(
                max=tensor.shape[1] - 1
            )
            moved[name] = tensor[torch.arange(len(used), device=tensor.device)[:, None], places]
        found.append(moved)
    return found


def join(parts: Sequence[Layers], order: Tensor) -> Layers:
    """The rows of several batches, one after the other, in the given order."""
    joined = []
    for same in zip(*parts, strict=True):
        layer = {}
        for name in same[0]:
            tensors = [held[name] for held in same]
            if name in GROWING:
                longest = max(t.shape[1] for t in tensors)
                tensors = [F.pad(t, (0, 0) * (t.dim() - 2) + (0, longest - t.shape[1])) for t in tensors]
            layer[name] = torch.cat(tensors)[order]
        joined.append(layer)
    return joined


def put(layers: Layers, rows: Tensor, new: Layers, begun: Sequence[int], bounds: Sequence[int | None]) -> None:
    """Write what a step changed into the rows of a state, in place; row i had read `begun[i]` tokens before it."""
    positions = torch.tensor(begun, device=rows.device)
    for layer, held, bound in zip(layers, new, bounds, strict=True):
        for name, tensor in held.items():
            if name not in GROWING:
                layer[name][rows] = tensor.to(layer[name].dtype)
            elif bound is None:
                layer[name][rows, positions] = tensor[:, -1]
            else:  # a full window has moved on
                for row, n, window in zip(rows.tolist(), begun, tensor, strict=True):
                    used = min(n + 1, bound)
                    layer[name][row, :used] = window[window.shape[0] - used :]


def take_rows(layers: Layers, rows: Tensor) -> Layers:
    """Copies of the rows `[n]` of a state of which nothing grows; nothing of it waits for the device."""
    return [{name: tensor[rows] for name, tensor in layer.items()} for layer in layers]


def put_rows(layers: Layers, rows: Tensor | None, new: Layers) -> None:
    """Write `new` into the rows `[n]`, or all in order, of a state of which nothing grows, as `take_rows` reads it."""
    for layer, held in zip(layers, new, strict=True):
        for name, tensor in held.items():
            if rows is not None:
                layer[name][rows] = tensor.to(layer[name].dtype)
            elif tensor.data_ptr() != layer[name].data_ptr():  # else it was written where it lay
                layer[name].copy_(tensor)
