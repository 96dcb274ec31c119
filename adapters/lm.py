"""The lm-eval models `based`, `attention` and `mamba`: published checkpoints answered by the engine."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from .. import __version__
from ..models.bundled import PREFIX
from ..models.checkpoint import find_checkpoint
from ..models.errors import ConfigurationError
from ..models.fields import WIDEST, shown
from ..models.jrt import JRTModel
from ..models.loading import load_checkpoint
from .conformance import demand_conformance
from .decoding import Generation, Sampling
from .engine import Engine
from .kept_answers import KeptAnswers
from .memory import plan_memory
from .placement import parse_device, parse_dtype
from .scoring import Score
from .tokenizer import decode, encode, load_tokenizer, tokenizer_hash

log = logging.getLogger("lm_eval.models.recall_evals")  # lm-eval shows what its own loggers say


def _available(device: str | None) -> torch.device:
    # lm-eval passes cuda:0 unless the user names a device, so asking for cuda can't be taken as a demand.
    if (device or "cuda").startswith("cuda") and not torch.cuda.is_available():
        log.info("no CUDA device: running on cpu")
        return torch.device("cpu")
    return parse_device(device or "cuda")


def _default_length(config: Mapping[str, Any], source: str) -> int:
    """Tokens that a checkpoint was trained at, or 2048; no published configuration says how many it may read."""
    length = config.get("train_length")
    if type(length) is not int:
        return 2048
    if not 2 <= length <= WIDEST:
        raise ConfigurationError(
            f"{source}: config.json: field 'train_length' must be from 2 to {WIDEST:,}, got {shown(length)}; correct "
            "it or give max_length"
        )
    return length


class BasedLM(TemplateLM):
    """Any published checkpoint (based, attn, mamba, JRT); its configuration says which architecture it is.

    `lm_eval --model based --model_args pretrained=<folder or hub id>,...`

    Args:
        pretrained: folder, name of a bundled checkpoint (a folder of that name is taken first; `bundled:based` passes
            it by) or hub id; default: the bundled one of `--model`'s name.
        revision: branch, tag, commit or refs/pr/N of a hub id.
        tokenizer: folder, tokenizer.json or hub id; default: the checkpoint's own, else GPT-2's.
        dtype: float32 (default), which gives the same answers on every device, bfloat16, float16 or float64. Half
            precision on a GPU runs in Triton kernels, and decodes in CUDA graphs.
        state_dtype: of the sums that linear attention keeps while decoding: float32 (default) or bfloat16, half the
            memory and traffic; `recall-evals bench drift` measures what that costs.
        device: a torch device; cuda (lm-eval's default) falls back to cpu, saying so, where there is none.
        batch_size: sequences decoded at once, or `auto`: as many as `state_memory` holds, at most `max_batch_size`.
            Shared prefixes and forks come on top: `engine.most_states` bounds the states alive (45 for 16).
        state_memory: bytes (or 2GB, 512MiB) that all live states and what works on them may take beside the weights;
            lowers the batch size, and the tokens of a prefill, where needed.
        max_length: context in tokens; default: the checkpoint's `train_length`, where its config.json has one, else
            2048; longer prompts are cut on the left, counted and reported.
        max_gen_toks: tokens to generate where a task names no number.
        truncation: left (default), or error to refuse prompts that don't fit.
        share_prefixes: read what several prompts begin with once; false only to check that it changes nothing.
        prefill_tokens: most tokens in one packed prefill.
        left_pad: JRT only: fill prompts shorter than the encoder with pads, as the published evaluation did.
        seed: of sampling; default: lm-eval's --seed.
        check: run the conformance gate first (`recall-evals check`) and refuse a model that fails it.
        trust_remote_code: what lm-eval's flag adds for its data sets; no code is ever taken from a checkpoint.

    Raises:
        ModelError: a checkpoint that can't be used, or of another architecture than `demanded`.
        ValueError: an argument outside its range; names it.
    """

    demanded: ClassVar[str | None] = None

    def __init__(
        self,
        pretrained: str | None = None,
        revision: str | None = None,
        tokenizer: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        state_memory: int | str | None = None,
        state_dtype: str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        truncation: str = "left",
        share_prefixes: bool = True,
        prefill_tokens: int = 8192,
        left_pad: bool = False,
        seed: int | None = None,
        check: bool = False,
        trust_remote_code: bool = False,
    ):
        super().__init__()
        if truncation not in ("left", "error"):
            raise ValueError(f"truncation={truncation!r} is unknown; choose left or error")
        if max_length is not None and max_length < 2:
            raise ValueError(f"max_length must be >= 2, got {max_length}")
        precision, self._device = parse_dtype(dtype), _available(device)
        self.checkpoint = find_checkpoint(
            f"{PREFIX}{self.demanded or 'based'}" if pretrained is None else pretrained, revision
        )
        pretrained = self.checkpoint.source
        self.model = load_checkpoint(self.checkpoint, dtype=precision, device=self._device)
        if self.demanded not in (None, self.model.architecture):
            raise ValueError(
                f"{pretrained} is a {self.model.architecture} model, not {self.demanded}; "
                "--model based reads every published architecture"
            )
        if left_pad and not isinstance(self.model, JRTModel):
            raise ValueError(
                f"left_pad=true: {pretrained} is a {self.model.architecture} model; only JRT has this mode"
            )
        # From the same commit as the weights, even if the branch moves on meanwhile.
        self.tokenizer = load_tokenizer(tokenizer, pretrained, self.checkpoint.revision)
        rows = self.model.embedding.num_embeddings
        if len(self.tokenizer) > rows:
            raise ValueError(
                f"the tokenizer has {len(self.tokenizer)} tokens, the embedding of {pretrained} {rows} rows; "
                "give tokenizer=<the one it was trained with>"
            )
        max_length = max_length or _default_length(self.model.config, pretrained)
        positions = self.model.positions or max_length
        if max_length > positions:
            raise ValueError(
                f"max_length={max_length}, but {pretrained} has learned positions for {positions} tokens; "
                f"give max_length={positions}"
            )
        if left_pad and max_length <= self.model.shortest_split:
            raise ValueError(f"left_pad=true fills prompts up to {self.model.shortest_split} tokens: raise max_length")
        self.max_length, self.max_gen_toks = max_length, max_gen_toks
        self.truncation, self.left_pad = truncation, left_pad
        self.seed = torch.initial_seed() if seed is None else seed
        plan = plan_memory(self.model, batch_size, max_batch_size, state_memory, max_length, prefill_tokens)
        self.slots = plan.slots
        self.batch_sizes = {"slots": self.slots}
        self.conformance = demand_conformance(self.model, log.info) if check else None
        self._kept = KeptAnswers()
        self._special = frozenset(self.tokenizer.all_special_tokens)
        self.engine = Engine(
            self.model,
            slots=self.slots,
            vocabulary=len(self.tokenizer),
            end=self.tokenizer.eos_token_id,
            decode=lambda ids: decode(self.tokenizer, ids),
            share=share_prefixes,
            budget=plan.budget,
            logit_rows=plan.logit_rows,
            state_dtype=self._state_dtype(state_dtype),
        )

    def _state_dtype(self, name: str | None) -> torch.dtype | None:
        if name in (None, "float32"):
            return None
        if name != "bfloat16":
            raise ValueError(f"state_dtype={name!r} is unknown; choose float32 or bfloat16")
        token = torch.zeros(1, dtype=torch.int64, device=self.model.device)
        if not self.model.prefill(token, [1])[1].accumulates:
            raise ValueError(f"state_dtype={name}: a {self.model.architecture} model has no linear attention")
        return torch.bfloat16

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        super().set_cache_hook(cache_hook)
        self._kept.hook = cache_hook

    # -- what lm-eval asks of the tokenizer -----------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end token, which stands for an empty context; set its eos_token")
        return self.tokenizer.eos_token_id

    @property
    def tokenizer_name(self) -> str:
        return f"{self.tokenizer.name_or_path}-{tokenizer_hash(self.tokenizer)[:16]}".replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text. Nothing is prepended unless asked for: no published checkpoint saw a start token."""
        return self.tokenizer.encode(string, add_special_tokens=bool(add_special_tokens))

    # -- requests -------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, cut before the first stop text; leading spaces are kept."""
        self.engine.quiet = disable_tqdm
        prompts = encode(self.tokenizer, [request.args[0] for request in requests])
        jobs = []
        seen: Counter[str] = Counter()
        for i, (request, ids) in enumerate(zip(requests, prompts, strict=True)):
            kwargs = dict(normalize_gen_kwargs(request.args[1], self.max_gen_toks))
            limit = kwargs["max_gen_toks"]
            if not 1 <= limit < self.max_length:
                raise ValueError(
                    f"request {i}: max_gen_toks={limit} leaves no room for a prompt in max_length={self.max_length}; "
                    "lower --gen_kwargs max_gen_toks or raise max_length"
                )
            name = json.dumps([request.args[0], kwargs], sort_keys=True, default=str)
            seen[name] += 1
            tokens, pads = self._fit(ids, self.max_length - limit, i)
            special = {self.tokenizer.convert_tokens_to_ids(stop) for stop in kwargs["until"] if stop in self._special}
            seed = (self.seed, seen[name])
            jobs.append(
                Generation(tokens, kwargs["until"], limit, self._sampling(kwargs), seed, pads, ends=frozenset(special))
            )

        def finished(i: int) -> None:
            if jobs[i].sampling.greedy:  # lm-eval takes no sampled answer from its cache
                self._kept.add("generate_until", requests[i].args, jobs[i].text)

        with self._kept:
            self.engine.generate(jobs, finished)
        self._report()
        return [job.text or "" for job in jobs]

    @staticmethod
    def _sampling(kwargs: dict[str, Any]) -> Sampling:
        if not kwargs.get("do_sample"):
            return Sampling()
        temperature = kwargs.get("temperature")
        return Sampling(
            1.0 if temperature is None else float(temperature),
            int(kwargs.get("top_k") or 0),
            min(1.0, float(kwargs.get("top_p") or 1.0)),  # 0, and 1 or more, are off
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        self.engine.quiet = bool(kwargs.get("disable_tqdm"))

        def finished(i: int, answer: tuple[float, bool]) -> None:
            self._kept.add("loglikelihood", requests[i][0], answer)

        return self._score([(context, continuation) for _, context, continuation in requests], finished)

    def _score(
        self, pairs: Sequence[tuple[list[int], list[int]]], finished: Callable[[int, tuple[float, bool]], None]
    ) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)  # of an empty continuation
        jobs, owners = [], []
        for i, (context, continuation) in enumerate(pairs):
            if not continuation:
                continue
            if len(continuation) > self.max_length:
                raise ValueError(
                    f"request {i}: a continuation of {len(continuation)} tokens does not fit max_length="
                    f"{self.max_length}; raise max_length"
                )
            # A context may come out empty: lm-eval moves the spaces at its end to the continuation.
            context = context or [self.prefix_token_id]
            tokens, pads = self._fit(context, self.max_length + 1 - len(continuation), i)
            jobs.append(Score(tokens + continuation, len(tokens), pads))
            owners.append(i)

        def done(job: int, answer: tuple[float, bool]) -> None:
            answers[owners[job]] = answer
            finished(owners[job], answer)

        with self._kept:
            self.engine.score(jobs, done)
        self._report()
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts in windows of `max_length`, each token predicted once (lm-eval's windows)."""
        self.engine.quiet = disable_tqdm
        windows, owners = [], []
        for i, request in enumerate(requests):
            for pair in get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            ):
                windows.append(make_disjoint_window(pair))
                owners.append(i)
        totals, missing = [0.0] * len(requests), Counter(owners)

        def finished(window: int, answer: tuple[float, bool]) -> None:
            i = owners[window]
            totals[i] += answer[0]
            missing[i] -= 1
            if not missing[i]:
                self._kept.add("loglikelihood_rolling", requests[i].args, totals[i])

        self._score(windows, finished)
        return totals

    def _fit(self, ids: list[int], room: int, request: int) -> tuple[list[int], int]:
        """Cut a prompt on the left to `room` tokens, or fill it up in JRT's left-pad mode; returns it and its pads."""
        if len(ids) > room:
            if self.truncation == "error":
                raise ValueError(
                    f"request {request}: a prompt of {len(ids)} tokens does not fit the {room} that max_length="
                    f"{self.max_length} leaves it; raise max_length or allow truncation=left"
                )
            self.engine.meter.truncated += 1
            ids = ids[-room:]
        if self.left_pad:
            assert isinstance(self.model, JRTModel)
            ids, flags = self.model.left_pad(ids)
            return ids, sum(flags)
        return ids, 0

    def _report(self) -> None:
        meter = self.engine.meter
        if meter.prompt_tokens:
            log.info(
                "%s of %s prompt tokens computed (%.1f %%): the rest was shared; %s prompts truncated",
                f"{meter.prompt_tokens_computed:,}",
                f"{meter.prompt_tokens:,}",
                100 * meter.prompt_tokens_computed / meter.prompt_tokens,
                meter.truncated,
            )

    # -- results --------------------------------------------------------------------------------------------------

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results file: the model's identity, and what the run measured.

        `state_bytes` is the state of one sequence after the longest prompt, in bytes; the rates are tokens a second.
        Figures of work that did not happen (everything came from --use_cache) are None; so is `conformance`, the
        gate's findings, without check=true.
        """
        meter = self.engine.meter
        dtype = str(self.model.dtype).removeprefix("torch.")
        content = self.checkpoint.content_hash()
        return {
            "checkpoint": self.checkpoint.source,
            "architecture": self.model.architecture,
            "parameters": self.model.n_parameters,
            "dtype": dtype,
            "state_dtype": str(self.engine.state_dtype or torch.float32).removeprefix("torch."),
            "revision": self.checkpoint.revision,
            "content_hash": content,
            "tokenizer_hash": tokenizer_hash(self.tokenizer),
            "slots": self.slots,
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
            "conformance": self.conformance,
            "recall_evals_version": __version__,
            # lm-eval's own names for the same, which readers of its `hf` results look for
            "model_num_parameters": self.model.n_parameters,
            "model_dtype": dtype,
            "model_revision": self.checkpoint.revision or "",
            "model_sha": self.checkpoint.revision or content,
        }


class AttentionLM(BasedLM):
    """`based`, refusing everything but the published Transformer."""

    demanded = "attention"


class MambaLM(BasedLM):
    """`based`, refusing everything but Mamba."""

    demanded = "mamba"
