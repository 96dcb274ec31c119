"""The conformance gate: on this machine, does a model give every request one answer, whatever surrounds it?

Each check measures the largest difference between two ways to the same result and holds it against a bound. In float32
and better the bounds are those of the design: logits within 1e-5, log-likelihoods within 1e-4, the same texts but where
the two best logits lie within 1e-4 of each other. In half precision no such promise can be kept; there the bounds only
tell rounding from faults, and differing texts are counted without a bound. What counts is the dtype that the model's
kernels compute in (`SequenceModel.arithmetic`).
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels.packing import Packing
from ..models.sequence_model import SequenceModel
from .decoding import Generation
from .engine import Engine
from .layer_oracle import layer_oracle
from .scoring import Score

DRIFT = 2000  # tokens
LOGITS = {torch.float16: 0.05, torch.bfloat16: 0.5}  # bounds on logits in half precision; 1e-5 otherwise
LAYERS = {torch.float16: 0.02, torch.bfloat16: 0.1}  # bounds on a layer's relative difference; 1e-5 otherwise


@dataclass(frozen=True)
class Finding:
    """What one check measured.

    Attributes:
        name: what must be equal.
        difference: the largest found, in `unit`; NaN fails; None: the check could not be made.
        bound: the largest allowed; None: reported only.
        compared: what was compared, or why nothing could be, in a few words.
    """

    name: str
    difference: float | None
    bound: float | None
    unit: str
    compared: str

    @property
    def passed(self) -> bool:
        return self.difference is not None and (self.bound is None or self.difference <= self.bound)

    @property
    def failed(self) -> bool:
        return self.difference is not None and not self.passed

    @property
    def verdict(self) -> str:
        return "ok" if self.passed else "FAILED" if self.failed else "not made"


class ConformanceError(ValueError):
    """The gate found a difference beyond its bound; the message names the checks."""


def check_conformance(model: SequenceModel, seed: int = 0) -> Iterator[Finding]:
    """All checks of the gate, each as it is finished, on random tokens drawn with `seed`.

    Works through the three functions of `SequenceModel` and the engine alone, so for any architecture. Takes about
    4,000 tokens of single steps: seconds for a model of a few million parameters on a CPU.
    """
    gate = _Gate(model, seed)
    for check in (
        gate.prefill_and_step,
        gate.batches,
        gate.packing,
        gate.forks,
        gate.texts,
        gate.log_likelihoods,
        gate.layers,
        gate.drift,
    ):
        with torch.inference_mode():
            finding = check()
        yield finding


def summary(findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    """What a results file keeps of a run of the gate."""
    return {
        "passed": not any(f.failed for f in findings),
        "seconds": round(seconds, 1),
        "checks": {f.name: {"difference": f.difference, "bound": f.bound, "unit": f.unit} for f in findings},
    }


def demand_conformance(model: SequenceModel, report: Callable[[str], object]) -> dict[str, Any]:
    """Run the gate, report each finding as a line, and return its summary.

    Raises:
        ConformanceError: a check failed.
    """
    began = time.perf_counter()
    findings = []
    for finding in check_conformance(model):
        findings.append(finding)
        bound = "reported only" if finding.bound is None else f"bound {finding.bound:g}"
        found = finding.compared if finding.difference is None else f"{finding.difference:.2g} ({bound})"
        report(f"{finding.verdict}: {finding.name}: {found}")
    if failed := [f for f in findings if f.failed]:
        raise ConformanceError(
            "the conformance gate failed: "
            + "; ".join(f"{f.name}: {f.difference:.2g} {f.unit}, bound {f.bound:g}" for f in failed)
            + ". Scores of this model on this machine depend on how requests are batched; leave check=true out to "
            "evaluate all the same"
        )
    return summary(findings, time.perf_counter() - began)


class _Gate:
    """The checks, on one model; each returns its finding."""

    def __init__(self, model: SequenceModel, seed: int):
        self.model = model
        self.generator = torch.Generator().manual_seed(seed)
        self.random = random.Random(seed)
        rows = model.embedding.num_embeddings
        self.vocabulary = min(model.config.get("vocab_size") or rows, rows)
        self.whole = max(1, model.shortest_split)  # the shortest prefix that may be read by itself
        self.most = model.positions or 10**9
        self.logits_bound = LOGITS.get(model.arithmetic, 1e-5)
        if self.most < self.whole + 24:
            raise ValueError(f"the model holds {self.most} positions; the gate needs {self.whole + 24}")

    def tokens(self, *lengths: int) -> list[Tensor]:
        """Random prompts: `length` tokens beyond the shortest prefix, as far as the model has positions."""
        sizes = [min(self.whole + n, self.most - 4) for n in lengths]
        return [torch.randint(self.vocabulary, (n,), generator=self.generator).to(self.model.device) for n in sizes]

    def read(self, *prompts: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self.model.prefill(torch.cat(prompts), [len(p) for p in prompts], state)

    def prefill_and_step(self) -> Finding:
        (tokens,) = self.tokens(47)
        want = self.model.forward(tokens[None])[0]
        splits = sorted({min(self.whole + n, len(tokens) - 1) for n in (0, 1, 6, 15, 16, 17, 46)})
        worst = _Worst()
        for split in splits:
            scores, state = self.read(tokens[:split])
            worst.see(scores[0], want[split - 1])
            for i in range(split, len(tokens)):
                worst.see(self.model.step(tokens[i : i + 1], state)[0], want[i])
        name = "prefill + step = forward"
        return Finding(name, worst.value, self.logits_bound, "logits", f"{len(tokens)} tokens, {len(splits)} splits")

    def batches(self) -> Finding:
        prompts = self.tokens(*[9] * 33)
        nexts = torch.randint(self.vocabulary, (33,), generator=self.generator).to(self.model.device)
        worst, sizes = _Worst(), (2, 7, 16, 33)
        alone, stepped = [], []
        for prompt, token in zip(prompts, nexts, strict=True):
            scores, state = self.read(prompt)
            alone.append(scores[0])
            stepped.append(self.model.step(token[None], state)[0])
        for size in sizes:
            worst.see(self.model.forward(torch.stack(prompts[:size]))[:, -1], torch.stack(alone[:size]))
            _, state = self.read(*prompts[:size])
            worst.see(self.model.step(nexts[:size], state), torch.stack(stepped[:size]))
        compared = f"forward and step in batches of {', '.join(map(str, sizes))}"
        return Finding("any batch = one by one", worst.value, self.logits_bound, "logits", compared)

    def packing(self) -> Finding:
        first, others = self.tokens(25, 0, 77, 16, 1), self.tokens(*[40] * 5)
        sizes = [min(n, self.most - len(t)) for t, n in zip(first, (3, 40, 1, 16, 9), strict=True)]
        rest = [t[:n] for t, n in zip(others, sizes, strict=True)]
        worst = _Worst()
        scores, state = self.read(*first)
        more, _ = self.read(*rest, state=state)
        for i, (prompt, ending) in enumerate(zip(first, rest, strict=True)):
            one, alone = self.read(prompt)
            worst.see(scores[i], one[0])
            worst.see(more[i], self.read(ending, state=alone)[0][0])
        compared = f"prompts of {', '.join(str(len(p)) for p in first)} tokens, continued by other lengths"
        return Finding("packed = one by one", worst.value, self.logits_bound, "logits", compared)

    def forks(self) -> Finding:
        (prompt,) = self.tokens(30)
        steps = min(8, self.most - len(prompt))
        endings = torch.randint(self.vocabulary, (4, steps), generator=self.generator).to(self.model.device)
        scores, state = self.read(prompt)
        fork = state.select([0, 0, 0, 0])
        worst = _Worst()
        forked = [self.model.step(endings[:, t], fork) for t in range(steps)]
        for row in range(4):
            # The state that was forked goes on last: its forks must not have touched it.
            alone = state if row == 3 else self.read(prompt)[1]
            for t in range(steps):
                worst.see(forked[t][row], self.model.step(endings[row, t : t + 1], alone)[0])
        compared = f"4 forks of {len(prompt)} tokens, {steps} steps each"
        return Finding("fork = no fork", worst.value, self.logits_bound, "logits", compared)

    def prompts(self, n: int) -> list[list[int]]:
        """Prompts with shared beginnings, some of them twice, some shorter than any other."""
        pages = [t.tolist() for t in self.tokens(*[self.random.randint(20, 60) for _ in range(max(1, n // 4))])]
        found = []
        for i in range(n):
            room = self.most - 12 - len(pages[i % len(pages)])
            ending = [self.random.randrange(self.vocabulary) for _ in range(min(self.random.randint(0, 9), room))]
            found.append((pages[i % len(pages)] + ending)[: self.most - 12])
        return found + found[:2] + [prompt[:7] for prompt in found[2:4]]

    def engines(self) -> Iterator[tuple[Engine, random.Random]]:
        for i, (slots, share, budget) in enumerate([(1, True, 8192), (5, True, 64), (16, True, 8192), (7, False, 300)]):
            yield self.engine(slots, share, budget), random.Random(i)

    def engine(self, slots: int, share: bool, budget: int) -> Engine:
        return Engine(
            self.model,
            slots=slots,
            vocabulary=self.vocabulary,
            end=None,
            decode=_as_text,
            share=share,
            budget=budget,
            quiet=True,
        )

    def texts(self) -> Finding:
        prompts = self.prompts(22)
        stops = [[_as_text([self.random.randrange(self.vocabulary)])] for _ in prompts]
        want, ties, differ = [], 0, 0
        for prompt, stop in zip(prompts, stops, strict=True):
            job = Generation(prompt, stop, 8)
            self.engine(1, False, 8192).generate([job])
            want.append(job.tokens)
        for engine, shuffled in self.engines():
            jobs = [Generation(prompt, stop, 8) for prompt, stop in zip(prompts, stops, strict=True)]
            engine.generate(shuffled.sample(jobs, len(jobs)))
            ties += engine.meter.near_ties
            differ += sum(j.tokens != w and not j.near_ties for j, w in zip(jobs, want, strict=True))
        bound = 0 if self.model.arithmetic in (torch.float32, torch.float64) else None
        compared = f"{len(prompts)} requests in 4 ways of slots, order, sharing; {ties} near ties"
        return Finding("order and neighbours irrelevant: texts", differ, bound, "texts", compared)

    def log_likelihoods(self) -> Finding:
        jobs = []
        for prompt in self.prompts(14):
            context = self.random.randint(max(1, len(prompt) - 20), len(prompt) - 1)
            jobs.append(Score(prompt, context))
            jobs.append(Score(prompt[:-1] + [self.random.randrange(self.vocabulary)], context))
        want = [self.engine(1, False, 8192).score([job])[0] for job in jobs]
        worst = _Worst()
        for engine, shuffled in self.engines():
            order = shuffled.sample(range(len(jobs)), len(jobs))
            for i, (value, _) in zip(order, engine.score([jobs[i] for i in order]), strict=True):
                worst.see(torch.tensor(value), torch.tensor(want[i][0]))
        name, compared = "order and neighbours irrelevant: scores", f"{len(jobs)} continuations in the same 4 ways"
        return Finding(name, worst.value, 10 * self.logits_bound, "log-likelihood", compared)

    def layers(self) -> Finding:
        check, bound = "kernels = float64 oracle", LAYERS.get(self.model.arithmetic, 1e-5)
        if not self.model.on_cpu:
            return Finding(check, None, bound, "relative", "its kernels run on a GPU alone, where there is no float64")
        first = self.tokens(30, 5, 17)
        rest = [t[:n] for t, n in zip(self.tokens(0, 6, 3), (1, 4, 2), strict=True)]
        with layer_oracle(self.model) as worst:
            _, state = self.read(*first)
            _, state = self.read(*rest, state=state)
            for _ in range(2):
                self.model.step(torch.tensor([1, 2, 3], device=self.model.device) % self.vocabulary, state)
        name = max(worst, key=lambda n: math.inf if math.isnan(worst[n]) else worst[n])
        return Finding(check, worst[name], bound, "relative", f"{len(worst)} layers; {name}")

    def drift(self) -> Finding:
        (tokens,) = self.tokens(DRIFT)
        start = min(self.whole, len(tokens) - 1)
        hidden, _ = self.model.extend(tokens, Packing([len(tokens)], tokens.device), None)
        _, state = self.read(tokens[:start])
        worst = _Worst()
        for i in range(start, len(tokens)):
            scores = self.model.step(tokens[i : i + 1], state)
            if i % 100 == 99 or i + 1 == len(tokens):
                worst.see(scores[0], self.model.logits(hidden[i : i + 1])[0])
        steps = f"{len(tokens) - start:,}"
        return Finding(
            f"drift over {steps} steps", worst.value, self.logits_bound, "logits", "single steps, read at once"
        )


class _Worst:
    """The largest absolute difference seen; a NaN stays."""

    def __init__(self) -> None:
        self.value = 0.0

    def see(self, ours: Tensor, want: Tensor) -> None:
        difference = (ours.double() - want.double()).abs().max().item()
        if difference > self.value or math.isnan(difference):
            self.value = difference


def _as_text(ids: Sequence[int]) -> str:
    """Any ids as text: a character each, few enough that stop texts come up."""
    return "".join(chr(65 + i % 40) for i in ids)
