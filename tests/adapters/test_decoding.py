"""Stop texts and sampling, for one request."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recall_evals.adapters.decoding import Generation, Sampling
from recall_evals.kernels.greedy_choice.reference import greedy_choice


def bytes_of(ids):
    return bytes(ids).decode("utf-8", errors="replace")


def run(text: bytes, stops, limit=1000, end=None, decode=bytes_of):
    job = Generation([1], stops, limit)
    for token in text:
        if job.append(token, end, decode):
            return job
    return job


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet="ab\n. é", max_size=40),
    st.lists(st.text(alphabet="ab\n. é", min_size=1, max_size=4), max_size=3),
    st.integers(1, 60),
)
def test_the_answer_ends_before_the_first_stop(text, stops, limit):
    data = text.encode()
    job = run(data, stops, limit)
    # Brute force: the shortest run of tokens whose text holds a stop, or the limit, ends it.
    for n in range(1, len(data) + 1):
        seen = bytes_of(data[:n])
        places = [seen.find(s) for s in stops if s in seen]
        if places or n == limit:
            assert job.text == (seen[: min(places)] if places else seen)
            assert len(job.tokens) == n
            return
    assert job.text is None


def test_a_stop_may_straddle_tokens_and_begin_inside_one():
    words = {1: " the", 2: " en", 3: "d.\n", 4: "\nmore"}
    decode = lambda ids: "".join(words[i] for i in ids)  # noqa: E731
    assert run([1, 2, 3, 4], ["end"], decode=decode).text == " the "
    assert run([1, 2, 3, 4], ["\n\n", "zzz"], decode=decode).text == " the end."
    assert run([1, 2, 3, 4], [""], limit=2, decode=decode).text == " the en"


def test_half_a_character_is_no_text_yet():
    smile = "\U0001f600".encode()
    assert run(b"a" + smile + b"b", ["\ufffd"]).text is None, "each part alone would decode to the stop"
    assert run(b"a" + smile + b"b", ["b"]).text == "a\U0001f600"
    assert run(b"a" + smile, ["\U0001f600"]).text == "a"
    wrong = run(b"a\xffb", ["\ufffd"])
    assert wrong.text == "a" and len(wrong.tokens) == 3, "what no byte completes is text once another follows"
    assert run("a\ufffdb".encode(), ["\ufffd"]).text == "a"
    # Nothing follows the last token: its half a character stays in the answer, or is cut off like any text.
    assert run(b"a" + smile, [], limit=3).text == "a\ufffd"
    assert run(b"a" + smile, ["\ufffd"], limit=3).text == "a"
    assert run(b"a" + smile[:2] + b"\0", ["\ufffd"], end=0).text == "a"


def test_tokens_without_text_hide_no_stop():
    silent = [300] * 500  # special tokens decode to nothing
    decode = lambda ids: bytes_of([i for i in ids if i != 300])  # noqa: E731
    tokens = [*b"x" * 100, *b"the e", *silent, *b"n", *silent, *b"d of it"]
    job = run(tokens, ["end"], limit=5000, decode=decode)
    assert job.text == "x" * 100 + "the " and len(job.tokens) == tokens.index(ord("d")) + 1


def test_only_the_newest_tokens_are_decoded():
    read = []

    def decode(ids):
        read.append(len(ids))
        return bytes_of(ids)

    assert run(b"abc " * 500 + b"end", ["end"], limit=5000, decode=decode).text == "abc " * 500
    assert sum(read) < 40 * 2003 and max(read[:-1]) < 30
    # A decoder that drops a leading space has no place to cut at: it is slower, and right.
    stripped = lambda ids: "".join(f" {'ab'[i]}" for i in ids)[1:]  # noqa: E731
    assert run([0] * 300 + [1, 0], ["a b"], decode=stripped).text == "a " * 299


def test_no_cut_through_what_decodes_only_as_a_whole():
    def text_of(run):
        try:
            return bytes(run).decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(run)

    def decode(ids):  # as byte tokens of SentencePiece vocabularies: a run with one wrong byte is lost as a whole
        runs = [list(group) for word, group in itertools.groupby(ids, lambda i: i > 255)]
        return "".join("".join(chr(i - 256) for i in run) if run[0] > 255 else text_of(run) for run in runs)

    a, b = 256 + ord("a"), 256 + ord("b")
    assert run([a, *("é" * 13).encode(), a, b], ["ééééab"], decode=decode).text == "a" + "é" * 9


def test_the_end_token_stops_and_is_no_text():
    job = run([65, 66, 0, 67], ["\n"], end=0)
    assert job.text == "AB" and job.tokens == [65, 66]


def test_greedy_choice_and_near_ties():
    ids, lead = greedy_choice(torch.tensor([[0.0, 2.0, 2.0], [5.0, 5.00005, 0.0], [1.0, 0.0, -1.0]]))
    assert ids.tolist() == [1, 1, 0] and lead[0] == 0 and lead[2] == 1
    assert greedy_choice(torch.tensor([[3.0]]))[1].tolist() == [float("inf")]
    job = Generation([1], [], 5)
    assert job.extend([1, 1], lead[1:].tolist(), None, bytes_of) == 2 and job.near_ties == 1


@pytest.mark.parametrize("seed", range(40))
def test_tokens_that_are_seen_some_at_a_time_make_the_same_answer(seed):
    rng = random.Random(seed)
    # Few letters, characters of several tokens, stops that begin in each other.
    stream = list("".join(rng.choice(["a", "b", " ", "\n", "é", "字"]) for _ in range(60)).encode())
    stops = ["".join(rng.choice("ab \né") for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(0, 3))]
    limit, end = rng.randint(1, 150), rng.choice([None, None, 0xAD])
    leads = [rng.choice([1.0, 1e-6]) for _ in stream]
    want, seen = Generation([1], stops, limit), Generation([1], stops, limit)
    taken = [0, 0]
    for job, size in ((want, 1), (seen, rng.randint(2, 16))):
        at = 0
        while job.text is None and at < len(stream):
            part = slice(at, at + size)
            at += job.extend(stream[part], leads[part], end, bytes_of)
        taken[size > 1] = at
    assert (seen.text, seen.tokens, seen.near_ties) == (want.text, want.tokens, want.near_ties) and len(set(taken)) == 1


def test_sampling_follows_the_distribution_and_its_cuts():
    scores = torch.tensor([1.0, 3.0, 2.0, -1.0])
    uniforms = (np.arange(4_000) + 0.5) / 4_000

    def shares(sampling):
        counts = np.bincount([sampling.draw(scores, u) for u in uniforms], minlength=4)
        return counts / counts.sum()

    want = torch.softmax(scores.double() / 2.0, -1).numpy()
    np.testing.assert_allclose(shares(Sampling(2.0)), want, atol=1e-3)
    kept = want * (want >= np.sort(want)[-2])
    np.testing.assert_allclose(shares(Sampling(2.0, top_k=2)), kept / kept.sum(), atol=1e-3)
    p = torch.softmax(scores.double(), -1).numpy()  # .089 .657 .242 .012
    for top_p, ids in ((0.5, [1]), (0.7, [1, 2]), (0.95, [0, 1, 2])):
        nucleus = np.zeros(4)
        nucleus[ids] = p[ids]
        np.testing.assert_allclose(shares(Sampling(1.0, top_p=top_p)), nucleus / nucleus.sum(), atol=1e-3)


def test_samples_depend_on_the_request_alone():
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0))

    def draw(seed, prompt=(1, 2)):
        job = Generation(prompt, [], 20, Sampling(1.0), seed)
        return [job.draw(scores) for _ in range(20)]

    assert draw((0, 1)) == draw((0, 1))
    assert draw((0, 1)) != draw((0, 2)) != draw((1, 1)) and draw((0, 1)) != draw((0, 1), (1, 3))


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -2}])
def test_impossible_sampling_is_refused(bad):
    with pytest.raises(ValueError, match="need temperature >= 0"):
        Sampling(**{"temperature": 1.0, **bad})
