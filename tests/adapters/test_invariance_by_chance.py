"""Random forests of prompts, with random stops, ends, slots, budgets and orders: each answer as if asked alone."""

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from recall_evals.adapters.decoding import Generation, Sampling
from recall_evals.adapters.engine import Engine, most_states
from recall_evals.adapters.scoring import Score

TOKENS = st.integers(0, 256)
ALPHABET = "abcdefgh"  # few characters, so that random stops come up


def text(ids):
    return "".join(ALPHABET[i % len(ALPHABET)] for i in ids)


@st.composite
def forests(draw: st.DrawFn) -> list[list[int]]:
    """Each prompt goes on from a part of an earlier one, or begins anew; some are the same, or one token."""
    prompts: list[list[int]] = []
    for _ in range(draw(st.integers(1, 9))):
        stem = draw(st.sampled_from(prompts)) if prompts and draw(st.booleans()) else []
        kept = stem[: draw(st.integers(0, len(stem)))]
        # A few tokens, or a run as long as several of the model's folds, windows and encoder.
        new = draw(
            st.lists(TOKENS, max_size=6) | st.tuples(TOKENS, st.integers(1, 70)).map(lambda run: [run[0]] * run[1])
        )
        prompts.append([*kept, *new] or [draw(TOKENS)])
    return prompts


@st.composite
def generations(draw: st.DrawFn) -> list[Generation]:
    def job(place: int, prompt: list[int]) -> Generation:
        stops = draw(st.lists(st.text(ALPHABET, min_size=1, max_size=3), max_size=2))
        ends = frozenset(draw(st.lists(TOKENS, max_size=2)))
        sampling = Sampling(1.0, top_k=9) if draw(st.integers(0, 3)) == 3 else Sampling()
        return Generation(prompt, stops, draw(st.integers(1, 20)), sampling, (place,), ends=ends)

    return [job(place, prompt) for place, prompt in enumerate(draw(forests()))]


@st.composite
def scores(draw: st.DrawFn) -> list[Score]:
    found = []
    for prompt in draw(forests()):
        tokens = [*prompt, *draw(st.lists(TOKENS, min_size=1, max_size=5))]
        found.append(Score(tokens, draw(st.integers(1, len(tokens) - 1))))
    return found


ENGINES = st.fixed_dictionaries(
    {"slots": st.integers(1, 12), "share": st.booleans(), "budget": st.sampled_from([1, 7, 64, 8192])},
    optional={"logit_rows": st.integers(1, 5)},
)


@functools.cache
def model(architecture):
    """At most three layers: one of each kind."""
    config = tiny.CONFIGS[architecture]
    return tiny.build(tiny.changed(config, n_layer=min(3, config["n_layer"])))


def engine(architecture, end=0, **options):
    return Engine(model(architecture), vocabulary=257, end=end, decode=text, quiet=True, **options)


def by_chance(examples):
    """The same examples in every run."""
    return settings(max_examples=examples, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("architecture", sorted(tiny.CONFIGS))
def test_texts(architecture):
    @by_chance(20)
    @given(generations(), ENGINES, st.randoms(use_true_random=False), st.integers(-1, 256))
    def each_is_as_if_alone(jobs, options, random, end):
        machine = engine(architecture, end, **options)
        order = random.sample(range(len(jobs)), len(jobs))
        machine.generate([jobs[i] for i in order])
        for job in jobs:
            one = Generation(job.prompt, job.stops, job.limit, job.sampling, job.seed, ends=job.ends)
            engine(architecture, end, slots=1, share=False).generate([one])
            assert (job.tokens, job.text) == (one.tokens, one.text)
        assert machine.meter.peak_states <= most_states(machine.slots) and machine.meter.live_states == 0

    each_is_as_if_alone()


@pytest.mark.parametrize("architecture", sorted(tiny.CONFIGS))
def test_likelihoods(architecture):
    @by_chance(20)
    @given(scores(), ENGINES, st.randoms(use_true_random=False))
    def each_is_as_if_alone(jobs, options, random):
        machine = engine(architecture, **options)
        order = random.sample(range(len(jobs)), len(jobs))
        found = dict(zip(order, machine.score([jobs[i] for i in order]), strict=True))
        for i, job in enumerate(jobs):
            assert engine(architecture, slots=1, share=False).score([job]) == [found[i]]
        assert machine.meter.peak_states <= most_states(machine.slots) and machine.meter.live_states == 0

    each_is_as_if_alone()
