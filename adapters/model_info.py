"""What lm-eval writes into its results file about one of our models: its identity, and what the run measured."""

from typing import Any

import torch

from .. import __version__
from ..models.checkpoint import Checkpoint
from .batch_pads import BatchPads
from .engine import Engine
from .meter import Meter
from .tokenizer import tokenizer_hash


def model_info(
    checkpoint: Checkpoint, tokenizer: Any, engine: Engine, pads: BatchPads | None, conformance: Any
) -> dict[str, Any]:
    """`state_bytes` is the state of one sequence after the longest prompt, in bytes; the rates are tokens a second.

    Figures of work that did not happen (everything came from --use_cache) are None; so is `conformance`, the gate's
    findings, without check=true.
    """
    model, meter = engine.model, engine.meter
    dtype = str(model.dtype).removeprefix("torch.")
    content = checkpoint.content_hash()
    return {
        "checkpoint": checkpoint.source,
        "architecture": model.architecture,
        "parameters": model.n_parameters,
        "dtype": dtype,
        "state_dtype": str(engine.state_dtype or torch.float32).removeprefix("torch."),
        "revision": checkpoint.revision,
        "content_hash": content,
        "tokenizer_hash": tokenizer_hash(tokenizer),
        "slots": engine.slots,
        "pads": pads.name if pads else None,
        "state_bytes": meter.state_bytes or None,
        "longest_prompt": meter.longest_prompt or None,
        "prompt_tokens": meter.prompt_tokens,
        "prompt_tokens_computed": meter.prompt_tokens_computed,
        "generated_tokens": meter.generated_tokens,
        "truncated_prompts": meter.truncated,
        "near_ties": meter.near_ties,
        "peak_states": meter.peak_states,
        "peak_state_bytes": meter.peak_bytes,
        "prefill_tokens_per_second": meter.prefill_rate,
        "decode_tokens_per_second": meter.decode_rate,
        "conformance": conformance,
        "recall_evals_version": __version__,
        # lm-eval's own names for the same, which readers of its `hf` results look for
        "model_num_parameters": model.n_parameters,
        "model_dtype": dtype,
        "model_revision": checkpoint.revision or "",
        "model_sha": checkpoint.revision or content,
    }


def reading_summary(meter: Meter) -> str:
    """How much of the prompts was computed, and how many were cut; there must have been some."""
    return (
        f"{meter.prompt_tokens_computed:,} of {meter.prompt_tokens:,} prompt tokens computed "
        f"({100 * meter.prompt_tokens_computed / meter.prompt_tokens:.1f} %): the rest was shared; "
        f"{meter.truncated} prompts truncated"
    )
