"""The published Transformer (`attn-*`): causal attention with partial rotary embeddings in the shared decoder."""

from collections.abc import Mapping

from torch import Tensor, nn

from ..kernels.full_attention import dispatch
from ..kernels.rotary.dispatch import rotate
from ..kernels.rotary.reference import apply_rotary, rotary_angles
from .decoder import Decoder, LayerState, Linear, Mixer, Reading, Stepping
from .decoder_config import DecoderConfig, mixer_kind
from .errors import ConfigurationError
from .fields import shown


class RotaryProjections(Mixer):
    """Queries, keys and values as full and sliding attention share them: `Wqkv` rows are q | k | v."""

    Wqkv: nn.Linear
    out_proj: nn.Linear

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        self.heads, self.head_dim = config.n_heads, config.head_dim
        self.rotary_dim, self.rotary_base = config.rotary_dim, config.rotary_base
        if -(-self.rotary_dim // 2) * 2 > self.head_dim:
            raise ConfigurationError(
                f"config.json: rotary_emb_fraction {config.rotary_fraction}: dimensions are turned in pairs, and heads "
                f"of {self.head_dim} (n_embd / n_head) lack the last; only a smaller fraction is possible"
            )
        self.scale = config.softmax_scale(layer)
        self.Wqkv = Linear(config.d_model, 3 * config.d_model, bias=config.qkv_bias)
        self.out_proj = Linear(config.d_model, config.d_model, bias=config.out_bias)

    def unrotated(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[T, D]` -> q, k and v, `[T, H, head_dim]`."""
        q, k, v = self.Wqkv(x).reshape(-1, 3, self.heads, self.head_dim).unbind(1)
        return q, k, v

    def angles(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of the positions `[T]`, in the dtype of x; None where nothing is turned."""
        return rotary_angles(positions, self.rotary_dim, self.rotary_base, x.dtype) if self.rotary_dim else None


class MHA(RotaryProjections):
    """Causal attention over everything read; the state is the cache of keys and values."""

    def prefill(self, x: Tensor, reading: Reading, state: LayerState | None) -> tuple[Tensor, LayerState]:
        q, k, v = self.unrotated(x)
        q, k = rotate(q, k, self.angles(x, reading.token_position))
        cache = (state["cached_keys"], state["cached_values"]) if state else None
        y, (keys, values) = dispatch.prefill(q, k, v, self.scale, reading.packing, reading.position, cache)
        return self.out_proj(y.flatten(1)), {"cached_keys": keys, "cached_values": values}

    def step(self, x: Tensor, stepping: Stepping, state: LayerState) -> Tensor:
        q, k, v = self.unrotated(x)
        if angles := stepping.angles(self.rotary_dim, self.rotary_base, x.dtype):
            q, k = apply_rotary(q, *angles), apply_rotary(k, *angles)
        cache = state["cached_keys"], state["cached_values"]
        y = dispatch.step(q, k, v, self.scale, stepping.token_position, cache, stepping.rows)
        return self.out_proj(y.flatten(1))


class AttentionModel(Decoder):
    """Every layer is `MHA`."""

    architecture = "attention"

    def make_mixer(self, layer: int, shapes: Mapping[str, tuple[int, ...]]) -> Mixer:
        if (kind := mixer_kind(self.settings.mixers[layer])) != "MHA":
            raise ConfigurationError(
                f"config.json: layer {layer} is {shown(kind)}, but an attention model has no mixers"
            )
        return MHA(self.settings, layer)
