"""An architecture from outside the package, whole: gated moving averages, one rate a channel.

h_t = a * h_{t-1} + (1 - a) * v_t,    y_t = silu(g_t) * h_t,    0 < a < 1
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recall_evals.kernels.devices import in_slots
from recall_evals.models.decoder import LayeredModel, LayerState, Linear, Mixer, Reading, Stepping
from recall_evals.models.fields import get_field


class GatedAverage(Mixer):
    def __init__(self, width: int):
        super().__init__()
        self.in_proj, self.out_proj = Linear(width, 2 * width), Linear(width, width)
        self.rate = nn.Parameter(torch.empty(width))

    def average(self, v: Tensor, h: Tensor) -> Tensor:
        a = torch.sigmoid(self.rate)
        return a * h + (1 - a) * v

    def prefill(self, x: Tensor, reading: Reading, state: LayerState | None) -> tuple[Tensor, LayerState]:
        gate, v = self.in_proj(x).chunk(2, dim=-1)
        packing = reading.packing
        padded, averages = packing.pad(v), []
        h = state["average"] if state else v.new_zeros(packing.batch, v.shape[1])
        for t in range(packing.longest):
            h = torch.where(packing.mask[:, t, None], self.average(padded[:, t], h), h)
            averages.append(h)
        return self.out_proj(F.silu(gate) * packing.unpad(torch.stack(averages, dim=1))), {"average": h}

    def step(self, x: Tensor, stepping: Stepping, state: LayerState) -> Tensor:
        gate, v = self.in_proj(x).chunk(2, dim=-1)

        def average(held: tuple[Tensor, ...]) -> Tensor:
            return held[0].copy_(self.average(v, held[0]))

        return self.out_proj(F.silu(gate) * in_slots(average, (state["average"],), stepping.rows))


class GatedAverageModel(LayeredModel):
    """x <- x + mixer(norm(x)) for each layer; logits = head(x)."""

    architecture = "gated_average"

    def __init__(self, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None = None):
        super().__init__()
        self.config = dict(config)
        width, vocab = get_field(config, "d_model", int, ...), get_field(config, "vocab_size", int, ...)
        n_layers = get_field(config, "n_layer", int, ...)
        self.embed = nn.Embedding(vocab, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_layers))
        self.mixers = nn.ModuleList(GatedAverage(width) for _ in range(n_layers))
        self.head = Linear(width, vocab, bias=False)

    def tie(self) -> None:
        """Nothing is tied."""

    @property
    def embedding(self) -> nn.Embedding:
        return self.embed

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)

    def _blocks(self, tokens: Tensor, positions: Tensor, mix: Callable[[int, Mixer, Tensor], Tensor]) -> Tensor:
        x = self.embed(tokens)
        for i, (norm, mixer) in enumerate(zip(self.norms, self.mixers, strict=True)):
            assert isinstance(mixer, Mixer)
            x = x + mix(i, mixer, norm(x))
        return x
