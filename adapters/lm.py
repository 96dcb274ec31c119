"""The lm-eval models `based`, `attention`, `mamba`, `h3`, `hyena` and `rwkv`: checkpoints answered by the engine."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ..models.bundled import PREFIX
from ..models.checkpoint import find_checkpoint
from ..models.jrt import JRTModel
from ..models.loading import load_checkpoint
from ..models.sequence_model import SequenceModel
from .arguments import available_device, context_length, parse_state_dtype, sampling
from .batch_pads import BatchPads
from .conformance import demand_conformance
from .decoding import Generation
from .engine import Engine
from .kept_answers import KeptAnswers
from .memory import plan_memory
from .model_info import model_info, reading_summary
from .placement import parse_dtype
from .scoring import Score
from .tokenizer import decode, encode, load_tokenizer, tokenizer_hash

log = logging.getLogger("lm_eval.models.recall_evals")  # lm-eval shows what its own loggers say


class BasedLM(TemplateLM):
    """Any published checkpoint (based, attn, mamba, JRT); its configuration says which architecture it is.

    `lm_eval --model based --model_args pretrained=<folder or hub id>,...`

    Args:
        pretrained: folder, name of a bundled checkpoint (a folder of that name is taken first; `bundled:based` passes
            it by) or hub id; default: the bundled one of `--model`'s name.
        revision: branch, tag, commit or refs/pr/N of a hub id.
        tokenizer: folder, tokenizer.json or hub id; default: the checkpoint's own, else GPT-2's.
        dtype: float32, which gives the same answers on every device, bfloat16, float16 or float64; auto (default):
            bfloat16 on a GPU, where half precision runs in Triton kernels and decodes in CUDA graphs, else float32.
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
        pads: fill prompts up with pads that the model reads, as the published runs did, in batches of `batch_size`
            (`batch_pads.py`): published (BASED's) or published_jrt (Just Read Twice's). Answers then depend on what
            else is asked: --use_cache is refused. Ask one task a run, whole. Prefixes are shared all the same.
        seed: of sampling; default: lm-eval's --seed.
        check: run the conformance gate first (`recall-evals check`) and refuse a model that fails it.
        trust_remote_code: what lm-eval's flag adds for its data sets; no code is ever taken from a checkpoint.

    Raises:
        ModelError: a checkpoint that can't be used, or of another architecture than `demanded`.
        ValueError: an argument outside its range; names it.
    """

    demanded: ClassVar[str | None] = None
    _ends: frozenset[int] = frozenset()  # ids that end an answer, beside the tokenizer's end token

    def __init__(
        self,
        pretrained: str | None = None,
        revision: str | None = None,
        tokenizer: str | None = None,
        dtype: str = "auto",
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
        pads: str | None = None,
        seed: int | None = None,
        check: bool = False,
        trust_remote_code: bool = False,
    ):
        super().__init__()
        if truncation not in ("left", "error"):
            raise ValueError(f"truncation={truncation!r} is unknown; choose left or error")
        self._device = available_device(device)
        precision = parse_dtype(dtype, self._device)
        self.checkpoint = find_checkpoint(
            f"{PREFIX}{self.demanded or 'based'}" if pretrained is None else pretrained, revision
        )
        pretrained = self.checkpoint.source
        self.model = self._load(precision, trust_remote_code)
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
        self.pads = None
        if pads is not None:
            self.pads = BatchPads.of(pads, batch_size, self.model.architecture, left_pad, self.tokenizer)
        max_length = context_length(max_length, self.model, pretrained, left_pad)
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
            state_dtype=parse_state_dtype(state_dtype, self.model),
        )

    def _load(self, dtype: torch.dtype, trust_remote_code: bool) -> SequenceModel:
        return load_checkpoint(self.checkpoint, dtype=dtype, device=self._device)

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        if self.pads is not None:
            raise ValueError(
                f"pads={self.pads.name}: an answer depends on its batch, and with --use_cache only what is missing "
                "would be asked, in other batches; leave one of them out"
            )
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

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return encode(self.tokenizer, texts)

    # -- requests -------------------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, cut before the first stop text; leading spaces are kept."""
        self.engine.quiet = disable_tqdm
        prompts = self._encode([request.args[0] for request in requests])
        arguments = [dict(normalize_gen_kwargs(request.args[1], self.max_gen_toks)) for request in requests]
        cut = []
        for i, (ids, kwargs) in enumerate(zip(prompts, arguments, strict=True)):
            limit = kwargs["max_gen_toks"]
            if not 1 <= limit < self.max_length:
                raise ValueError(
                    f"request {i}: max_gen_toks={limit} leaves no room for a prompt in max_length={self.max_length}; "
                    "lower --gen_kwargs max_gen_toks or raise max_length"
                )
            cut.append(self._cut(ids, self.max_length - limit, i))
        if self.pads is not None:
            cut = self.pads.fill(cut, [len(ids) for ids in prompts], [request.args for request in requests])
        jobs = []
        seen: Counter[str] = Counter()
        for request, kwargs, ids in zip(requests, arguments, cut, strict=True):
            name = json.dumps([request.args[0], kwargs], sort_keys=True, default=str)
            seen[name] += 1
            tokens, pads = self._left_padded(ids)
            special = {self.tokenizer.convert_tokens_to_ids(stop) for stop in kwargs["until"] if stop in self._special}
            seed = (self.seed, seen[name])
            jobs.append(
                Generation(
                    tokens,
                    kwargs["until"],
                    kwargs["max_gen_toks"],
                    sampling(kwargs),
                    seed,
                    pads,
                    ends=frozenset(special) | self._ends,
                )
            )

        def finished(i: int) -> None:
            # lm-eval takes no sampled answer from its cache; nor may one that depends on its batch be taken.
            if jobs[i].sampling.greedy and self.pads is None:
                self._kept.add("generate_until", requests[i].args, jobs[i].text)

        with self._kept:
            self.engine.generate(jobs, finished)
        self._report()
        return [job.text or "" for job in jobs]

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
            tokens, pads = self._left_padded(self._cut(context, self.max_length + 1 - len(continuation), i))
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

    def _cut(self, ids: list[int], room: int, request: int) -> list[int]:
        """A prompt cut on the left to `room` tokens."""
        if len(ids) > room:
            if self.truncation == "error":
                raise ValueError(
                    f"request {request}: a prompt of {len(ids)} tokens does not fit the {room} that max_length="
                    f"{self.max_length} leaves it; raise max_length or allow truncation=left"
                )
            self.engine.meter.truncated += 1
            ids = ids[-room:]
        return ids

    def _left_padded(self, ids: list[int]) -> tuple[list[int], int]:
        """A prompt, filled up in JRT's left-pad mode, and how many pads that took."""
        if not self.left_pad:
            return ids, 0
        assert isinstance(self.model, JRTModel)
        ids, flags = self.model.left_pad(ids)
        return ids, sum(flags)

    def _report(self) -> None:
        if self.engine.meter.prompt_tokens:
            log.info(reading_summary(self.engine.meter))

    # -- results --------------------------------------------------------------------------------------------------

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results file; see `model_info`."""
        return model_info(self.checkpoint, self.tokenizer, self.engine, self.pads, self.conformance)


class AttentionLM(BasedLM):
    """`based`, refusing everything but the published Transformer."""

    demanded = "attention"


class MambaLM(BasedLM):
    """`based`, refusing everything but Mamba."""

    demanded = "mamba"


class H3LM(BasedLM):
    """`based`, refusing everything but H3."""

    demanded = "h3"


class HyenaLM(BasedLM):
    """`based`, refusing everything but Hyena."""

    demanded = "hyena"


class RWKVLM(BasedLM):
    """`based`, refusing everything but RWKV-5."""

    demanded = "rwkv"
