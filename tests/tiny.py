"""Small models in the published formats, made on the fly, and where the shared fixtures and documents lie."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from recall_evals.models.architectures import detect_architecture, model_class
from recall_evals.models.sequence_model import SequenceModel

SHARED = Path(__file__).resolve().parents[2] / "shared"
FIXTURES = ("attn_tiny", "based_tiny", "jrt_tiny", "mamba_tiny")

# The shape of based-360m in little: one linear attention and one sliding window to the gated convolutions.
BASED: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 257,
    "pad_vocab_size_multiple": 8,
    "n_positions": 0,
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 4,
    "n_inner": 128,
    "activation_function": "swiglu",
    "initializer_range": 0.1,
    "layer_norm_epsilon": 1e-5,
    "rms_norm": True,
    "residual_in_fp32": True,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "qkv_proj_bias": False,
    "out_proj_bias": False,
    "rotary_emb_fraction": 1,
    "mixer": {"_target_": "based.models.mixers.convolution.BaseConv", "expand_proj": 4, "kernel_sizes": 3},
    "alt_mixer_layers": [1],
    "alt_mixer": {
        "_target_": "based.models.mixers.linear_attention.LinearAttention",
        "feature_dim": 16,
        "num_heads": 4,
        "feature_map": {"_target_": "based.models.mixers.linear_attention.TaylorExp", "input_dim": 16},
    },
    "alt_mixer_2_layers": [2],
    "alt_mixer_2": {"_target_": "based.models.mixers.slide_attention.SlidingAttention", "window_size": 16},
}
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
H3 = {
    "model_type": "h3",
    "d_model": 64,
    "n_layer": 3,
    "d_inner": 128,
    "vocab_size": 257,
    "ssm_cfg": {"mode": "diag", "measure": "diag-lin", "d_state": 16},
    "attn_layer_idx": [1],
    "attn_cfg": {"num_heads": 4, "rotary_emb_dim": 8},
}
HYENA = {
    "model_type": "hyena",
    "d_model": 64,
    "n_layer": 2,
    "d_inner": 128,
    "vocab_size": 257,
    "layer": {"_name_": "hyena", "emb_dim": 5, "filter_order": 16, "l_max": 512, "w": 10},
}
RWKV = {"model_type": "rwkv5", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 257, "head_size": 16}
# Baselines, beside the architectures of the published checkpoints that most tests go through.
BASELINES: dict[str, dict[str, Any]] = {"h3": H3, "hyena": HYENA, "rwkv": RWKV}


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
                if any(part in name for part in ("out_proj", "fc2", "output")):
                    scale *= 4  # else a tied head makes every token predict itself
                p.copy_(torch.randn(p.shape, generator=generator) * scale)
                if "embedding" in name:
                    p[config["vocab_size"] :] = 0  # rows that only pad the matrix
            else:
                p.copy_(1 + 0.1 * torch.randn(p.shape, generator=generator))
                if name.endswith("bias"):
                    p.sub_(1)
    for part in model.modules():
        if part is not model and hasattr(part, "initialize"):
            part.initialize(generator)
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


def save_byte_tokenizer(file: Path) -> None:
    """Write a tokenizer.json of the 256 bytes and <|endoftext|>: 257 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(file))


def save_sums(folder: Path) -> Path:
    """Write SHA256SUMS of all files in the folder, as `sha256sum *` prints it; returns the folder."""
    files = sorted(file for file in folder.iterdir() if file.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


def shared(path: str, checks: str) -> Path:
    """A file or folder of ../shared; skips the test, saying what it would have checked, where it is absent."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"no ../shared/{path}: would have checked {checks}")
    return found
