"""Mamba (arXiv 2312.00752) in the published layout of mamba_ssm: `backbone.layers.i.{norm, mixer}`, tied head.

    (x, z) = in_proj(u);  x = silu(conv(x) + b);  (dt, B, C) = x_proj(x);  dt = softplus(dt_proj(dt) + b)
    y = selective_scan(x, dt, A = -exp(A_log), B, C, D);  out_proj(y * silu(z))

The state of a layer is the last d_conv - 1 inputs of the convolution and the scan's h `[d_inner, d_state]`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.linear.dispatch import linear
from ..kernels.packing import Packing
from ..kernels.selective_scan import dispatch as selective_scan
from ..kernels.selective_scan.reference import GatedInputs, decay_rates, step_sizes
from ..kernels.short_convolution import dispatch as short_convolution
from .decoder import LayerNorm, LayerState, Linear, RMSNorm
from .decoder_config import rows_of_vocabulary
from .errors import ConfigurationError
from .fields import NUMBER, get_field
from .sequence_model import SequenceModel
from .state import State

NORM_EPS = 1e-5  # hard-coded in the original: the configuration has no field for it


class MambaMixer(nn.Module):
    """Shapes: d_model -> d_inner = expand * d_model channels, each with d_state numbers of scan state."""

    def __init__(self, d_model: int, ssm: Mapping[str, Any]):
        super().__init__()
        where = "config.json: ssm_cfg"
        self.d_inner = int(get_field(ssm, "expand", NUMBER, 2, where) * d_model)
        if self.d_inner < 1:
            raise ConfigurationError(
                f"{where}: expand {ssm['expand']} of d_model {d_model} leaves no channel; raise it"
            )
        self.d_state = get_field(ssm, "d_state", int, 16, where)
        given = {} if ssm.get("dt_rank") == "auto" else ssm
        self.dt_rank = get_field(given, "dt_rank", int, math.ceil(d_model / 16), where)
        bias = get_field(ssm, "bias", bool, False, where)
        conv_bias = get_field(ssm, "conv_bias", bool, True, where)
        self.in_proj = Linear(d_model, 2 * self.d_inner, bias=bias)
        taps = get_field(ssm, "d_conv", int, 4, where)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, taps, groups=self.d_inner, bias=conv_bias)
        self.x_proj = Linear(self.d_inner, self.dt_rank + 2 * self.d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner, bias=True)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, self.d_state))
        self.D = nn.Parameter(torch.empty(self.d_inner))
        self.out_proj = Linear(self.d_inner, d_model, bias=bias)

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x `[., d_inner]` -> dt before its bias `[., d_inner]`, B and C `[., d_state]`."""
        dt, b, c = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return linear(dt, self.dt_proj.weight), b, c

    def parameters_of_scan(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x `[., d_inner]` -> dt `[., d_inner]`, A `[d_inner, d_state]`, B and C `[., d_state]`."""
        dt, b, c = self.projected(x)
        dt = step_sizes(dt, self.dt_proj.bias)
        return dt, decay_rates(self.A_log, dt.dtype), b, c

    def inputs_of_scan(self, x: Tensor, z: Tensor) -> GatedInputs:
        """What the scan reads for x and its gate z `[., d_inner]`."""
        dt, b, c = self.projected(x)
        return GatedInputs(x, dt, z, b, c, self.dt_proj.bias, self.A_log, self.D)

    def prefill(self, u: Tensor, packing: Packing, state: LayerState | None) -> tuple[Tensor, LayerState]:
        x, z = self.in_proj(u).chunk(2, dim=-1)
        inputs, h = (state["inputs"], state["ssm"]) if state else (None, None)
        x, inputs = short_convolution.prefill(x, self.conv1d.weight[:, 0], self.conv1d.bias, None, packing, inputs)
        y, h = selective_scan.gated_prefill(self.inputs_of_scan(x, z), packing, h)
        return self.out_proj(y), {"inputs": inputs, "ssm": h}

    def step(self, u: Tensor, rows: Tensor | None, state: LayerState) -> Tensor:
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x = short_convolution.step(x, self.conv1d.weight[:, 0], self.conv1d.bias, None, state["inputs"], rows)
        return self.out_proj(selective_scan.gated_step(self.inputs_of_scan(x, z), state["ssm"], rows))


class MambaBlock(nn.Module):
    def __init__(self, d_model: int, ssm: Mapping[str, Any], rms: bool):
        super().__init__()
        self.norm = (RMSNorm if rms else LayerNorm)(d_model, NORM_EPS)
        self.mixer = MambaMixer(d_model, ssm)


class Backbone(nn.Module):
    def __init__(self, d_model: int, n_layers: int, vocab: int, ssm: Mapping[str, Any], rms: bool):
        super().__init__()
        self.embedding = nn.Embedding(vocab, d_model)
        self.layers = nn.ModuleList(MambaBlock(d_model, ssm, rms) for _ in range(n_layers))
        self.norm_f = (RMSNorm if rms else LayerNorm)(d_model, NORM_EPS)


class MambaModel(SequenceModel):
    """r <- r + h; h = mixer(norm(r)) for each layer; logits = lm_head(norm_f(r + h)).

    Args:
        config: the published config.json (the fields of mamba_ssm's MambaConfig).
        shapes: of the checkpoint's tensors; its embedding overrules the configuration's padding.

    Raises:
        ConfigurationError: a missing field, one of the wrong type, or another kind of SSM layer.
    """

    architecture = "mamba"

    def __init__(self, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None = None):
        super().__init__()
        self.config = dict(config)
        ssm = get_field(config, "ssm_cfg", dict, {})
        if ssm.get("layer", "Mamba1") != "Mamba1" or config.get("attn_layer_idx"):
            raise ConfigurationError("config.json: ssm_cfg.layer / attn_layer_idx: only pure Mamba-1 is supported")
        vocab = get_field(config, "vocab_size", int, 50277)
        multiple = get_field(config, "pad_vocab_size_multiple", int, 8)
        self.padded_vocab = rows_of_vocabulary(vocab, multiple, shapes or {})
        self.residual_in_fp32 = get_field(config, "residual_in_fp32", bool, True)
        self.backbone = Backbone(
            d_model := get_field(config, "d_model", int, ...),
            get_field(config, "n_layer", int, ...),
            self.padded_vocab,
            ssm,
            get_field(config, "rms_norm", bool, True),
        )
        self.lm_head = Linear(d_model, self.padded_vocab, bias=False)
        self.tied = get_field(config, "tie_embeddings", bool, True)
        self.tie()

    def tie(self) -> None:
        if self.tied:
            self.lm_head.weight = self.backbone.embedding.weight

    @property
    def embedding(self) -> nn.Embedding:
        return self.backbone.embedding

    def logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)

    def _blocks(self, tokens: Tensor, mix: Callable[[int, MambaMixer, Tensor], Tensor]) -> Tensor:
        hidden = self.backbone.embedding(tokens)
        stream: Tensor | None = None
        for i, block in enumerate(self.backbone.layers):
            assert isinstance(block, MambaBlock)
            stream, x = block.norm(stream, hidden, self.residual_in_fp32)
            hidden = mix(i, block.mixer, x)
        _, x = self.backbone.norm_f(stream, hidden, self.residual_in_fp32)
        return x

    def extend(
        self, tokens: Tensor, packing: Packing, state: State | None, pads: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if pads is not None:
            raise ValueError("mamba has no left-pad mode; leave `pads` out")
        layers: list[LayerState] = []

        def mix(i: int, mixer: MambaMixer, x: Tensor) -> Tensor:
            y, layer = mixer.prefill(x, packing, state.layers[i] if state else None)
            layers.append(layer)
            return y

        hidden = self._blocks(tokens, mix)
        read = packing.length_tensor
        return hidden, State(state.position + read if state else read.clone(), layers)

    def advance(self, tokens: Tensor, state: State, rows: Tensor | None = None) -> Tensor:
        hidden = self._blocks(tokens, lambda i, mixer, x: mixer.step(x, rows, state.layers[i]))
        state.count(rows)
        return hidden
