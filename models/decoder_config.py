"""The published configuration of the attention, BASED and JRT models: `GPT2Config.to_dict()` plus extra keys.

What each key means, and which are misleading, was established against the original code:
`n_positions` 0 means no learned positions and is no context limit; `alt_mixer_2.num_heads` is overridden by the top
level; bias flags are true when absent; a layer routed to a mixer that is missing is plain attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ConfigurationError
from .fields import NUMBER, get_field, shown

# Head and embedding, which hold a row for every id, in the published files.
ROW_NAMES = (
    "lm_head.weight",
    "transformer.embeddings.word_embeddings.weight",
    "backbone.embedding.weight",
    "backbone.embeddings.word_embeddings.weight",
    "rwkv.embeddings.weight",
)


def rows_of_vocabulary(vocab_size: int, multiple: int, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Rows of head and embedding: as the file has them, for padding varies between releases; else by the multiple."""
    rows = next((shapes[name][0] for name in ROW_NAMES if shapes.get(name)), 0)
    return rows if rows >= vocab_size else round_up(vocab_size, multiple)


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@dataclass
class DecoderConfig:
    """Names follow the field's usage; the published key stands behind each."""

    d_model: int  # n_embd
    n_layers: int  # n_layer
    n_heads: int  # n_head
    vocab_size: int
    padded_vocab: int  # rows of head and embedding
    n_positions: int
    mlp_hidden: int  # by the rule of flash-attn 2.3.6; the weights overrule it
    norm_eps: float
    activation: str  # activation_function: swiglu, geglu or glu; gelu_tanh: an MLP without a gate
    mlp_type: str = "base"  # base or alt
    fc1_bias: bool = True
    fc2_bias: bool = True
    rms_norm: bool = False
    residual_in_fp32: bool = False
    qkv_bias: bool = True
    out_bias: bool = True
    rotary_fraction: float = 0.0
    rotary_base: float = 10000.0
    scale_attention: bool = True  # scale_attn_weights
    scale_by_layer: bool = False  # scale_attn_by_inverse_layer_idx
    tied: bool = True
    fixed_decay: bool = False
    decay_const: float = -3
    enc_length: int | None = None
    initializer_range: float = 0.02
    mixers: list[dict[str, Any] | None] = field(default_factory=list)  # one a layer; None: plain attention

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @property
    def rotary_dim(self) -> int:
        return int(self.rotary_fraction * self.head_dim)

    def softmax_scale(self, layer: int) -> float:
        scale = self.head_dim**-0.5 if self.scale_attention else 1.0
        return scale / (layer + 1) if self.scale_by_layer else scale

    @classmethod
    def from_published(
        cls, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> "DecoderConfig":
        """Read a published config.json; `shapes` are those of the checkpoint's tensors, where there is one.

        Raises:
            ConfigurationError: a missing field, one of the wrong type, or a feature no released model has.
        """
        d_model = get_field(config, "n_embd", int, ...)
        n_heads = get_field(config, "n_head", int, ...)
        if d_model % n_heads:
            raise ConfigurationError(f"config.json: n_embd {d_model} is not a multiple of n_head {n_heads}")
        for name, wanted in (("prenorm", True), ("parallel_block", False), ("rotary_emb_interleaved", False)):
            if get_field(config, name, bool, wanted) is not wanted:
                raise ConfigurationError(f"config.json: {name} = {config[name]!r} is not supported, only {wanted}")
        for name in ("num_head_kv", "n_head_kv"):
            if get_field(config, name, int, n_heads) != n_heads:
                raise ConfigurationError(f"config.json: {name} = {config[name]!r}: grouped heads are not supported")
        activation = get_field(config, "activation_function", str, "gelu_new")
        if activation not in ("swiglu", "geglu", "glu"):
            raise ConfigurationError(
                f"config.json: activation_function {shown(activation)} is unknown; supported: swiglu, geglu, glu"
            )
        mlp_type = get_field(config, "mlp_type", str, "base")
        if mlp_type == "alt":
            hidden = max(1, int(2 * d_model * get_field(config, "ff_mult", NUMBER, 2) / 3))
        elif mlp_type == "base":
            hidden = get_field(config, "n_inner", int, int(8 * d_model / 3))
        else:
            raise ConfigurationError(f"config.json: mlp_type {shown(mlp_type)} is unknown; supported: base, alt")
        vocab_size = get_field(config, "vocab_size", int, ...)
        n_layers = get_field(config, "n_layer", int, ...)
        return cls(
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            vocab_size=vocab_size,
            padded_vocab=rows_of_vocabulary(
                vocab_size, get_field(config, "pad_vocab_size_multiple", int, 1), shapes or {}
            ),
            n_positions=get_field(config, "n_positions", int, 0),
            activation=activation,
            mlp_type=mlp_type,
            mlp_hidden=round_up(hidden, 256),
            fc1_bias=get_field(config, "mlp_fc1_bias", bool, True),
            fc2_bias=get_field(config, "mlp_fc2_bias", bool, True),
            rms_norm=get_field(config, "rms_norm", bool, False),
            norm_eps=get_field(config, "layer_norm_epsilon", NUMBER, 1e-5),
            residual_in_fp32=get_field(config, "residual_in_fp32", bool, False),
            qkv_bias=get_field(config, "qkv_proj_bias", bool, True),
            out_bias=get_field(config, "out_proj_bias", bool, True),
            rotary_fraction=get_field(config, "rotary_emb_fraction", NUMBER, 0.0),
            rotary_base=get_field(config, "rotary_emb_base", NUMBER, 10000.0),
            scale_attention=get_field(config, "scale_attn_weights", bool, True),
            scale_by_layer=get_field(config, "scale_attn_by_inverse_layer_idx", bool, False),
            tied=get_field(config, "tie_word_embeddings", bool, True),
            fixed_decay=get_field(config, "fixed_decay", bool, False),
            decay_const=get_field(config, "decay_const", NUMBER, -3),
            enc_length=get_field(config, "enc_length", int, None),
            initializer_range=get_field(config, "initializer_range", NUMBER, 0.02),
            mixers=_mixers(config, n_layers),
        )


def _mixers(config: Mapping[str, Any], n_layers: int) -> list[dict[str, Any] | None]:
    """The mixer of each layer: alt_mixer_2_layers is asked first, then alt_mixer_layers, else it is `mixer`."""
    mixers = {name: get_field(config, name, dict, None) for name in ("mixer", "alt_mixer", "alt_mixer_2")}
    for name, mixer in mixers.items():
        if mixer is not None:
            get_field(mixer, "_target_", str, ..., f"config.json: {name}")
    routed = [mixers["mixer"]] * n_layers
    for name in ("alt_mixer", "alt_mixer_2"):
        layers = get_field(config, f"{name}_layers", list, [])
        if not all(type(layer) is int and 0 <= layer < n_layers for layer in layers):
            raise ConfigurationError(
                f"config.json: field '{name}_layers' must list layers from 0 to {n_layers - 1}, got {shown(layers)}"
            )
        for layer in layers:
            routed[layer] = mixers[name]
    return routed


def mixer_kind(mixer: Mapping[str, Any] | None) -> str:
    """The class name alone: dotted paths moved between releases."""
    return "MHA" if mixer is None else mixer["_target_"].rsplit(".", 1)[-1]
