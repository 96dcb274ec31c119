"""The models that are timed: the shapes of the released 1.3 B checkpoints, with random weights."""

import math
from typing import Any

import torch

from ...models.loading import detect_architecture, model_class
from ...models.sequence_model import SequenceModel

_MIXERS = "based.models.mixers"
BASED_1B: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 50257,
    "pad_vocab_size_multiple": 8,
    "n_positions": 0,
    "n_embd": 1792,
    "n_layer": 36,
    "n_head": 16,
    "n_inner": 3584,
    "activation_function": "swiglu",
    "layer_norm_epsilon": 1e-5,
    "rms_norm": True,
    "residual_in_fp32": True,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "qkv_proj_bias": False,
    "out_proj_bias": False,
    "rotary_emb_fraction": 1,
    "mixer": {"_target_": f"{_MIXERS}.convolution.BaseConv", "expand_proj": 4, "kernel_size": 3},
    "alt_mixer_layers": [1, 6, 11, 16, 21, 27, 33],
    "alt_mixer": {
        "_target_": f"{_MIXERS}.linear_attention.LinearAttention",
        "feature_dim": 16,
        "num_heads": 16,
        "feature_map": {"_target_": f"{_MIXERS}.linear_attention.TaylorExp", "input_dim": 16},
    },
    "alt_mixer_2_layers": [2, 7, 12, 17, 22, 28, 34],
    "alt_mixer_2": {"_target_": f"{_MIXERS}.slide_attention.SlidingAttention", "window_size": 256},
}
MAMBA_1B: dict[str, Any] = {
    "d_model": 2048,
    "n_layer": 46,
    "vocab_size": 50277,
    "ssm_cfg": {},
    "rms_norm": True,
    "residual_in_fp32": True,
    "pad_vocab_size_multiple": 16,
}
# 1.42 B parameters: what the same size is as a Llama-style Transformer.
LLAMA_1B: dict[str, Any] = {
    "vocab_size": 50264,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 5504,
    "max_position_embeddings": 16384,
    "tie_word_embeddings": False,
}


def random_model(config: dict[str, Any], device: str, dtype: torch.dtype = torch.bfloat16) -> SequenceModel:
    """A model of that shape whose weights are noise, laid out on the device."""
    with torch.device(device):
        model = model_class(detect_architecture(config))(config)
    model.to(dtype)
    if device == "meta":
        return model
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("A_log"):
                p.copy_(torch.arange(1, p.shape[1] + 1, device=device).log().expand_as(p))
            elif name.endswith("dt_proj.bias"):
                p.fill_(math.log(math.expm1(0.01)))
            elif p.dim() >= 2:
                p.normal_(0, 0.02, generator=generator)
            else:
                p.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.eval()


def weight_bytes(model: SequenceModel) -> int:
    """Bytes that a step reads: every parameter once, of an embedding that is not the head only the rows looked up."""
    tied = model.embedding.weight.data_ptr() == model.get_parameter("lm_head.weight").data_ptr()
    total = sum(p.nbytes for p in model.parameters())
    return total if tied else total - model.embedding.weight.nbytes
