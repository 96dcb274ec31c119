"""The adapter's promise at scale: whatever is asked beside a request, its answer has the same bits.

The long form (`pytest -m long tests/adapters/test_invariance_at_scale.py`) asks 10,000 requests of each architecture;
results/conformance/ keeps what its last run printed.
"""

import random
import string
from collections.abc import Sequence
from typing import Any

import pytest
from lm_eval.api.instance import Instance

import tiny
from recall_evals.adapters.engine import most_states
from recall_evals.adapters.lm import BasedLM

MAX_LENGTH = 2048
# Slots, sharing, tokens a prefill and the seed of the order: the first is the plainest there is.
PLAIN: dict[str, Any] = {"batch_size": 1, "share_prefixes": False}
RUNS: list[tuple[dict[str, Any], int]] = [
    ({"batch_size": 16}, 1),
    ({"batch_size": 64, "prefill_tokens": 333}, 2),
    ({"batch_size": 1}, 3),
    ({"batch_size": 5, "share_prefixes": False}, 4),
]
KINDS = ("generate_until", "loglikelihood", "loglikelihood_rolling")


def mixed_requests(n: int, seed: int = 0) -> list[tuple[str, tuple[Any, ...]]]:
    """Pages of 1 to 2,047 tokens (bytes), evenly spread in the logarithm, each with one or more requests on it."""
    rng = random.Random(seed)

    def text(length: int) -> str:
        return "".join(rng.choices(string.ascii_lowercase + " .\n", k=length))

    preamble = text(40)
    found: list[tuple[str, tuple[Any, ...]]] = []
    while len(found) < n:
        page = text(int(MAX_LENGTH ** rng.random()))
        if rng.random() < 0.3:
            page = preamble + page
        for _ in range(rng.randint(1, 8)):
            question = text(rng.randint(0, 12))
            kind = rng.choices(KINDS, (5, 4, 1))[0]
            if kind == "generate_until":
                stops = [text(rng.randint(1, 2)) for _ in range(rng.randint(0, 2))]
                found.append((kind, (page + question, {"until": stops, "max_gen_toks": rng.randint(1, 24)})))
            elif kind == "loglikelihood":
                found.append((kind, (page, question + text(rng.randint(1, 20)))))
            else:
                found.append((kind, (page + question,)))
    found = found[:n]
    rng.shuffle(found)
    return found


def answers(lm: BasedLM, requests: Sequence[tuple[str, tuple[Any, ...]]], order: Sequence[int]) -> list[Any]:
    """What lm-eval would get, in the requests' own order."""
    found: list[Any] = [None] * len(requests)
    for kind in KINDS:
        asked = [i for i in order if requests[i][0] == kind]
        instances = [Instance(kind, {}, requests[i][1], i) for i in asked]
        for i, answer in zip(asked, getattr(lm, kind)(instances, disable_tqdm=True), strict=True):
            found[i] = answer
    return found


@pytest.mark.parametrize("n", [60, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("architecture", sorted(tiny.CONFIGS))
def test_no_answer_differs(architecture, n, tmp_path):
    source = str(tiny.save(tmp_path / architecture, tiny.CONFIGS[architecture]))
    requests = mixed_requests(n)
    assert {kind for kind, _ in requests} == set(KINDS)
    lm = BasedLM(source, max_length=MAX_LENGTH, **PLAIN)
    want = answers(lm, requests, range(n))
    meter = lm.engine.meter
    print(
        f"\n{architecture}: {n:,} requests, {meter.prompt_tokens:,} prompt tokens, the longest {meter.longest_prompt:,}"
    )
    for options, seed in RUNS:
        order = list(range(n))
        random.Random(seed).shuffle(order)
        lm = BasedLM(source, max_length=MAX_LENGTH, **options)
        got = answers(lm, requests, order)
        meter = lm.engine.meter
        differ = [i for i in range(n) if got[i] != want[i]]
        print(
            f"  {options}: {len(differ)} differ, {meter.near_ties} near ties; {meter.prompt_tokens_computed:,} prompt "
            f"tokens computed, at most {meter.peak_states} states alive (bound {most_states(lm.slots)})"
        )
        assert not differ, f"{options}: requests {differ[:10]} of {len(differ)} that differ"
        assert meter.peak_states <= most_states(lm.slots)
        if options.get("share_prefixes", True):
            assert meter.prompt_tokens_computed < meter.prompt_tokens
