"""Small models in the published formats, made on the fly, and where the shared fixtures and documents lie."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from recall_evals.adapters.tokenizer import save_byte_tokenizer
from recall_evals.models.loading import detect_architecture, model_class
from recall_evals.models.random_model import random_config
from recall_evals.models.sequence_model import SequenceModel

SHARED = Path(__file__).resolve().parents[2] / "shared"
FIXTURES = ("attn_tiny", "based_tiny", "jrt_tiny", "mamba_tiny")

BASED = random_config(257) | {"n_layer": 4, "layer_norm_epsilon": 1e-5}
BASED["mixer"]["kernel_sizes"] = 3
BASED["alt_mixer_2"]["window_size"] = 16
ATTENTION = {k: v for k, v in BASED.items() if "mixer" not in k} | {"n_layer": 2, "rotary_emb_fraction": 0.5}
JRT = BASED | {
    "alt_mixer": {
        "_target_": "based.models.mixers.prefix_linear_attention.PrefixLinearAttention",
        "feature_dim": 16,
        "num_heads": 4,
        "enc_length": 24,
    }
}
MAMBA = {"d_model": 64, "n_layer": 2, "vocab_size": 257, "ssm_cfg": {}, "rms_norm": True, "residual_in_fp32": True}
CONFIGS: dict[str, dict[str, Any]] = {"attention": ATTENTION, "based": BASED, "jrt": JRT, "mamba": MAMBA}


def changed(config: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A deep copy of a configuration with some fields replaced."""
    return copy.deepcopy(config) | fields


def build(config: dict[str, Any], seed: int = 0) -> SequenceModel:
    """A model of random weights, scaled so that logits spread by about 2.5, like the golden models."""
    model = model_class(detect_architecture(config))(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("A_log"):
                p.copy_(torch.arange(1, p.shape[1] + 1).float().log().expand_as(p))
            elif name.endswith("dt_proj.bias"):
                p.copy_(torch.rand(p.shape, generator=generator) * 3 - 5)
            elif p.dim() >= 2:
                scale = 0.3 if "embedding" in name else p[0].numel() ** -0.5
                if "out_proj" in name or "fc2" in name:
                    scale *= 4  # else a tied head makes every token predict itself
                p.copy_(torch.randn(p.shape, generator=generator) * scale)
                if "embedding" in name:
                    p[config["vocab_size"] :] = 0  # rows that only pad the matrix
            else:
                p.copy_(1 + 0.1 * torch.randn(p.shape, generator=generator))
                if name.endswith("bias"):
                    p.sub_(1)
    return model.eval().requires_grad_(False)


def tensors(model: SequenceModel) -> dict[str, Tensor]:
    """Its state dict, safe to save: nothing shared."""
    return {name: t.clone() for name, t in model.state_dict().items()}


def save(folder: Path, config: dict[str, Any], weights: dict[str, Tensor] | None = None, seed: int = 0) -> Path:
    """Write config.json, model.safetensors and a byte tokenizer; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights if weights is not None else tensors(build(config, seed)), folder / "model.safetensors")
    save_byte_tokenizer(folder / "tokenizer.json")
    return folder


def shared(path: str, checks: str) -> Path:
    """A file or folder of ../shared; skips the test, saying what it would have checked, where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"no ../shared/{path}: would have checked {checks}")
    return found
