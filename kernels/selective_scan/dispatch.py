"""The selective scan on whatever device there is."""

import torch.nn.functional as F
from torch import Tensor

from ..devices import in_slots, runs_triton
from ..packing import Packing
from . import reference
from .reference import GatedInputs, decay_rates, step_sizes


def gated_prefill(x: GatedInputs, packing: Packing, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`reference.prefill` with what Mamba puts around it: y * silu(gate) `[T, D]`, the new state `[B, D, N]`.

    Args:
        x: of T tokens in place of the B of a step.
        state: `[B, D, N]` before these tokens; None for zeros.
    """
    if runs_triton(x.u):
        from .triton_prefill import gated_prefill as fused

        return fused(x, packing, state)
    sizes = step_sizes(x.dt, x.dt_bias)
    y, state = reference.prefill(x.u, sizes, decay_rates(x.a_log, sizes.dtype), x.b, x.c, x.skip, packing, state)
    return y * F.silu(x.gate), state


def gated_step(x: GatedInputs, state: Tensor, rows: Tensor | None = None) -> Tensor:
    """`reference.gated_step` on the slots `rows` of `state`, by default on all."""
    if runs_triton(x.u):
        from .triton_step import gated_step as fused

        return fused(x, state, rows)
    return in_slots(lambda s: reference.gated_step(x, s[0]), (state,), rows)
