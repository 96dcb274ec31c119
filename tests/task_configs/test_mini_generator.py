"""The synthetic documents: facts that stand once, are spread out, can't be guessed and aren't shared by the splits."""

import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest

from recall_evals.task_configs.mini.documents import Document, Fact, Kind, documents, prompts, rows_sha256

KINDS: tuple[Kind, ...] = ("fda", "swde")
FOLDER = Path(__file__).resolve().parents[2] / "task_configs" / "mini"
# Of the rows of the validation split and of the first 50 training documents. Whoever changes them changes the
# benchmark: scores of before can't be compared with scores of after.
GOLDEN = {
    "fda": (
        "1ae9e47c324b739655c8429f75c7a25eb1bef22c42387e05fdf807102f354a39",
        "87b3249a6b6b013d0fa2b1abcf5ecee7e91d26e0c8e042a9084af04fcf8be0b8",
    ),
    "swde": (
        "004be1edc477a71794b733e9bec0b22a008a5f07823b036d3e89c8c7eb8f27dd",
        "083d606e4d3f0f0518d87fca172003d974f95263493c45668c3f43fd7541006f",
    ),
}
HASH_TRAIN = (
    "from recall_evals.task_configs.mini.documents import documents, rows_sha256; import sys;"
    "print(rows_sha256([{'text': d.text} for d in documents(sys.argv[1], 'train', 50)]),"
    " [name for name in ('torch', 'numpy', 'datasets', 'lm_eval') if name in sys.modules])"
)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture(scope="module")
def validation(kind: Kind) -> list[Document]:
    return list(documents(kind, "validation"))


@pytest.fixture(scope="module")
def train(kind: Kind) -> list[Document]:
    return list(documents(kind, "train", 2000))


def facts(those: Iterable[Document]) -> list[Fact]:
    return [fact for document in those for fact in document.facts]


def contains(prediction: str, value: str) -> bool:
    """lm-eval's score."""
    return re.search(re.escape(value), prediction, re.IGNORECASE) is not None


def test_sizes(kind: Kind, validation: list[Document], train: list[Document]) -> None:
    rows = prompts(kind)
    assert (len(validation), len(rows)) == (80, 480)
    assert Counter(row["doc_id"] for row in rows) == {document.doc_id: 6 for document in validation}
    assert len({document.doc_id for document in [*validation, *train]}) == 2080
    for document in [*validation, *train]:
        assert 3000 <= len(document.text) <= 6500
        assert 12 <= len(document.facts) <= 18
        assert all(1 <= len(fact.value.split()) <= 6 and len(fact.value) <= 44 for fact in document.facts)
    lengths = [len(document.text) for document in validation]
    assert max(lengths) - min(lengths) > 2000


def test_rows(kind: Kind, validation: list[Document]) -> None:
    by_id = {document.doc_id: document for document in validation}
    for row in prompts(kind):
        assert list(row) == ["doc_id", "key", "value", "text"]
        document = by_id[row["doc_id"]]
        assert row["text"] == f"{document.text}\n{row['key']}:"
        assert Fact(row["key"], row["value"]) in document.facts


def test_golden(kind: Kind) -> None:
    assert rows_sha256(prompts(kind)) == GOLDEN[kind][0]
    assert rows_sha256([{"text": document.text} for document in documents(kind, "train", 50)]) == GOLDEN[kind][1]


def test_another_interpreter_makes_the_same_with_the_standard_library_alone(kind: Kind) -> None:
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", HASH_TRAIN, kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{GOLDEN[kind][1]} []\n"


def test_a_document_depends_on_its_number_alone(kind: Kind, validation: list[Document], train: list[Document]) -> None:
    assert list(documents(kind, "train", 5, start=700)) == train[700:705]
    assert list(islice(documents(kind, "train", start=1998), 3))[:2] == train[1998:]
    assert list(documents(kind, "validation", 5, start=70)) == validation[70:75]
    assert list(documents(kind, "validation", start=78)) == validation[78:]
    with pytest.raises(ValueError, match="no split 'test'"):
        documents(kind, "test")  # type: ignore[arg-type]


def test_a_value_stands_once_and_right_after_its_key(
    kind: Kind, validation: list[Document], train: list[Document]
) -> None:
    flags, plural = (re.IGNORECASE, r"(?:\(s\))?") if kind == "fda" else (re.NOFLAG, "")
    for document in [*validation, *train]:
        lower, end = document.text.lower(), 0
        assert "\n" not in document.text
        assert len({fact.key for fact in document.facts}) == len(document.facts)
        for fact in document.facts:
            assert lower.count(fact.value.lower()) == 1
            # A report's field has a letter or number before it; its name may be in other case and in the prose.
            key = rf"(?:[A-Z]|\d)[.)] {fact.key}{plural}:" if kind == "fda" else rf"{fact.key}:?(?!\w)"
            (found,) = re.finditer(rf"(?<!\w){key}", document.text, flags)
            assert document.text[found.end() :].startswith(f" {fact.value}")
            assert end <= found.start()
            end = found.end()
            assert not any(fact.value.lower() in other.key.lower() for other in document.facts)
            assert not any(fact.value.lower() in other.value.lower() for other in document.facts if other is not fact)


def test_questions_are_spread_over_the_document(kind: Kind) -> None:
    quarters: Counter[int] = Counter()
    for row in prompts(kind):
        text, _, _ = row["text"].rpartition("\n")
        quarters[4 * text.index(row["value"]) // len(text)] += 1
    assert all(quarters[quarter] >= 0.15 * 480 for quarter in range(4)), quarters


def test_no_answer_can_be_guessed_from_its_key(kind: Kind, validation: list[Document], train: list[Document]) -> None:
    learnt: dict[str, Counter[str]] = defaultdict(Counter)
    for fact in facts(train):
        learnt[fact.key][fact.value.lower()] += 1
    # Within a large sample of a split, the best constant answer to a key is right for less than 3 % of its documents.
    for key, values in learnt.items():
        (guess, _), total = values.most_common(1)[0], values.total()
        assert sum(number for value, number in values.items() if contains(guess, value)) < 0.03 * total, key
    # In the validation split, whose keys have few documents each, no answer of one document is that of another,
    assert not [pair for pair, number in Counter(facts(validation)).items() if number > 1]
    for fact in (rows := [Fact(row["key"], row["value"]) for row in prompts(kind)]):
        assert not any(contains(other.value, fact.value) for other in rows if other.key == fact.key and other != fact)
        # nor is what one would learn from the training split.
        assert not contains(learnt[fact.key].most_common(1)[0][0], fact.value)


def test_no_value_of_a_reports_field_has_a_share_of_3_per_cent(kind: Kind, validation: list[Document]) -> None:
    """Of the validation documents with that field. A page's keys have too few documents for that: 8 topics share 80."""
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for fact in facts(validation):
        values[fact.key][fact.value.lower()] += 1
    assert all(max(found.values()) == 1 for found in values.values())
    assert kind == "swde" or all(1 / found.total() < 0.03 for found in values.values())


def test_splits_share_no_value_and_no_invented_word(validation: list[Document], train: list[Document]) -> None:
    assert not {fact.value.lower() for fact in facts(validation)} & {fact.value.lower() for fact in facts(train)}

    def words(those: list[Document]) -> set[str]:
        return {word for document in those for word in re.findall(r"[a-z]{4,}", document.text.lower())}

    # What both splits have are words of the templates, which stand in the generator's source as they are.
    source = "".join(file.read_text() for file in FOLDER.glob("*.py")).lower()
    known = set(re.findall(r"[a-z]+", source))
    known |= {f"{word}s" for word in known}
    shared = words(validation) & words(train)
    assert len(shared) > 500
    assert shared <= known
    assert len(words(validation) - known) > 800


def test_splits_share_no_passage_with_a_value(validation: list[Document], train: list[Document]) -> None:
    """Of 12 words."""
    with_value = set()
    for document in validation:
        for fact in document.facts:
            before, after = document.text.split(fact.value)
            around = " ".join(before.split(" ")[-11:]) + fact.value + " ".join(after.split(" ")[:12])
            with_value |= {passage for passage in passages(around) if fact.value.lower() in passage}
    assert len(with_value) > 5000
    for document in train:
        assert not with_value & passages(document.text)


def passages(text: str) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[start : start + 12]) for start in range(len(words) - 11)}


def test_the_text_has_no_seams(validation: list[Document], train: list[Document]) -> None:
    for document in [*validation, *train]:
        seam = re.search(r"  |\.\.|[{}|_\\]|\s[,.;:]|,,|\b[Aa] [aeiou]|\b[Aa]n [^aeiouX]|\. [a-z]", document.text)
        assert seam is None, document.text[max(0, seam.start() - 60) : seam.end() + 60]
        assert document.text == document.text.strip()
        assert document.text.isascii()
