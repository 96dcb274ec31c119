"""`recall-evals bench eval`: a task's prompts and a long text, our engine beside Transformers on a model of equal size.

Both models have random weights: what they answer is noise, so every answer is as long as the task allows, and only the
time counts.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ...adapters.tokenizer import encode, load_tokenizer
from ...kernels.packing import Packing
from ...models.errors import ModelError
from ...models.matched import matched_config
from ...models.sequence_model import SequenceModel
from ..perplexity.measure import cross_entropies
from .peers import failure
from .shapes import LLAMA_1B, random_model

Row = dict[str, Any]
HALF = torch.bfloat16
BASED = matched_config("based-360m")
# As many parameters, 362 million, as a Llama-style Transformer.
LLAMA: dict[str, Any] = LLAMA_1B | {"hidden_size": 1024, "intermediate_size": 2848, "tie_word_embeddings": True}
TASK, CONTEXT = "local_fda", 2048
SLOTS, BUDGET = 128, 32_768  # of our engine: sequences decoded, and tokens in one prefill
BATCHES = (32, 64, 128)  # that lm-eval's `hf` is tried with, on so many prompts:
TRIED = 128
WINDOWS, WINDOW_BATCH, SCORE_ROWS = 1024, 16, 4096  # of the perplexity: 2.1 million tokens


class MissingInputError(Exception):
    """A part that can't run here; the message says what is missing."""


def task_requests(limit: int | None = None) -> list[Any]:
    """The generation requests of the task, as lm-eval builds them.

    Raises:
        MissingInputError: lm-eval or the documents are absent.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingInputError(f"lm-eval ({error})") from error
    from ... import task_configs

    manager = TaskManager(include_path=list(task_configs.__path__), include_defaults=False)
    try:
        task: Any = manager.load(TASK)["tasks"][TASK]  # type: ignore[attr-defined, unused-ignore]
    except OSError as error:
        raise MissingInputError(str(error)) from error
    task.build_all_requests(limit=limit)
    return list(task.instances)


def find_tokenizer() -> Any:
    """GPT-2's: `gpt2/tokenizer.json` beside the documents, else the hub's.

    Raises:
        MissingInputError: neither is there.
    """
    local = Path(os.environ.get("RECALL_EVALS_DATA", ""), "gpt2", "tokenizer.json")
    try:
        return load_tokenizer(local if local.is_file() else "openai-community/gpt2", "")
    except (ModelError, OSError) as error:
        raise MissingInputError(f"GPT-2's tokenizer ({error})") from error


def save_random(folder: Path, config: dict[str, Any], device: str, tokenizer: Any) -> Path:
    """A checkpoint of random weights in the published format, with its tokenizer; returns the folder."""
    from safetensors.torch import save_file

    model = random_model(config, device)
    save_file({name: t.cpu().clone() for name, t in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def answered(lm: Any, requests: Sequence[Any]) -> float:
    """Seconds inside `generate_until`."""
    began = time.perf_counter()
    lm.generate_until(list(requests), disable_tqdm=True)
    return time.perf_counter() - began


def our_answers(requests: Sequence[Any], folder: Path, device: str = "cuda", context: int = CONTEXT) -> Row:
    """Through our lm-eval model; what compiles and what is captured the first time has been before."""
    from ...adapters.lm import BasedLM

    began = time.perf_counter()
    lm = BasedLM(
        str(folder), device=device, dtype="bfloat16", batch_size=SLOTS, max_length=context, prefill_tokens=BUDGET
    )
    answered(lm, requests[: TRIED // 2])
    started = time.perf_counter() - began
    began = time.perf_counter()
    encode(lm.tokenizer, [request.args[0] for request in requests])
    tokenised = time.perf_counter() - began
    before = vars(lm.engine.meter).copy()
    seconds = answered(lm, requests)
    counted = ("prompt_tokens", "prompt_tokens_computed", "generated_tokens", "prefill_seconds", "decode_seconds")
    return {
        "what": f"{TASK}, BASED {lm.model.n_parameters / 1e6:.0f} M, our engine",
        "prompts": len(requests),
        "batch": SLOTS,
        "seconds": seconds,
        "tokenise_seconds": tokenised,
        "start_seconds": started,
        **{name: getattr(lm.engine.meter, name) - before[name] for name in counted},
    }


def llama(config: dict[str, Any], device: str) -> Any:
    """A Llama-style Transformer of Transformers with random weights, flash attention where the device has it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device(device):
        return LlamaForCausalLM._from_config(LlamaConfig(**config), dtype=HALF, attn_implementation="sdpa").eval()


def hf_answers(
    requests: Sequence[Any], tokenizer: Any, config: dict[str, Any] = LLAMA, device: str = "cuda",
    context: int = CONTEXT, batches: Sequence[int] = BATCHES,
) -> Row:  # fmt: skip
    """Through lm-eval's `hf`, at the batch size that takes least for the first prompts."""
    from lm_eval.models.huggingface import HFLM

    began = time.perf_counter()
    lm: Any = HFLM(llama(config, device), tokenizer=tokenizer, batch_size=batches[0], max_length=context, device=device)
    some = requests[:TRIED]
    answered(lm, some[: min(batches)])
    started = time.perf_counter() - began
    tried: dict[int, float] = {}
    for batch in batches:
        lm.batch_size_per_gpu = batch
        try:
            tried[batch] = answered(lm, some)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    best = min(tried, key=tried.__getitem__)
    lm.batch_size_per_gpu = best
    began = time.perf_counter()
    for request in requests:
        lm.tok_encode(request.args[0])
    tokenised = time.perf_counter() - began
    return {
        "what": f"peer: {TASK}, Llama {sum(p.numel() for p in lm.model.parameters()) / 1e6:.0f} M, lm-eval's hf",
        "prompts": len(requests),
        "batch": best,
        "seconds": answered(lm, requests),
        "tokenise_seconds": tokenised,
        "start_seconds": started,
    }


class LlamaReader:
    """What `cross_entropies` asks of a model, by a Transformer that reads whole windows."""

    shortest_split = 0

    def __init__(self, network: Any):
        self.network = network

    def extend(self, tokens: Tensor, packing: Packing, state: None) -> tuple[Tensor, None]:
        windows = tokens.reshape(packing.batch, packing.longest)
        return self.network.model(windows, use_cache=False).last_hidden_state.flatten(0, 1), None

    def logits(self, hidden: Tensor) -> Tensor:
        return self.network.lm_head(hidden)


def perplexity_row(
    name: str, model: Any, device: str = "cuda", windows: int = WINDOWS, batch: int = WINDOW_BATCH,
    context: int = CONTEXT, vocabulary: int = 50257,
) -> Row:  # fmt: skip
    """Cross-entropies of random tokens in windows: the time depends on nothing but their number."""
    draw = torch.Generator(device).manual_seed(0)
    tokens = torch.randint(vocabulary, (batch, context + 1), device=device, generator=draw)
    reader, budget = cast(SequenceModel, model), batch * context

    def read(times: int) -> float:
        began = time.perf_counter()
        losses = [cross_entropies(reader, tokens, budget, SCORE_ROWS).mean() for _ in range(times)]
        if not torch.stack(losses).isfinite().all():  # waits for the device
            raise ArithmeticError(f"{name}: a loss is not finite")
        return time.perf_counter() - began

    read(2)
    times = max(1, windows // batch)
    rate = times * batch * context / read(times)
    return {"what": name, "batch": batch, "tokens_per_ms": rate / 1000, "seconds_for_10_million": 1e7 / rate}


def _peer(name: str, measured: Callable[[], Row]) -> Row:
    try:
        return measured()
    except Exception as error:  # a peer that breaks is a finding, and must not end the run
        return {"what": name, "skipped": failure(error)}


def _task_rows() -> Iterator[Row]:
    try:
        requests, tokenizer = task_requests(), find_tokenizer()
    except MissingInputError as error:
        yield {"what": TASK, "skipped": f"missing: {error}"}
        return
    with tempfile.TemporaryDirectory() as folder:
        ours = our_answers(requests, save_random(Path(folder), BASED, "cuda", tokenizer))
    torch.cuda.empty_cache()
    peer = _peer(f"peer: {TASK}, lm-eval's hf", lambda: hf_answers(requests, tokenizer))
    yield ours | ({"times_hf": peer["seconds"] / ours["seconds"]} if "seconds" in peer else {})
    yield peer


def _perplexity_rows() -> Iterator[Row]:
    ours = perplexity_row("perplexity, BASED 363 M", random_model(BASED, "cuda"))
    torch.cuda.empty_cache()
    name = "peer: perplexity, Llama 362 M"
    peer = _peer(name, lambda: perplexity_row(name, LlamaReader(llama(LLAMA, "cuda"))))
    rate = peer.get("tokens_per_ms")
    yield ours | ({"times_llama": ours["tokens_per_ms"] / rate} if rate else {})
    yield peer


def rows(parts: set[str]) -> Iterator[Row]:
    """All that `parts` names: fda, ppl."""
    if "fda" in parts:
        yield from _task_rows()
    if "ppl" in parts:
        torch.cuda.empty_cache()
        yield from _perplexity_rows()
