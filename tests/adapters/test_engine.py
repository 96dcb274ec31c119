"""The engine's promise: an answer depends on nothing but its request; live states stay within their bound."""

import random

import pytest
import torch

import recall_evals.adapters.slots as slots_module
import tiny
from recall_evals.adapters.decoding import Generation, Sampling
from recall_evals.adapters.engine import Engine, most_states
from recall_evals.adapters.scoring import Score
from recall_evals.adapters.slots import DeviceSlots

ALPHABET = 40  # ids in use: few, so that stops come up


def text(ids):
    return "".join(chr(65 + i % ALPHABET) for i in ids)


def engine(model, slots=4, **options):
    return Engine(model, slots=slots, vocabulary=257, end=0, decode=text, quiet=True, **options)


def prompts(seed: int, n: int) -> list[list[int]]:
    """Trees of prefixes: pages, questions under them, some prompts a prefix of others, some asked twice."""
    rng = random.Random(seed)

    def draw(low, high):
        return [rng.randrange(257) for _ in range(rng.randint(low, high))]

    found: list[list[int]] = []
    preamble = draw(20, 30)
    while len(found) < n:
        page = (preamble if rng.random() < 0.5 else []) + draw(1, 90)
        for _ in range(rng.randint(1, 6)):
            found.append(page + draw(0, 12))
            if rng.random() < 0.2:
                found.append(list(found[-1]))
            if rng.random() < 0.2:
                found.append(found[-1] + draw(1, 5))
    rng.shuffle(found)
    return [p for p in found if p][:n]


def jobs_for(seed: int, n: int, sampled: bool = False) -> list[Generation]:
    rng = random.Random(seed)
    made = []
    for i, prompt in enumerate(prompts(seed, n)):
        stops = [text([rng.randrange(40), rng.randrange(40)][: rng.randint(1, 2)]) for _ in range(rng.randint(0, 2))]
        sampling = Sampling(0.8, top_k=20, top_p=0.9) if sampled and i % 2 else Sampling()
        made.append(Generation(prompt, stops, rng.randint(1, 12), sampling, (7, i)))
    return made


@pytest.fixture(params=sorted(tiny.CONFIGS), scope="module")
def model(request):
    return tiny.build(tiny.CONFIGS[request.param])


def alone(model, jobs):
    """Each request by itself: no batch, no sharing."""
    for job in jobs:
        engine(model, 1, share=False).generate([job])
    return [(job.tokens, job.text) for job in jobs]


def test_generation_is_invariant(model):
    want = alone(model, jobs_for(1, 40, sampled=True))
    ties = 0
    for slots, share, budget, shuffle in [
        (1, True, 8192, 0),
        (5, True, 64, 1),
        (16, True, 8192, 2),
        (7, False, 300, 3),
    ]:
        jobs = jobs_for(1, 40, sampled=True)
        order = list(range(40))
        random.Random(shuffle).shuffle(order)
        done: list[int] = []
        machine = engine(model, slots, share=share, budget=budget)
        machine.generate([jobs[i] for i in order], done.append)
        assert sorted(done) == list(range(40)), "every request is reported once"
        different = [i for i, job in enumerate(jobs) if (job.tokens, job.text) != want[i] and not job.near_ties]
        assert not different, f"slots {slots}, sharing {share}, budget {budget}: {different}"
        ties += machine.meter.near_ties
        if share:
            assert machine.meter.prompt_tokens_computed < machine.meter.prompt_tokens
        assert machine.meter.peak_states <= most_states(slots)
        assert machine.meter.live_states == 0, "nothing is held after the run"
    assert ties < 20


def test_several_steps_at_a_time_on_the_device_change_nothing(model, monkeypatch):
    """The steps that CUDA graphs hold, run without them: sizes of powers of two, sequences that come and go."""

    made: list[DeviceSlots] = []

    def device_slots(model, state, vocabulary, room):
        state.reserve(room + slots_module.LOOK_EVERY)
        made.append(DeviceSlots(model, state, vocabulary, captured=False))
        return made[-1]

    want = alone(model, jobs_for(1, 30, sampled=True))
    plain = alone(model, jobs_for(3, 30))
    monkeypatch.setattr("recall_evals.adapters.engine.make_slots", device_slots)
    for slots, seed, n, sampled, wanted in [
        (5, 1, 30, True, want),
        (16, 3, 30, False, plain),
        (1, 3, 30, False, plain),
    ]:
        made: list[DeviceSlots] = []
        jobs, done = jobs_for(seed, n, sampled), []
        machine = engine(model, slots)
        machine.generate(jobs, done.append)
        assert sorted(done) == list(range(n)) and len(made) == 1 and len(made[0]._scores) > (slots > 1)
        different = [i for i, job in enumerate(jobs) if (job.tokens, job.text) != wanted[i] and not job.near_ties]
        assert not different, f"slots {slots}: {different}"
        assert machine.meter.generated_tokens == sum(len(j.tokens) for j in jobs) + sum(
            len(j.tokens) < j.limit and not any(s in text(j.tokens) for s in j.stops) for j in jobs
        ), "tokens, and the end tokens"
        assert machine.meter.peak_states <= most_states(slots)


def naive_score(model, job: Score) -> tuple[float, bool]:
    """Read the context, then one token after the other."""
    tokens = torch.tensor(job.tokens)
    scores, state = model.prefill(tokens[: job.context], [job.context])
    total, greedy = 0.0, True
    for token in job.tokens[job.context :]:
        total += float(scores[0].double().log_softmax(-1)[token])
        greedy &= int(scores[0, :257].argmax()) == token
        scores = model.step(torch.tensor([token]), state)
    return total, greedy


def test_scores_are_invariant_and_right(model):
    rng = random.Random(3)
    jobs = []
    for prompt in prompts(4, 20):
        if len(prompt) < 2:
            continue
        context = rng.randint(1, len(prompt) - 1)
        jobs.append(Score(prompt, context))
        jobs.append(Score(prompt[:-1] + [rng.randrange(257)], context))  # another ending of the same stem
    want = [naive_score(model, job) for job in jobs]
    for slots, share, budget in [(1, True, 8192), (4, True, 50), (64, True, 8192), (8, False, 8192)]:
        machine = engine(model, slots, share=share, budget=budget)
        reported: dict[int, tuple[float, bool]] = {}
        got = machine.score(jobs, reported.__setitem__)
        assert [reported[i] for i in range(len(jobs))] == got
        for i, ((value, same), (naive, naive_same)) in enumerate(zip(got, want, strict=True)):
            assert abs(value - naive) < 1e-4, f"request {i}, slots {slots}, sharing {share}"
            assert same == naive_same
        assert machine.meter.peak_states <= most_states(slots)


def test_greedy_continuations_are_recognised(model):
    prompt = prompts(9, 1)[0] + list(range(30))
    job = Generation(prompt, [], 5)
    machine = engine(model)
    machine.end = None
    machine.generate([job])
    answers = machine.score(
        [
            Score(prompt + job.tokens, len(prompt)),
            Score(prompt + job.tokens[:-1] + [(job.tokens[-1] + 1) % 257], len(prompt)),
        ]
    )
    assert [same for _, same in answers] == [True, False]


def test_padding_rows_of_the_head_are_never_chosen():
    model = tiny.build(tiny.BASED)
    assert model.embedding.num_embeddings == 264
    narrow = Engine(model, slots=2, vocabulary=3, end=None, decode=text, quiet=True)
    job = Generation([5, 6, 7], [], 30)
    narrow.generate([job])
    assert set(job.tokens) <= {0, 1, 2}


@pytest.mark.parametrize("many", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_many_requests_never_hold_more_than_the_bound(many):
    model = tiny.build(tiny.changed(tiny.BASED, n_layer=3))
    rng = random.Random(0)
    pages = [[rng.randrange(257) for _ in range(rng.randint(5, 40))] for _ in range(many // 11)]
    jobs = [
        Generation(rng.choice(pages) + [rng.randrange(257) for _ in range(3)], [], rng.randint(1, 3))
        for _ in range(many)
    ]
    machine = engine(model, 32)
    machine.generate(jobs)
    assert all(job.text is not None for job in jobs)
    row = machine.meter.state_bytes
    assert machine.meter.peak_states <= most_states(32)
    assert machine.meter.peak_bytes <= most_states(32) * row


def test_bad_requests_are_refused_before_any_work():
    machine = engine(tiny.build(tiny.BASED))
    with pytest.raises(ValueError, match="request 1 has an empty prompt"):
        machine.generate([Generation([1], [], 3), Generation([], [], 3)])
    for tokens, context in (([1, 2], 0), ([1, 2], 2)):
        with pytest.raises(ValueError, match="request 0 needs a context and a continuation"):
            machine.score([Score(tokens, context)])
    assert machine.meter.prompt_tokens_computed == 0
    machine.generate([])
    assert machine.score([]) == []


@pytest.mark.parametrize("slots", [1, 4, 16])
def test_a_chain_of_prefixes_is_read_once(slots):
    model = tiny.build(tiny.BASED)
    jobs = [Generation([7] * n, [], 1) for n in range(20, 1620, 20)]
    machine = engine(model, slots)
    machine.generate(jobs)
    assert machine.meter.prompt_tokens_computed == 1600
    assert machine.meter.peak_states <= most_states(slots)


def test_idle_slots_do_not_grow():
    model = tiny.build(tiny.changed(tiny.ATTENTION, n_positions=64))
    jobs = [Generation([i % 250] * 60, [], 2) for i in range(3)] + [Generation([i] * 10, [], 50) for i in range(13)]
    machine = engine(model, 16)
    machine.generate(jobs)  # an idle slot that went on counting would leave the 64 positions
    assert all(job.text is not None for job in jobs)


def test_peak_bytes_see_a_cache_grow():
    model = tiny.build(tiny.ATTENTION)
    machine = engine(model, 4)
    machine.end = None
    machine.generate([Generation([i] * 10, [], 400) for i in range(4)])
    token = model.prefill(torch.tensor([1, 2]), [2])[1].nbytes - model.prefill(torch.tensor([1]), [1])[1].nbytes
    assert machine.meter.peak_bytes > 4 * 400 * token


def test_a_special_token_may_be_a_stop():
    job = Generation([1], [], 10, ends=frozenset({9}))
    assert not job.append(8, None, text)
    assert job.append(9, None, text) and job.text == text([8])
