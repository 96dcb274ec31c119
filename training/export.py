"""From a finished training to a checkpoint in the published format, with its model card and checksums."""

import hashlib
import json
import shutil
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..models.sequence_model import SequenceModel
from .held_out import HeldOut
from .recipe import Recipe
from .train import Run

TITLES = {"attention": "Transformer", "based": "BASED", "mamba": "Mamba"}
PAPERS = {
    "attention": "Softmax attention over everything read, partial rotary embeddings, SwiGLU.",
    "based": "BASED (arXiv 2402.18668): 1 Taylor linear attention (4 heads, feature dimension 16) and 1 sliding window "
    "of 65 tokens to 3 gated convolutions, twice; SwiGLU.",
    "mamba": "Mamba (arXiv 2312.00752): 9 selective-scan layers with 16 numbers of state a channel.",
}


def tensors_of(model: SequenceModel) -> dict[str, Tensor]:
    """The weights in bfloat16 under their published names, a tied matrix once."""
    state = model.state_dict()
    if state["lm_head.weight"].data_ptr() == model.embedding.weight.data_ptr():
        del state["lm_head.weight"]
    return {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in state.items()}


def export(
    name: str,
    config: dict[str, Any],
    recipe: Recipe,
    run: Run,
    tokenizer_file: Path,
    measured: HeldOut,
    provenance: dict[str, str],
    folder: Path,
) -> None:
    """Write config.json, model.safetensors, tokenizer.json, loss.jsonl, README.md and SHA256SUMS."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    save_file(tensors_of(run.model), folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tokenizer_file, folder / "tokenizer.json")
    lines = "".join(json.dumps(row) + "\n" for row in run.log)
    (folder / "loss.jsonl").write_text(lines, encoding="utf-8")
    names = ("config.json", "model.safetensors", "tokenizer.json", "loss.jsonl")
    sums = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in names}
    (folder / "SHA256SUMS").write_text("".join(f"{s}  {file}\n" for file, s in sums.items()), encoding="utf-8")
    (folder / "README.md").write_text(
        model_card(name, config, recipe, run, measured, provenance, sums["model.safetensors"]), encoding="utf-8"
    )


def model_card(
    name: str,
    config: dict[str, Any],
    recipe: Recipe,
    run: Run,
    measured: HeldOut,
    provenance: dict[str, str],
    weights_hash: str,
) -> str:
    """What the checkpoint is, how it came about and what it measured, in Markdown."""
    n = run.model.n_parameters
    shares = ", ".join(f"{source} {share:.1%}" for source, share in recipe.mix.shares.items())
    points = [row for i, row in enumerate(run.log) if i % max(1, len(run.log) // 8) == 0 or row is run.log[-1]]
    curve = "\n".join(f"| {row['step']:,} | {row['tokens'] / 1e6:,.1f} | {row['loss']:.3f} |" for row in points)
    stages = ", then ".join(f"{steps:,} of {length:,} tokens a sequence" for steps, length in recipe.stages)
    facts = "\n".join(f"- {key}: {value}" for key, value in provenance.items())
    return f"""---
license: apache-2.0
library_name: recall-evals
---

# {name}: a {TITLES[name]} of {n / 1e6:.2f} M parameters, to try recall-evals with

{fill(PAPERS[name], 118)}

One of three that were trained on the same tokens in the same order and differ in nothing but their architecture:
`attention`, `based`, `mamba`. It speaks in the manner of its small corpora and knows nothing; what it is for is to
show, and to test, how recall depends on state.

    recall-evals train {name}        # reproduces it
    lm_eval --model based --model_args pretrained={name} --tasks mini_fda,mini_swde

## Recipe

{recipe.steps:,} steps of {recipe.batch_tokens:,} tokens = {recipe.tokens / 1e6:,.0f} M tokens: {stages}.
AdamW {recipe.betas}, weight decay {recipe.decay} on matrices, gradients clipped to {recipe.clip}.
Rate {recipe.rate:g} after {recipe.warmup} steps of warm-up, cosine to {recipe.final_rate:g}. Seed {recipe.seed}.
bfloat16 autocast over float32 weights, stored in bfloat16.

## Data

Examples by source: {shares}.
`fda` are decision summaries written by the U.S. Food and Drug Administration, `pages` English Wikipedia pages with an
infobox (CC BY-SA), `books` in the public domain, `mini_*` the training split of this project's generator. Most pieces
of documents are followed by lines that ask about them (training/lines.py). Nothing of any evaluated document was
trained on. Tokenizer: a byte-level BPE of {config["vocab_size"]:,} tokens, trained on the same corpora.

## Measured

Held-out perplexity {measured.perplexity:.2f} a token, {measured.bits_per_byte:.3f} bits a byte (7 books,
{measured.tokens:,} tokens in windows of {recipe.length:,}; float32, before rounding to bfloat16):
{measured.hit_perplexity:.2f} on the {measured.hits:.1%} of the tokens that complete a pair which stood in the window
before, where recall can help, and {measured.other_perplexity:.2f} on all others.

| step | M tokens | training loss |
|---:|---:|---:|
{curve}

(every {run.log[0]["step"]:.0f} steps: `loss.jsonl`)

## Provenance

{facts}
- SHA-256 of model.safetensors: `{weights_hash}`
"""
