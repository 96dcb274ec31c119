"""`recall-evals bench decode`: whole models generating, ours and Transformers' own, in one process."""

import time
from collections.abc import Iterator
from typing import Any

import torch

from ...adapters.decoding import Generation
from ...adapters.engine import Engine
from ...adapters.slots import LOOK_EVERY, DeviceSlots
from ...models.sequence_model import SequenceModel
from .peers import failure
from .shapes import BASED_1B, LLAMA_1B, MAMBA_1B, largest_batch, random_model, weight_bytes

VOCABULARY = 50257
HALF = torch.bfloat16
Row = dict[str, Any]


@torch.inference_mode()
def state_bytes(model: SequenceModel, state_dtype: torch.dtype) -> int:
    """Of one sequence; what grows with a sequence is left out."""
    _, state = model.prefill(torch.zeros(1, dtype=torch.int64, device=model.device), [1])
    return state.accumulated_in(state_dtype).nbytes


def wait(device: torch.device) -> None:
    """Until it has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def generation_seconds(
    model: SequenceModel, batch: int, prompt: int, new: int, state_dtype: torch.dtype | None = None,
    forked: bool = False,
) -> tuple[float, int]:  # fmt: skip
    """Seconds for `new` greedy tokens after a prompt, and bytes of the states; graphs captured before.

    A short prompt is read within the time; of a long one (over 64 tokens), or if `forked`, the state of one sequence
    is forked before, since what is timed then is decoding.
    """
    device, width = model.device, min(VOCABULARY, model.embedding.num_embeddings)
    tokens = torch.randint(width, (batch, prompt), device=device, generator=torch.Generator(device).manual_seed(0))
    _, one = model.prefill(tokens[0], [prompt])
    if state_dtype is not None:
        one = one.accumulated_in(state_dtype)
    state = one.select([0] * batch)
    state.reserve(prompt + new + LOOK_EVERY)
    slots = DeviceSlots(model, state, width, captured=device.type == "cuda" and model.captures)
    rows = list(range(batch))

    def generate(count: int) -> None:
        if prompt <= 64 and not forked:
            scores, read = model.prefill(tokens.flatten(), [prompt] * batch)
            slots.write(rows, read)
            latest = scores[:, :width].argmax(-1).tolist()
        else:
            slots.state.position.fill_(prompt)
            latest = tokens[:, -1].tolist()
        while count > 0:
            chosen, _ = slots.greedy(rows, latest, min(count, LOOK_EVERY))
            latest = [row[-1] for row in chosen]
            count -= LOOK_EVERY

    generate(2 * LOOK_EVERY)
    wait(device)
    began = time.perf_counter()
    generate(new)
    wait(device)
    return time.perf_counter() - began, slots.state.nbytes


def our_row(
    name: str, model: SequenceModel, batch: int, prompt: int, new: int, copy_rate: float,
    state_dtype: torch.dtype | None = None, forked: bool = False,
) -> Row:  # fmt: skip
    """Tokens a millisecond, and the share of what moving the weights and reading the states alone would allow."""
    seconds, held = generation_seconds(model, batch, prompt, new, state_dtype, forked)
    floor = (weight_bytes(model) + held) / copy_rate  # of a step; the copy rate counts reads and writes
    return {
        "what": name,
        "batch": batch,
        "prompt": prompt,
        "new": new,
        "tokens_per_ms": batch * new / seconds / 1000,
        "ms_per_step": 1000 * seconds / new,
        "of_bytes_ceiling": floor * new / seconds,
        "state_bytes": held // batch,
    }


def refilling_rows(model: SequenceModel, slots: int = 32, requests: int = 128) -> Iterator[Row]:
    """Requests of uneven lengths through the engine: with slots that are refilled, and group after group without."""

    width = min(VOCABULARY, model.embedding.num_embeddings)

    def jobs() -> list[Generation]:
        draw = torch.Generator().manual_seed(0)
        made = []
        for _ in range(requests):
            prompt = torch.randint(width, (int(torch.randint(64, 512, (), generator=draw)),), generator=draw)
            made.append(Generation(prompt.tolist(), [], int(torch.randint(4, 128, (), generator=draw))))
        return made

    for name, group in (("refilled", requests), ("group after group", slots)):
        for _ in range(2):  # the first time compiles
            work = jobs()
            engine = Engine(model, slots=slots, vocabulary=width, end=None, decode=lambda ids: "", quiet=True)
            for start in range(0, requests, group):
                engine.generate(work[start : start + group])
        decoded = engine.meter.decoded_tokens
        rate = decoded / engine.meter.decode_seconds / 1000
        yield {"what": f"engine, slots {name}", "batch": slots, "decoded": decoded, "tokens_per_ms": rate}


def llama_seconds(batch: int, prompt: int, new: int, compiled: bool) -> float:
    """Transformers' `generate` on a Llama-style Transformer: a dynamic cache, or a static one and a compiled step."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("cuda"):
        model = LlamaForCausalLM._from_config(LlamaConfig(**LLAMA_1B), dtype=HALF, attn_implementation="sdpa").eval()
    tokens = torch.randint(VOCABULARY, (batch, prompt), device="cuda")
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    if compiled:
        options["cache_implementation"] = "static"

    def generate(count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        # The same length of the cache both times, or the step is compiled again.
        with torch.inference_mode():
            model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=count, **options)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    generate(new if compiled else 8)
    return generate(new)


def llama_row(batch: int, prompt: int, new: int, compiled: bool) -> Row:
    """With half as many sequences where so many don't fit. A peer that breaks is a finding and must not end the run."""
    row: Row = {"what": f"peer: Transformers, Llama 1.42 B, {'static compiled' if compiled else 'dynamic'} cache"}
    row |= {"batch": batch, "prompt": prompt, "new": new}
    torch.cuda.empty_cache()
    try:
        seconds = llama_seconds(batch, prompt, new, compiled)
        return row | {"tokens_per_ms": batch * new / seconds / 1000, "ms_per_step": 1000 * seconds / new}
    except torch.OutOfMemoryError as error:
        failed = failure(error)
    except Exception as error:
        return row | {"skipped": failure(error)}
    # Outside of the handler, where the error no longer holds the failed attempt's tensors.
    return llama_row(batch // 2, prompt, new, compiled) if batch > 1 else row | {"skipped": failed}


def rows(copy_rate: float, parts: set[str]) -> Iterator[Row]:
    """All that `parts` names: based, single, long, mamba, slots, dynamic, static."""
    based = random_model(BASED_1B, "cuda") if parts & {"based", "single", "long", "slots"} else None
    if based is not None:
        if "based" in parts:
            yield our_row("BASED 1.35 B, fp32 state", based, 128, 4, 1024, copy_rate)
            yield our_row("BASED 1.35 B, bf16 state", based, 128, 4, 1024, copy_rate, HALF)
        if "single" in parts:
            yield our_row("BASED 1.35 B, fp32 state", based, 1, 4, 1024, copy_rate)
        if "long" in parts:
            each = 8 * VOCABULARY + state_bytes(based, HALF)  # of its scores too
            batch = largest_batch(each, weight_bytes(based), 512)
            yield our_row("BASED 1.35 B, bf16 state", based, batch, 8192, 128, copy_rate, HALF)
        if "slots" in parts:
            yield from refilling_rows(based)
    del based
    if "mamba" in parts:
        yield our_row("Mamba 1.3 B", random_model(MAMBA_1B, "cuda"), 128, 4, 1024, copy_rate)
    cache = 4 * LLAMA_1B["num_hidden_layers"] * LLAMA_1B["hidden_size"] * (8192 + 128)  # bytes of a long sequence
    for part, batch, prompt, new, compiled in (
        ("dynamic", 128, 4, 128, False), ("static", 128, 4, 1024, True),
        ("long", largest_batch(cache, 3 * 10**9), 8192, 128, True),
    ):  # fmt: skip
        if part in parts:
            yield llama_row(batch, prompt, new, compiled)
