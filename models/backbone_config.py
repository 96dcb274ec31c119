"""The configuration that the releases of H3 and Hyena share: the arguments of their constructors.

Neither release has a config.json; the arguments go into one under their own names. The decoder is the same: LayerNorm
and MLP with biases, GELU by tanh, no positions, and full attention at `attn_layer_idx`.
"""

from collections.abc import Mapping
from typing import Any

from .decoder_config import DecoderConfig, rows_of_vocabulary
from .errors import ConfigurationError
from .fields import NUMBER, get_field, shown


def backbone_config(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None) -> DecoderConfig:
    """The decoder's part of the arguments.

    Raises:
        ConfigurationError: a missing argument, one of the wrong type, or heads that don't fit.
    """
    attention = get_field(config, "attn_cfg", dict, {})
    d_model, vocab = get_field(config, "d_model", int, ...), get_field(config, "vocab_size", int, ...)
    heads = get_field(attention, "num_heads", int, 1, "config.json: attn_cfg")
    rotary_dim = get_field(attention, "rotary_emb_dim", int, 0, "config.json: attn_cfg")
    if d_model % heads or rotary_dim > d_model // heads:
        raise ConfigurationError(
            f"config.json: attn_cfg: num_heads {heads} must divide d_model {d_model} into heads of at least "
            f"rotary_emb_dim {rotary_dim}"
        )
    multiple = get_field(config, "pad_vocab_size_multiple", int, 8)
    return DecoderConfig(
        d_model=d_model,
        n_layers=get_field(config, "n_layer", int, ...),
        n_heads=heads,
        vocab_size=vocab,
        padded_vocab=rows_of_vocabulary(vocab, multiple, shapes or {}),
        n_positions=get_field(config, "max_position_embeddings", int, 0),
        mlp_hidden=get_field(config, "d_inner", int, 4 * d_model),
        norm_eps=get_field(config, "layer_norm_epsilon", NUMBER, 1e-5),
        activation="gelu_tanh",
        residual_in_fp32=get_field(config, "residual_in_fp32", bool, False),
        rotary_fraction=rotary_dim * heads / d_model,
    )


def attention_layers(config: Mapping[str, Any], n_layers: int) -> list[int]:
    """`attn_layer_idx`, checked."""
    layers = get_field(config, "attn_layer_idx", list, [])
    if not all(type(layer) is int and 0 <= layer < n_layers for layer in layers):
        raise ConfigurationError(
            f"config.json: field 'attn_layer_idx' must list layers from 0 to {n_layers - 1}, got {shown(layers)}"
        )
    return layers
