"""Hyena (arXiv 2302.10866) in the layout of its release (Safari): `backbone.layers.i.{mixer, mlp, norm1, norm2}`.

    (x0, x1, v) = short_filter(in_proj u);    y = out_proj(x0 * (h conv (x1 * v) + D x1 * v))
    h_t = MLP(z_t) * (exp(-t |delta|) + shift), the MLP's activation being sin(freq x); z_t are position features

The filter h is as long as the longest context (`l_max`), computed once and kept. It has no finite state: the state of a
layer is every input that it convolves, and grows like a cache of keys. The release has no config.json; the arguments of
its constructor go into one under their own names (`layer`: the operator's), with `model_type` hyena.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.causal_filter import reference as causal_filter
from ..kernels.devices import in_slots
from ..kernels.long_convolution import reference as long_convolution
from ..kernels.precision import state_dtype, sum_dtype
from .attention import MHA
from .backbone_config import attention_layers, backbone_config
from .decoder import Decoder, LayerState, Linear, Mixer, Reading, Stepping
from .decoder_config import DecoderConfig
from .errors import ConfigurationError
from .fields import NUMBER, get_field, shown
from .wide_parameters import WideParameters

Shapes = Mapping[str, tuple[int, ...]]
WHERE = "config.json: layer"


class Sin(nn.Module):
    """sin(freq x), one frequency a unit."""

    def __init__(self, width: int):
        super().__init__()
        self.freq = nn.Parameter(torch.empty(1, width))


class PositionFeatures(nn.Module):
    """z `[1, L, F]`: the time from 0 to 1, then cosines and sines of it; t `[1, L, 1]`: the time alone."""

    z: Tensor
    t: Tensor

    def __init__(self, length: int, features: int):
        super().__init__()
        self.z = nn.Parameter(torch.empty(1, length, features))
        self.register_buffer("t", torch.empty(1, length, 1))


class Modulation(nn.Module):
    """The rates `[1, 1, D]` at which the channels' filters fade."""

    deltas: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("deltas", torch.empty(1, 1, width))


class Filter(WideParameters):
    """The implicit filter h `[L, D]`, with the direct term D added to h_0."""

    def __init__(self, width: int, layer: Mapping[str, Any]):
        super().__init__()
        features, units = get_field(layer, "emb_dim", int, 3, WHERE), get_field(layer, "filter_order", int, 64, WHERE)
        if features < 3 or features % 2 == 0:
            raise ConfigurationError(f"{WHERE}: emb_dim {features} must be odd and at least 3")
        self.w = get_field(layer, "w", NUMBER, 1, WHERE)
        self.shift = get_field(layer, "shift", NUMBER, 0.0, WHERE)
        self.modulate = get_field(layer, "modulate", bool, True, WHERE)
        self.bias = nn.Parameter(torch.empty(width))
        self.pos_emb = PositionFeatures(get_field(layer, "l_max", int, ..., WHERE), features)
        sine = Sin(units)  # one for all
        parts: list[nn.Module] = [nn.Linear(features, units), sine]
        for _ in range(get_field(layer, "num_inner_mlps", int, 2, WHERE)):
            parts += [nn.Linear(units, units), sine]
        self.implicit_filter = nn.Sequential(*parts, nn.Linear(units, width, bias=False))
        self.modulation = Modulation(width)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        length, features = self.pos_emb.z.shape[1:]
        time = torch.linspace(0, 1, length, dtype=torch.float64)[:, None]
        bands = torch.linspace(1e-4, (features - 1) // 2 - 1, (features - 1) // 2, dtype=torch.float64)
        angles = 2 * math.pi * torch.arange(length)[:, None] / length * bands
        self.pos_emb.t.copy_(time)
        self.pos_emb.z.copy_(torch.cat([time, angles.cos(), -angles.sin()], dim=1))
        self.modulation.deltas.copy_(torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, self.bias.shape[0]))
        self.bias.normal_(generator=generator)
        for part in self.implicit_filter:
            if isinstance(part, Sin):
                part.freq.fill_(self.w)
            elif isinstance(part, nn.Linear):
                part.weight.normal_(std=part.in_features**-0.5, generator=generator)

    def taps(self) -> Tensor:
        """h `[L, D]`, computed in float64 where answers must be exact."""
        return self.kept(self._compute)

    def _compute(self) -> Tensor:
        wide = sum_dtype(self.bias)
        x = self.pos_emb.z[0].to(wide)
        for part in self.implicit_filter:
            if isinstance(part, Sin):
                x = torch.sin(part.freq.to(wide) * x)
            elif isinstance(part, nn.Linear):
                x = nn.functional.linear(x, part.weight.to(wide), None if part.bias is None else part.bias.to(wide))
        if self.modulate:
            fading = torch.exp(-self.pos_emb.t[0].to(wide) * self.modulation.deltas[0].to(wide).abs())
            x = x * (fading + self.shift)
        return torch.cat([x[:1] + self.bias.to(wide), x[1:]]).to(state_dtype(self.bias))


class Hyena(Mixer):
    """The operator of order 2, one head, as released."""

    def __init__(self, width: int, layer: Mapping[str, Any]):
        super().__init__()
        supported: dict[str, Any] = {"order": 2, "num_heads": 1, "inner_factor": 1, "num_blocks": 1}
        supported |= {"outer_mixing": False, "post_order_ffn": False, "normalized": False, "activation": "id"}
        for name, wanted in supported.items():
            if (given := get_field(layer, name, type(wanted), wanted, WHERE)) != wanted:
                raise ConfigurationError(f"{WHERE}: {name} {shown(given)} is not supported, only {wanted}")
        taps = get_field(layer, "short_filter_order", int, 3, WHERE)
        self.in_proj = Linear(width, 3 * width)
        self.short_filter = nn.Conv1d(3 * width, 3 * width, taps, groups=3 * width)
        self.filter_fn = Filter(width, layer)
        self.out_proj = Linear(width, width)

    def short_taps(self) -> Tensor:
        return self.short_filter.weight[:, 0].flip(1)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The filtered projections `[., 3 D]` -> x0 and x1 * v `[., D]`."""
        assert self.short_filter.bias is not None
        x0, x1, v = (x + self.short_filter.bias).chunk(3, dim=-1)
        return x0, x1 * v

    def prefill(self, x: Tensor, reading: Reading, state: LayerState | None) -> tuple[Tensor, LayerState]:
        inputs, history = (state["inputs"], state["cached_inputs"]) if state else (None, None)
        x, inputs = causal_filter.prefill(self.in_proj(x), self.short_taps(), reading.packing, inputs)
        gate, x = self.gates(x)
        y, history = long_convolution.prefill(x, self.filter_fn.taps(), reading.packing, reading.position, history)
        return self.out_proj(gate * y), {"inputs": inputs, "cached_inputs": history}

    def step(self, x: Tensor, stepping: Stepping, state: LayerState) -> Tensor:
        projected, taps = self.in_proj(x), self.short_taps()
        filtered = in_slots(
            lambda held: causal_filter.step(projected, taps, held[0]), (state["inputs"],), stepping.rows
        )
        gate, x = self.gates(filtered)
        history, position = state["cached_inputs"], stepping.token_position
        y = long_convolution.step(x, self.filter_fn.taps(), position, history, stepping.rows)
        return self.out_proj(gate * y)


class HyenaModel(Decoder):
    """Hyena layers and, at `attn_layer_idx`, attention; it reads at most `l_max` tokens."""

    architecture = "hyena"
    stack_name = "backbone"

    def __init__(self, config: Mapping[str, Any], shapes: Shapes | None = None):
        super().__init__(config, shapes)
        l_max = get_field(self._layer(), "l_max", int, ..., WHERE)
        self.positions = min(l_max, self.positions or l_max)

    @classmethod
    def read_config(cls, config: Mapping[str, Any], shapes: Shapes | None) -> DecoderConfig:
        return backbone_config(config, shapes)

    def _layer(self) -> dict[str, Any]:
        return get_field(self.config, "layer", dict, ...)

    def make_mixer(self, layer: int, shapes: Shapes) -> Mixer:
        if layer in attention_layers(self.config, self.settings.n_layers):
            return MHA(self.settings, layer)
        return Hyena(self.settings.d_model, self._layer())
