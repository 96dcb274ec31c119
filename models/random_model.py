"""A small BASED model of seeded random weights in the published format: to try the harness without a checkpoint."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .based import BasedModel


def random_config(vocab_size: int) -> dict[str, Any]:
    """The shape of based-360m in little: one linear attention and one sliding window to three gated convolutions."""
    package = "based.models.mixers"
    return {
        "model_type": "gpt2",
        "vocab_size": vocab_size,
        "pad_vocab_size_multiple": 8,
        "n_positions": 0,
        "n_embd": 64,
        "n_layer": 5,
        "n_head": 4,
        "n_inner": 128,
        "activation_function": "swiglu",
        "initializer_range": 0.1,
        "rms_norm": True,
        "residual_in_fp32": True,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "qkv_proj_bias": False,
        "out_proj_bias": False,
        "rotary_emb_fraction": 1,
        "mixer": {"_target_": f"{package}.convolution.BaseConv", "expand_proj": 4},
        "alt_mixer_layers": [1],
        "alt_mixer": {
            "_target_": f"{package}.linear_attention.LinearAttention",
            "feature_dim": 16,
            "num_heads": 4,
            "feature_map": {"_target_": f"{package}.linear_attention.TaylorExp", "input_dim": 16},
        },
        "alt_mixer_2_layers": [2],
        "alt_mixer_2": {"_target_": f"{package}.slide_attention.SlidingAttention", "window_size": 64},
    }


def save_random_model(folder: Path, vocab_size: int, seed: int = 0) -> None:
    """Write config.json and model.safetensors; the same seed gives the same weights."""
    config = random_config(vocab_size)
    model = BasedModel(config)
    model.initialize(torch.Generator().manual_seed(seed))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file({n: t for n, t in model.state_dict().items() if n != "lm_head.weight"}, folder / "model.safetensors")
