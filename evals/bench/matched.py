"""`recall-evals bench matched`: every architecture at equal size in the same engine, its speeds and its state."""

import time
from collections.abc import Iterable, Iterator

import torch

from ...models.cache_forms import HistoryForm, first_state
from ...models.matched import SIZES, matched_config, matched_names
from ...models.sequence_model import SequenceModel
from ...models.state import State
from ...models.transformers_model import TransformersModel
from .decode import VOCABULARY, Row, our_row, wait
from .peers import failure
from .shapes import random_model

PARTS = {*SIZES, *matched_names()}
BATCH, PROMPT, NEW = 128, 4, 252
LENGTH = 2048  # of the sequence whose state is measured
READ = (1, 512), (8, 2048)  # sequences and tokens of prompts
WELL = 4  # tokens a ms; below, the first of these will do for Transformers


def rows(parts: set[str], copy_rate: float, done: Iterable[str] = ()) -> Iterator[Row]:
    """A row a configuration that `parts` names, by its name or its size, but for those that are `done`."""
    for name in matched_names():
        if not parts & {name, name.rpartition("-")[2]} or name in done:
            continue
        torch.cuda.empty_cache()
        try:
            yield {"what": name} | measured(random_model(matched_config(name), "cuda"), copy_rate)
        except Exception as error:  # a peer that breaks, in whatever way, is a finding and must not end the run
            yield {"what": name, "skipped": failure(error)}


def measured(model: SequenceModel, copy_rate: float) -> Row:
    """Greedy decoding as `our_row` times it, the rate of prompts, and the state.

    A network whose cache can't do what that takes is measured as far as it can: a sequence at a time where batches are
    not exact, and not decoding where all tokens are read again for each new one. Where so many prompts don't fit, the
    state of one is `forked`, and the time is that of the steps alone.
    """
    wrapped = model if isinstance(model, TransformersModel) else None
    row: Row = {"parameters": model.n_parameters, "runs_in": _code(model)}
    row["in_cuda_graphs"] = model.captures and model.device.type == "cuda"
    if wrapped is not None and isinstance(wrapped.network.form, HistoryForm):
        row["skipped"] = f"decoding: {wrapped.limits[0]}"
    else:
        batch = BATCH if wrapped is None or wrapped.network.abilities.batches else 1
        decoded: Row | None = None
        try:
            decoded = our_row("", model, batch, PROMPT, NEW, copy_rate)
        except torch.OutOfMemoryError:  # some of Transformers' take 256 GB to read 128 prompts of 4 tokens
            row["forked"] = True
        if decoded is None:  # outside of the handler, where the error no longer holds the failed attempt's tensors
            torch.cuda.empty_cache()
            decoded = our_row("", model, batch, PROMPT, NEW, copy_rate, forked=True)
        row |= {name: value for name, value in decoded.items() if name not in ("what", "state_bytes")}
    return row | {f"state_bytes_{LENGTH}": state_bytes(model)} | reading_rate(model)


@torch.inference_mode()
def state_bytes(model: SequenceModel) -> int:
    """Of one sequence, with room for 2,048 tokens in what grows; of a cache also where it is not used."""
    tokens = torch.zeros(1, dtype=torch.int64, device=model.device)
    if isinstance(model, TransformersModel):
        one: State = first_state(model.network.base, tokens[None])
    else:
        _, one = model.prefill(tokens, [1])
    one.reserve(LENGTH)
    return one.nbytes


@torch.inference_mode()
def reading_rate(model: SequenceModel) -> Row:
    """Tokens a millisecond of `prefill`, the second time, when all is compiled; of the longest prompts it takes well.

    Where Transformers reads states in PyTorch, a token at a time or with much memory, one short prompt must do.
    """
    width = min(VOCABULARY, model.embedding.num_embeddings)
    generator, row = torch.Generator(model.device).manual_seed(0), Row()
    for batch, length in READ:
        tokens = torch.randint(width, (batch * length,), device=model.device, generator=generator)
        seconds = 0.0
        try:
            for _ in range(2):
                wait(model.device)
                began = time.perf_counter()
                model.prefill(tokens, [length] * batch)
                wait(model.device)
                seconds = time.perf_counter() - began
        except torch.OutOfMemoryError:
            break
        row = {"read": f"{batch} x {length:,}", "read_tokens_per_ms": tokens.numel() / seconds / 1000}
        if row["read_tokens_per_ms"] < WELL and _code(model) == "Transformers":
            break
    return row


def _code(model: SequenceModel) -> str:
    if not isinstance(model, TransformersModel):
        return "recall-evals"
    package = type(model.network.causal).__module__.partition(".")[0]
    return {"transformers": "Transformers", "fla": "flash-linear-attention"}[package]
