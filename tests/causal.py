"""Tiny models of Transformers with random weights and the byte tokenizer, one of each kind of cache that is known."""

from pathlib import Path
from typing import Any

import tiny

END = 256
WIDTHS: dict[str, Any] = {
    "vocab_size": 264,  # rows that no token has
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": None,
}
STATES: dict[str, Any] = {k: WIDTHS[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers")}
STATES |= {k: WIDTHS[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 16}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
DELTA = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

# The configuration class of each architecture, and what of it is not in WIDTHS or, for those without attention, STATES.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", WIDTHS),
    "mistral": ("MistralConfig", WIDTHS | {"sliding_window": 16}),
    "gemma2": ("Gemma2Config", WIDTHS | {"sliding_window": 16, "head_dim": 8, "query_pre_attn_scalar": 8}),
    "mamba": ("MambaConfig", STATES | {"state_size": 8}),
    "mamba2": (
        "Mamba2Config",
        STATES | {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 16},
    ),
    "falcon_mamba": ("FalconMambaConfig", STATES | {"state_size": 8}),
    "rwkv": ("RwkvConfig", {k: v for k, v in STATES.items() if k != "pad_token_id"} | {"context_length": 512}),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        WIDTHS | {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 16, "head_dim": 8},
    ),
    "jamba": (
        "JambaConfig",
        WIDTHS | EXPERTS | {"num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 1, "mamba_d_state": 8},
    ),
    "zamba2": (
        "Zamba2Config",
        {k: v for k, v in WIDTHS.items() if k != "num_key_value_heads"}
        | {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "hybrid_layer_ids": [1, 3]}
        | {"mamba_d_state": 8, "mamba_headdim": 8, "mamba_ngroups": 2, "n_mamba_heads": 8, "chunk_size": 16}
        | {"num_mem_blocks": 1, "adapter_rank": 4},
    ),
    "bamba": ("BambaConfig", WIDTHS | HEADS | {"num_hidden_layers": 3, "attn_layer_indices": [1]}),
    "qwen3_next": (
        "Qwen3NextConfig",
        WIDTHS
        | EXPERTS
        | DELTA
        | {"num_hidden_layers": 4, "head_dim": 8, "moe_intermediate_size": 16}
        | {"shared_expert_intermediate_size": 16},
    ),
    "lfm2": (
        "Lfm2Config",
        WIDTHS | {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "block_multiple_of": 16},
    ),
}
# Of no kind that those above are not: only the long test has them too.
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"vocab_size": 264, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "gpt_oss": (
        "GptOssConfig",
        WIDTHS | {"sliding_window": 16, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "falcon_h1": ("FalconH1Config", WIDTHS | HEADS | {"head_dim": 8, "mamba_d_ssm": 64}),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        WIDTHS | HEADS | {"num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"]}
        | {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 32},
    ),
    "nemotron_h": (
        "NemotronHConfig",
        WIDTHS | ROUTED | {"num_hidden_layers": 4, "layers_block_type": ["mamba", "attention", "moe", "mamba"]}
        | {"mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 8, "chunk_size": 16}
        | {"head_dim": 8},
    ),
    "olmo_hybrid": ("OlmoHybridConfig", WIDTHS | DELTA | {"num_hidden_layers": 4}),
    "qwen3_5": ("Qwen3_5TextConfig", WIDTHS | DELTA | {"num_hidden_layers": 4, "head_dim": 8}),
}  # fmt: skip


def build(name: str, **fields: Any) -> Any:
    """A model of random weights, twice as large as its class draws them: its scores then depend on all it read."""
    import torch
    import transformers

    kind, settings = (CONFIGS | MORE)[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**settings | fields)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() >= 2:
                p.mul_(2)
    return model.eval().requires_grad_(False)


def save(folder: Path, model: Any, end: str | None = "<|endoftext|>", **fields: Any) -> Path:
    """Write a model with the byte tokenizer; `fields` are the tokenizer's. Returns the folder."""
    from transformers import PreTrainedTokenizerFast

    model.save_pretrained(folder)
    tiny.save_byte_tokenizer(folder / "byte.json")
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "byte.json"), eos_token=end, **fields).save_pretrained(folder)
    (folder / "byte.json").unlink()
    return folder
