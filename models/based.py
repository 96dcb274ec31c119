"""BASED (arXiv 2402.18668): Taylor linear attention, small sliding windows and gated short convolutions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.devices import runs_triton
from ..kernels.linear.dispatch import joint, linear
from ..kernels.short_convolution import dispatch as short_convolution
from ..kernels.sliding_window_attention import dispatch as sliding_window
from ..kernels.taylor_linear_attention import dispatch as taylor_on_device
from ..kernels.taylor_linear_attention import reference as taylor
from .attention import MHA, RotaryProjections
from .decoder import Decoder, LayerState, Linear, Mixer, Reading, Stepping
from .decoder_config import DecoderConfig, mixer_kind
from .errors import ConfigurationError
from .fields import get_field, shown

Shapes = Mapping[str, tuple[int, ...]]


def integer(mixer: Mapping[str, Any], name: str, default: int) -> int:
    """A whole-number field of a mixer's configuration."""
    return get_field(mixer, name, int, default, place(mixer))


def place(mixer: Mapping[str, Any]) -> str:
    """How a message names the part of the configuration that a mixer's field stands in."""
    return f"config.json: {shown(mixer['_target_'])}"


class Convolution(nn.Module):
    """Holds the depthwise weights under their published name `conv.conv`."""

    def __init__(self, width: int, taps: int, bias: bool):
        super().__init__()
        self.conv = nn.Conv1d(width, width, taps, groups=width, bias=bias)


class BaseConv(Mixer):
    """out_proj(silu(conv(a)) * b) with (a, b) the halves of in_proj x. The state is the last inputs of the conv."""

    def __init__(self, config: DecoderConfig, mixer: Mapping[str, Any], conv_bias: bool):
        super().__init__()
        expansion = integer(mixer, "expand_proj", 2)
        bias = get_field(mixer, "use_bias", bool, True, place(mixer))
        if expansion * config.d_model % 2:
            raise ConfigurationError(f"{place(mixer)}: expand_proj {expansion} times n_embd can't be halved")
        self.width = expansion * config.d_model // 2
        self.in_proj = Linear(config.d_model, expansion * config.d_model, bias=bias)
        # `kernel_sizes`, which the published files also have, never reached the original's constructor.
        self.conv = Convolution(self.width, integer(mixer, "kernel_size", 3), conv_bias)
        self.out_proj = Linear(self.width, config.d_model, bias=bias)

    def prefill(self, x: Tensor, reading: Reading, state: LayerState | None) -> tuple[Tensor, LayerState]:
        a, b = self.in_proj(x).split(self.width, dim=-1)
        conv = self.conv.conv
        inputs = state["inputs"] if state else None
        y, inputs = short_convolution.prefill(a, conv.weight[:, 0], conv.bias, b, reading.packing, inputs)
        return self.out_proj(y), {"inputs": inputs}

    def step(self, x: Tensor, stepping: Stepping, state: LayerState) -> Tensor:
        a, b = self.in_proj(x).split(self.width, dim=-1)
        conv = self.conv.conv
        y = short_convolution.step(a, conv.weight[:, 0], conv.bias, b, state["inputs"], stepping.rows)
        return self.out_proj(y)


class LinearAttention(Mixer):
    """Taylor linear attention (kernels/taylor_linear_attention); its packed state is the model's long memory."""

    def __init__(self, config: DecoderConfig, mixer: Mapping[str, Any]):
        super().__init__()
        self.heads = integer(mixer, "num_heads", 16)
        self.feature_dim = integer(mixer, "feature_dim", 16)
        self.head_dim = integer(mixer, "head_dim", config.d_model // self.heads)
        where = place(mixer)
        if self.heads > config.d_model:
            raise ConfigurationError(f"{where}: num_heads {self.heads} exceeds n_embd {config.d_model}")
        feature_map = get_field(mixer, "feature_map", dict, {}, where)
        name = get_field(feature_map, "_target_", str, "TaylorExp", f"{where}: feature_map").rsplit(".", 1)[-1]
        if name != "TaylorExp":
            raise ConfigurationError(f"{where}: feature map {shown(name)} is unknown; supported: TaylorExp")
        # `scale_dim` is a field of the JRT code base; the others say `feature_map.input_dim`.
        input_dim = get_field(feature_map, "input_dim", int, self.feature_dim, f"{where}: feature_map")
        scale_dim = integer(mixer, "scale_dim", input_dim)
        self.scale = scale_dim**-0.5
        self.proj_q = Linear(config.d_model, self.heads * self.feature_dim, bias=False)
        self.proj_k = Linear(config.d_model, self.heads * self.feature_dim, bias=False)
        self.proj_v = Linear(config.d_model, self.heads * self.head_dim, bias=False)
        self.out_proj = Linear(self.heads * self.head_dim, config.d_model, bias=False)
        # `fixed_decay` alone changes nothing; only together with `use_decay_proj` is the decay used.
        self.gamma: list[float] | None = None
        if get_field(mixer, "use_decay_proj", bool, False, where):
            self.decay_proj = Linear(config.d_model, self.heads, bias=False)
            if config.fixed_decay:
                if config.decay_const >= 0:
                    raise ConfigurationError(f"config.json: decay_const {config.decay_const} must be negative")
                self.gamma = [1 - 2 ** (config.decay_const - h) for h in range(self.heads)]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        projections = self.proj_q, self.proj_k, self.proj_v
        if runs_triton(x):  # where launching three products costs more than the products
            weight = joint([p.weight for p in projections])
            q, k, v = linear(x, weight).split([len(p.weight) for p in projections], dim=-1)
        else:
            q, k, v = (p(x) for p in projections)
        return *(y.unflatten(-1, (self.heads, self.feature_dim)) for y in (q, k)), v.unflatten(-1, (self.heads, -1))

    def decay(self, x: Tensor) -> Tensor | None:
        wide = torch.promote_types(x.dtype, torch.float32)
        return None if self.gamma is None else torch.tensor(self.gamma, dtype=wide, device=x.device)

    def output(self, x: Tensor, y: Tensor) -> Tensor:
        if self.gamma is not None:
            y = y * self.decay_proj(x)[..., None]
        return self.out_proj(y.flatten(1))

    def prefill(self, x: Tensor, reading: Reading, state: LayerState | None) -> tuple[Tensor, LayerState]:
        q, k, v = self.project(x)
        before = taylor.TaylorState(**state) if state else None
        y, after = taylor_on_device.prefill(
            q, k, v, self.scale, reading.packing, reading.position, before, self.decay(x)
        )
        return self.output(x, y), after._asdict()

    def step(self, x: Tensor, stepping: Stepping, state: LayerState) -> Tensor:
        q, k, v = self.project(x)
        remembered = taylor.TaylorState(**state)
        y = taylor_on_device.step(q, k, v, self.scale, stepping.position, remembered, self.decay(x), stepping.rows)
        return self.output(x, y)


class SlidingAttention(RotaryProjections):
    """Softmax attention over window_size // 2 + 1 keys; heads, scale and biases come from the top level."""

    def __init__(self, config: DecoderConfig, mixer: Mapping[str, Any], layer: int):
        super().__init__(config, layer)
        self.window = integer(mixer, "window_size", 128) // 2 + 1

    def prefill(self, x: Tensor, reading: Reading, state: LayerState | None) -> tuple[Tensor, LayerState]:
        q, k, v = self.unrotated(x)
        angles = self.angles(x, reading.token_position)
        ring = (state["ring_keys"], state["ring_values"]) if state else None
        y, (keys, values) = sliding_window.prefill(
            q, k, v, angles, self.scale, self.window, reading.packing, reading.position, ring
        )
        return self.out_proj(y.flatten(1)), {"ring_keys": keys, "ring_values": values}

    def step(self, x: Tensor, stepping: Stepping, state: LayerState) -> Tensor:
        q, k, v = self.unrotated(x)
        ring = state["ring_keys"], state["ring_values"]
        angles = stepping.angles(self.rotary_dim, self.rotary_base, x.dtype)
        y = sliding_window.step(q, k, v, angles, self.scale, stepping.position, ring, stepping.rows)
        return self.out_proj(y.flatten(1))


class BasedModel(Decoder):
    """The mixers named by `mixer`, `alt_mixer` and `alt_mixer_2`."""

    architecture = "based"

    def make_mixer(self, layer: int, shapes: Shapes) -> Mixer:
        mixer = self.settings.mixers[layer]
        kind = mixer_kind(mixer)
        if mixer is None:
            return MHA(self.settings, layer)
        if kind in ("BaseConv", "BaseConvWithSiLU4"):
            # With `use_cuda` and the causal_conv1d extension installed the original made a bias: the file tells.
            bias = f"transformer.layers.{layer}.mixer.conv.conv.bias" in shapes
            return BaseConv(self.settings, mixer, bias)
        if kind == "LinearAttention":
            return LinearAttention(self.settings, mixer)
        if kind in ("SlidingAttention", "SlidingsMHA"):
            return SlidingAttention(self.settings, mixer, layer)
        raise ConfigurationError(
            f"config.json: layer {layer}: mixer {shown(mixer['_target_'])} is unknown; supported: BaseConv, "
            "LinearAttention, SlidingAttention, PrefixLinearAttention (JRT)"
        )
