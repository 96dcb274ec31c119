"""Needles in haystacks: RULER's words, numbers that can't be guessed, depths that are where they say, exact counts."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tokenizers import Tokenizer

import tiny
from our_tasks import evaluate, load, manager
from recall_evals.results.statistics import clustered_standard_error, standard_error
from recall_evals.task_configs.mini.documents import documents, rows_sha256
from recall_evals.task_configs.mini.words import Draw
from recall_evals.task_configs.needle.haystacks import PASSAGES, haystack, hide, passage
from recall_evals.task_configs.needle.questions import LENGTHS, NEEDLES, Kind, prompts, recall

KINDS: tuple[Kind, ...] = ("single", "multikey", "multivalue")
SHORT, LONG = ("512", "1k", "2k", "4k"), ("8k", "16k", "32k", "64k", "128k")
NEEDLE = re.compile(r"One of the special magic numbers for ([a-z]+-[a-z]+) is: (\d{7})\.")
# Of all rows of the 1k tasks. Whoever changes them changes the benchmark.
GOLDEN = {
    "single": "d80f0ceb7c879d3f953199e00e782fd2cb4b327e104c8ee151e61ec3b0c3753e",
    "multikey": "fef917a37d45487b9d6364beea296080f6effb53091f37357a5e960e08e2dc87",
    "multivalue": "ceb19badf1bcafa6dd636a1c888d4ffbf6c16335617544b24d93fe099d53026f",
}
HASH = (
    "import sys; from recall_evals.task_configs.mini.documents import rows_sha256;"
    "from recall_evals.task_configs.needle.questions import prompts;"
    "print(rows_sha256(prompts('multikey', '1k', 11, 5)),"
    " [name for name in ('torch', 'numpy', 'datasets', 'lm_eval') if name in sys.modules])"
)


class Answerer(LM):
    """Says what `answer` makes of a row; keeps the requests."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer, self.asked = answer, list[Instance]()

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self.asked += requests
        return [self.answer(request.doc) for request in requests]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError


def haystacks_of(kind: Kind) -> int:
    return 5 if kind == "multikey" else 20


def parts(row: dict[str, Any]) -> tuple[str, str, str]:
    """Introduction, haystack with its needles, question."""
    introduction, context, question = row["text"].split("\n")
    return introduction, context, question


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(scope="module", params=("512", "2k"))
def rows(request: pytest.FixtureRequest, kind: Kind) -> list[dict[str, Any]]:
    return prompts(kind, request.param, 11, haystacks_of(kind))


def test_rulers_words(kind: Kind) -> None:
    row = prompts(kind, "512", 11, 1)[0]
    introduction, context, question = parts(row)
    if kind == "multivalue":
        assert introduction == (
            "Some special magic numbers are hidden within the following text. Make sure to memorize it. "
            "I will quiz you about the numbers afterwards."
        )
        assert question == (
            f"What are all the special magic numbers for {row['key']} mentioned in the provided text? "
            f"The special magic numbers for {row['key']} mentioned in the provided text are"
        )
    else:
        assert introduction == (
            "A special magic number is hidden within the following text. Make sure to memorize it. "
            "I will quiz you about the number afterwards."
        )
        assert question == (
            f"What is the special magic number for {row['key']} mentioned in the provided text? "
            f"The special magic number for {row['key']} mentioned in the provided text is"
        )
    for value in row["values"]:
        assert f"One of the special magic numbers for {row['key']} is: {value}." in context


def test_needles_stand_once_and_nothing_else_looks_like_them(kind: Kind, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        _, context, question = parts(row)
        needles = NEEDLE.findall(context)
        assert len(needles) == NEEDLES[kind] == context.count("special magic")
        assert len({value for _, value in needles}) == len(needles)
        assert len({key for key, _ in needles}) == (NEEDLES[kind] if kind == "multikey" else 1)
        assert [value for key, value in needles if key == row["key"]] == row["values"]
        assert row["value"] == row["values"][0]
        for value in row["values"]:
            assert row["text"].count(value) == 1
        assert len(re.findall(r"\d{7,}", row["text"])) == NEEDLES[kind]
        assert NEEDLE.sub("", context).count(row["key"]) == 0
        assert question.count(row["key"]) == 2


def test_depths(kind: Kind, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        _, context, _ = parts(row)
        bare = NEEDLE.sub("", context)
        assert row["depth"] == row["depths"][0] and len(row["depths"]) == len(row["values"])
        for value, depth in zip(row["values"], row["depths"], strict=True):
            before = NEEDLE.sub(
                "", context[: context.index(f"One of the special magic numbers for {row['key']} is: {value}")]
            )
            # Sentences have at most 160 characters, needles stand at the nearer end of one.
            assert abs(len(before) - depth * len(bare)) <= 85
            assert (depth == 0) <= (before == "") and (depth == 1) <= (len(bare) - len(before) <= NEEDLES[kind])


def test_every_depth_is_asked_alike_and_at_once(kind: Kind, rows: list[dict[str, Any]]) -> None:
    asked = Counter(depth for row in rows for depth in row["depths"])
    assert len(rows) == 220
    assert asked == {step / 10: len(rows) * (4 if kind == "multivalue" else 1) // 11 for step in range(11)}
    first = Counter(depth for row in rows[:50] for depth in row["depths"])
    assert len(first) == 11 and max(first.values()) - min(first.values()) <= 2
    clusters = Counter(row["doc_id"] for row in rows)
    assert set(clusters.values()) == {4 if kind == "multikey" else 1}
    for row, other in pairwise(rows):  # only the question differs, so that the haystack is read once
        assert (row["doc_id"] == other["doc_id"]) == (parts(row)[:2] == parts(other)[:2])


def test_lengths_in_characters(kind: Kind) -> None:
    for length, tokens in LENGTHS.items():
        some = prompts(kind, length, 11, 1)[:4]
        assert all(3.9 * tokens - 170 < len(row["text"]) <= 3.9 * tokens and row["length"] == length for row in some)


def test_lengths_in_gpt2_tokens(kind: Kind) -> None:
    file = tiny.shared("data/gpt2/tokenizer.json", "that prompts have about as many GPT-2 tokens as they say")
    tokenizer = Tokenizer.from_file(str(file))
    for length in ("2k", "4k", "8k"):
        for row in prompts(kind, length, 11, 1)[::4]:
            # With 48 tokens of an answer, too.
            assert 0.87 * LENGTHS[length] < len(tokenizer.encode(row["text"]).ids) <= LENGTHS[length] - 48


def test_golden(kind: Kind) -> None:
    assert rows_sha256(prompts(kind, "1k", 11, haystacks_of(kind))) == GOLDEN[kind]


def test_another_interpreter_makes_the_same_with_the_standard_library_alone() -> None:
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", HASH]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{GOLDEN['multikey']} []\n"


def test_a_document_depends_on_length_depths_and_index_alone() -> None:
    by_id = {row["doc_id"]: row for row in prompts("single", "512", 21, 2)}
    for row in prompts("single", "512", 11, 3):
        index = int(row["doc_id"].rpartition("-")[2])
        assert (index < 2) == (row == by_id.get(row["doc_id"]))


def test_values_cannot_be_guessed() -> None:
    values = Counter[str]()
    for kind in KINDS:
        for length in SHORT:
            found = {value for row in prompts(kind, length, 11, haystacks_of(kind)) for value in row["values"]}
            values.update(found)
            assert len(found) == (880 if kind == "multivalue" else 220)  # no number in two haystacks of a task
    digits = [Counter(value[place] for value in values) for place in range(7)]
    assert set(digits[0]) == set("123456789")
    for place in digits:
        assert max(place.values()) < 1.25 * values.total() / len(place)


def test_no_passage_is_a_mini_document_and_none_repeats() -> None:
    sentences = [sentence for number in range(PASSAGES) for sentence in passage(number)]
    assert all(20 < len(sentence) <= 170 and sentence.endswith((".", "!")) for sentence in sentences)
    text = " ".join(sentences)
    assert text.isascii() and re.search(r"  |\.\.|[{}|_\\]|\s[,.;:]|\b[Aa] [aeiou]|\. [a-z]", text) is None
    long = haystack(Draw("any"), 500_000)
    # Some short sentences name nobody and come in several passages.
    assert len(set(long)) > 0.8 * len(long)
    train = {
        word for document in documents("fda", "train", 300) for word in re.findall(r"[A-Z][a-z]{6,}", document.text)
    }
    names = set(re.findall(r"(?<=[a-z] )[A-Z][a-z]{6,}", text))
    assert len(names) > 500 and len(names & train) < 0.05 * len(names)


def test_hide() -> None:
    sentences = ["aaa.", "bbb.", "ccc.", "ddd."]
    assert hide(["N."], [0], sentences) == "N. aaa. bbb. ccc. ddd."
    assert hide(["N."], [1], sentences) == "aaa. bbb. ccc. ddd. N."
    assert hide(["N."], [0.5], sentences) == "aaa. bbb. N. ccc. ddd."
    assert hide(["N."], [0.6], sentences) == "aaa. bbb. N. ccc. ddd."
    assert hide(["N."], [0.65], sentences) == "aaa. bbb. ccc. N. ddd."
    assert hide(["M.", "N."], [0.75, 0.25], sentences) == "aaa. N. bbb. ccc. M. ddd."
    assert hide(["M.", "N."], [1, 1], sentences) == "aaa. bbb. ccc. ddd. M. N."


def test_long_haystacks_are_made_fast_and_never_too_long() -> None:
    prompts("single", "128k", 11, 1)
    began = time.perf_counter()
    (*_, last) = prompts("single", "128k", 11, 2)
    assert time.perf_counter() - began < 22 * 0.5  # in fact 0.003 s each; the machine may be busy
    assert len(last["text"]) > 511_000
    with pytest.raises(ValueError, match="2,000,000 characters is too long"):
        haystack(Draw("any"), 2_000_000)


def test_recall() -> None:
    assert recall(" 1234567.", ["1234567"]) == 1
    assert recall(" 123456.", ["1234567"]) == 0
    assert recall(" 1, 2, and 4", ["1", "2", "3", "4"]) == 0.75
    assert recall(" ABC", ["abc"]) == 1


def test_names_and_listing() -> None:
    found = manager()
    names = {f"needle_{kind}_{length}" for kind in KINDS for length in (*SHORT, *LONG)}
    assert {name for name in found.all_subtasks if name.startswith("needle_")} == names
    for name in names:
        fields = found.task_index[name].cfg
        assert fields is not None
        kind, length = name.split("_")[1:]
        counts = (5 if kind == "multikey" else 20) if length in SHORT else (2 if kind == "multikey" else 5)
        made = fields["metadata"] | {"length": str(fields["metadata"]["length"])}
        assert made == {"kind": kind, "length": length, "depths": 11, "haystacks": counts}


@pytest.mark.parametrize(("name", "tokens"), [("needle_multikey_512", 16), ("needle_multivalue_512", 48)])
def test_requests(name: str, tokens: int) -> None:
    task = load(name)
    task.build_all_requests()
    kind: Any = name.split("_")[1]
    expected = prompts(kind, "512", 11, haystacks_of(kind))
    assert [instance.doc for instance in task.instances] == expected
    for instance, row in zip(task.instances, expected, strict=True):
        assert instance.request_type == "generate_until"
        text, arguments = instance.args
        assert text == row["text"]
        assert arguments == {"until": ["\n"], "max_gen_toks": tokens, "temperature": 0.0, "do_sample": False}
        assert task.doc_to_target(row) == ", ".join(row["values"])
    assert task.VERSION == 1


def test_scores_and_both_standard_errors() -> None:
    def answer(row: dict[str, Any]) -> str:
        """All the right numbers in the haystack's first half, half of several."""
        right = row["values"] if row["depth"] < 0.5 else row["values"][: len(row["values"]) // 2]
        return f" {', '.join(right)}."

    names = [f"needle_{kind}_512" for kind in KINDS]
    results = evaluate(names, Answerer(answer))
    for name in names:
        found, metadata = results["results"][name], results["configs"][name]["metadata"]
        kind: Any = name.split("_")[1]
        rows = prompts(kind, "512", 11, haystacks_of(kind))
        scores = [recall(answer(row), row["values"]) for row in rows]
        clusters = [row["doc_id"] for row in rows]
        assert found["contains,none"] == pytest.approx(sum(scores) / len(scores))
        assert found["contains_stderr,none"] == pytest.approx(standard_error(scores))
        assert found["contains_stderr_clustered,none"] == pytest.approx(clustered_standard_error(scores, clusters))
        assert results["n-samples"][name] == {"original": 220, "effective": 220}
        assert metadata["documents_sha256"] == rows_sha256(rows)
        assert metadata["documents"] == f"generated: needle 1, {kind}, 512, {haystacks_of(kind)} at each of 11 depths"
        assert results["higher_is_better"][name] == {"contains": True, "contains_stderr_clustered": False}
        assert results["versions"][name] == 1


@pytest.mark.parametrize(
    ("field", "given", "remedy"),
    [
        ("length", "3k", "one of 512, 1k, 2k, 4k, 8k, 16k, 32k, 64k, 128k"),
        ("length", None, "one of 512"),
        ("kind", "multiquery", "one of single, multikey, multivalue"),
        ("depths", 3, "a whole number from 4 to 101"),
        ("depths", 102, "a whole number from 4 to 101"),
        ("depths", "11", "a whole number from 4 to 101"),
        ("haystacks", 0, "a whole number from 1 to 1000"),
        ("haystacks", True, "a whole number from 1 to 1000"),
    ],
)
def test_fields_out_of_range(field: str, given: Any, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"needle_single_512.yaml: metadata: field `{field}` is .*: give {remedy}"):
        load("needle_single_512", {field: given})


def test_fields_can_be_given_on_the_command_line() -> None:
    task = load("needle_single_512", {"depths": 4, "haystacks": 2, "length": "1k"})
    assert [row["depth"] for row in task.eval_docs] == [0, 1 / 3, 2 / 3, 1] * 2
    assert set(task.eval_docs["length"]) == {"1k"}


def test_cached_requests_follow_the_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["lm_eval.caching.cache"], "PATH", str(tmp_path))

    def asked(metadata: dict[str, Any]) -> list[str]:
        task = load("needle_single_512", metadata)
        task.build_all_requests(cache_requests=True)
        return [instance.args[0] for instance in task.instances]

    for depths in (4, 5, 4):
        assert asked({"depths": depths}) == [row["text"] for row in prompts("single", "512", depths, 20)]
    assert len(list(tmp_path.iterdir())) == 2
