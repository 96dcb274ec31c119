"""Reading one field of a published configuration: a value of its type and range, or an error that names it."""

import reprlib
from collections.abc import Mapping
from typing import Any

from .errors import ConfigurationError

# Far beyond any model; the product of three such sizes still counts bytes in 64 bits.
WIDEST = 1 << 20

# Least and most of every number that is read, whichever part of the configuration it stands in.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("n_embd", "n_head", "n_head_kv", "num_head_kv", "n_inner", "vocab_size"), (1, WIDEST)),
    **dict.fromkeys(("pad_vocab_size_multiple", "enc_length", "num_heads", "head_dim"), (1, WIDEST)),
    **dict.fromkeys(("scale_dim", "input_dim", "d_model", "d_state", "dt_rank"), (1, WIDEST)),
    **dict.fromkeys(("d_inner", "hidden_size", "attention_hidden_size", "head_size", "intermediate_size"), (1, WIDEST)),
    **dict.fromkeys(("emb_dim", "filter_order", "l_max"), (1, WIDEST)),
    **dict.fromkeys(("short_filter_order", "num_inner_mlps", "num_hidden_layers", "order"), (1, 1000)),
    **dict.fromkeys(("num_blocks", "inner_factor"), (1, 1000)),
    **dict.fromkeys(("shift", "w"), (-1e6, 1e6)),
    "head_size_divisor": (1e-6, 1e6),
    **dict.fromkeys(("n_positions", "max_position_embeddings"), (0, WIDEST)),  # 0: none are learned
    "rotary_emb_dim": (0, WIDEST),
    "n_layer": (1, 1000),
    "feature_dim": (1, 256),  # the state has (d + 1) (d + 2) / 2 features
    "window_size": (1, 1 << 16),  # in no tensor's shape, but keys and values are kept for half of it
    **dict.fromkeys(("expand_proj", "kernel_size", "d_conv"), (1, 1000)),
    **dict.fromkeys(("expand", "ff_mult"), (0, 1000)),
    "layer_norm_epsilon": (0, 1),
    "rotary_emb_fraction": (0, 1),
    "rotary_emb_base": (1, 1e12),
    "decay_const": (-1000, 1000),
    "initializer_range": (0, 100),
}
NUMBER = (int, float)
KINDS = {int: "a whole number", NUMBER: "a number", bool: "true or false", str: "a text", dict: "an object"}
KINDS |= {list: "a list"}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200


def shown(value: Any) -> str:
    """A value of a configuration, cut to what a message can hold."""
    return _short.repr(value)


def get_field(
    config: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any, where: str = "config.json"
) -> Any:
    """The field, or its default when absent or null; `...` as the default is none.

    Raises:
        ConfigurationError: a missing field, one of another type or outside its range.
    """
    value = config.get(name)
    if value is None:
        if default is ...:
            raise ConfigurationError(f"{where}: field {name!r} is missing")
        return default
    wanted, fits = KINDS[kind], isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind in (int, NUMBER):
        low, high = RANGES[name]
        wanted += f" from {low:,} to {high:,}"
        fits = fits and low <= value <= high
    if not fits:
        raise ConfigurationError(f"{where}: field {name!r} must be {wanted}, got {shown(value)}")
    return value
