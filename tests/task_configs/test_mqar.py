"""Lists of pairs of words and the keys asked again: one token a word, nothing twice in a list, counts and scores."""

import os
import re
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tokenizers import Tokenizer

import tiny
from our_tasks import evaluate, load, manager
from recall_evals.results.statistics import clustered_standard_error, standard_error
from recall_evals.task_configs.mini.documents import rows_sha256
from recall_evals.task_configs.mqar.pairs import first_word, prompts
from recall_evals.task_configs.mqar.words import WORDS

PAIRS = (8, 16, 32, 64, 128, 256)
# Of the rows of mqar_64. Whoever changes them changes the benchmark.
GOLDEN = "4d3d5f51fe30dd2a220c728584ad5d7eb1633dd257b87d9a60f30596737ed1e2"
HASH = (
    "import sys; from recall_evals.task_configs.mini.documents import rows_sha256;"
    "from recall_evals.task_configs.mqar.pairs import prompts; print(rows_sha256(prompts(64, 64)),"
    " [name for name in ('torch', 'numpy', 'datasets', 'lm_eval') if name in sys.modules])"
)


class Reader(LM):
    """Says the word that follows the key in the list, but for lists of odd numbers with an `s` too many."""

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return [self.read(request.args[0], request.doc) for request in requests]

    def read(self, prompt: str, row: dict[str, Any]) -> str:
        listed, key = prompt.split("\nPair: ")
        found = re.search(rf" {key} (\w+)[,.]", listed)
        assert found is not None
        return f" {found[1]}" if int(row["doc_id"][-3:]) % 2 == 0 else f" {found[1]}s"

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError


def test_words() -> None:
    assert len(WORDS) == len(set(WORDS)) >= 2 * max(PAIRS)
    assert list(WORDS) == sorted(WORDS)
    assert all(re.fullmatch("[a-z]{3,7}", word) for word in WORDS)


def test_every_word_is_one_token_of_gpt2() -> None:
    file = tiny.shared("data/gpt2/tokenizer.json", "that every word is one GPT-2 token")
    tokenizer = Tokenizer.from_file(str(file))
    assert [word for word in WORDS if len(tokenizer.encode(f" {word}").ids) != 1] == []
    # In a prompt too: `Pairs`, `:`, three tokens a pair, a newline, `Pair`, `:`, the key.
    for row in prompts(16, 4):
        tokens = tokenizer.encode(row["text"]).tokens
        assert len([token for token in tokens if token.strip("Ġ") in WORDS]) == 33
        assert tokens[-1] == f"Ġ{row['key']}"
        assert f"Ġ{row['value']}" == tokenizer.encode(f"{row['text']} {row['value']}").tokens[-1]


@pytest.mark.parametrize("pairs", PAIRS)
def test_rows(pairs: int) -> None:
    rows = prompts(pairs, 64)
    assert len(rows) == 256
    assert Counter(Counter(row["doc_id"] for row in rows).values()) == {4: 64}
    for number, row in enumerate(rows):
        assert list(row) == ["doc_id", "key", "value", "depth", "pairs", "text"]
        assert row["doc_id"] == f"mqar-{pairs}-{number // 4:03d}" and row["pairs"] == pairs
        found = re.fullmatch(r"Pairs: ([a-z, ]+)\.\nPair: ([a-z]+)", row["text"])
        assert found is not None and found[2] == row["key"]
        listed = [pair.split(" ") for pair in found[1].split(", ")]
        assert len(listed) == pairs
        assert len({word for pair in listed for word in pair}) == 2 * pairs  # no key and no value twice, none is both
        place = round(row["depth"] * (pairs - 1))
        assert listed[place] == [row["key"], row["value"]]
        assert place in range(number % 4 * pairs // 4, (number % 4 + 1) * pairs // 4)
        assert row["text"].rpartition(" ")[0] == rows[number // 4 * 4]["text"].rpartition(" ")[0]  # a list is shared


def test_nothing_but_the_list_tells() -> None:
    rows = [row for pairs in PAIRS for row in prompts(pairs, 64)]
    values = Counter(row["value"] for row in rows)
    assert len(values) > 500 and max(values.values()) < 12
    assert {row["key"] for row in rows} & set(values)  # a word is a key here and a value there
    asked = Counter((row["key"], row["value"]) for row in rows)
    assert max(asked.values()) <= 2
    lists = {row["text"].split("\n")[0] for row in rows}
    assert len(lists) == 6 * 64


def test_golden_and_another_interpreter_with_the_standard_library_alone() -> None:
    assert rows_sha256(prompts(64, 64)) == GOLDEN
    assert prompts(64, 3) == prompts(64, 64)[:12]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", HASH]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{GOLDEN} []\n"


def test_first_word() -> None:
    assert first_word(" river, stone") == "river"
    assert first_word("river") == "river"
    assert first_word(" rivers") == "rivers"
    assert first_word("\n River.") == "River"
    assert first_word(", river") == first_word(" 7 river") == first_word("") == ""


def test_requests() -> None:
    names = {name for name in manager().all_subtasks if name.startswith("mqar")}
    assert names == {f"mqar_{pairs}" for pairs in PAIRS}
    for pairs in PAIRS:
        task = load(f"mqar_{pairs}")
        task.build_all_requests()
        rows = prompts(pairs, 64)
        assert [instance.doc for instance in task.instances] == rows
        for instance, row in zip(task.instances, rows, strict=True):
            assert instance.request_type == "generate_until"
            arguments = {"until": ["\n", ","], "max_gen_toks": 10, "temperature": 0.0, "do_sample": False}
            assert instance.args == (row["text"], arguments)
            assert task.doc_to_target(row) == row["value"]


def test_scores_and_both_standard_errors() -> None:
    results = evaluate(["mqar"], Reader())
    for pairs in PAIRS:
        name, rows = f"mqar_{pairs}", prompts(pairs, 64)
        found, metadata = results["results"][name], results["configs"][name]["metadata"]
        scores = [1 - int(row["doc_id"][-3:]) % 2 for row in rows]
        clusters = [row["doc_id"] for row in rows]
        assert found["exact_match,none"] == 0.5
        assert found["exact_match_stderr,none"] == pytest.approx(standard_error(scores))
        assert found["exact_match_stderr_clustered,none"] == pytest.approx(clustered_standard_error(scores, clusters))
        assert found["exact_match_stderr_clustered,none"] > 1.9 * found["exact_match_stderr,none"]
        assert results["n-samples"][name] == {"original": 256, "effective": 256}
        assert metadata["documents_sha256"] == rows_sha256(rows)
        assert metadata["documents"] == f"generated: mqar 1, 64 lists of {pairs} pairs"
        assert results["higher_is_better"][name] == {"exact_match": True, "exact_match_stderr_clustered": False}
    assert results["groups"]["mqar"]["exact_match,none"] == 0.5
    assert results["groups"]["mqar"]["exact_match_stderr,none"] == pytest.approx(0.03131 / 6**0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("field", "given", "remedy"),
    [
        ("pairs", 3, "a whole number from 4 to 256"),
        ("pairs", 257, "a whole number from 4 to 256"),
        ("pairs", None, "a whole number from 4 to 256"),
        ("lists", 0, "a whole number from 1 to 1000"),
        ("lists", 2.5, "a whole number from 1 to 1000"),
    ],
)
def test_fields_out_of_range(field: str, given: Any, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"mqar_8.yaml: metadata: field `{field}` is .*: give {remedy}"):
        load("mqar_8", {field: given})
