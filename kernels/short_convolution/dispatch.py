"""The short convolution on whatever device there is."""

from torch import Tensor

from ..devices import in_slots, runs_triton
from ..packing import Packing
from . import reference


def prefill(
    x: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None, packing: Packing, inputs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`reference.prefill`."""
    if runs_triton(x):
        from .triton_prefill import prefill as fused

        return fused(x, weight, bias, gate, packing, inputs)
    return reference.prefill(x, weight, bias, gate, packing, inputs)


def step(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    inputs: Tensor,
    rows: Tensor | None = None,
) -> Tensor:
    """`reference.step` on the slots `rows` of `inputs` `[slots, K - 1, D]`, by default on all."""
    if runs_triton(x):
        from .triton_step import step as fused

        return fused(x, weight, bias, gate, inputs, rows)
    return in_slots(lambda s: reference.step(x, weight, bias, gate, s[0]), (inputs,), rows)
