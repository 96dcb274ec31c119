"""The `jrt` protocols' cut, against numbers and strings written by hand; and where its tokenizer comes from."""

import re
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from recall_evals.task_configs.recall.cutting import (
    CLEANED,
    Cut,
    TokenizerNotFoundError,
    cut_document,
    is_dropped,
    load_gpt2,
    window,
)
from recall_evals.task_configs.recall.protocols import FORMS

Row = dict[str, Any]
GPT2 = Path(__file__).resolve().parents[3] / "shared" / "data" / "gpt2"
SUMMARY = "Summary of information above..."


@pytest.mark.parametrize(
    ("anchor", "length", "expected"),
    [
        (0, 100, (0, 20)),  # the beginning: all that isn't used before goes after
        (4, 100, (0, 20)),
        (10, 100, (0, 20)),
        (11, 100, (1, 21)),
        (50, 100, (40, 60)),
        (90, 100, (80, 100)),
        (99, 100, (89, 100)),  # the end: not the other way round
        (100, 100, (90, 100)),
        (7, 8, (0, 8)),  # shorter than the budget
        (0, 0, (0, 0)),
    ],
)
def test_window(anchor: int, length: int, expected: tuple[int, int]) -> None:
    assert window(anchor, length, 20) == expected


def test_window_of_an_odd_budget() -> None:
    assert window(50, 100, 21) == (40, 61)
    assert window(500, 2000, 950) == (25, 975)
    assert window(1990, 2000, 950) == (1515, 2000)


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    """A token is a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("questions", "row", "kept"),
    [
        # 8 characters: 4 before the anchor, 4 from it on.
        ("squad", {"text": f" {LETTERS} ", "value": "KLM"}, "ghijklmn"),
        ("squad", {"text": LETTERS, "value": "abc"}, "abcdefgh"),
        ("squad", {"text": LETTERS, "value": "cd"}, "abcdefgh"),
        ("squad", {"text": LETTERS, "value": "xyz"}, "tuvwxyz"),
        ("squad", {"text": LETTERS + LETTERS, "value": "KL"}, "ghijklmn"),  # the first of two
        ("squad", {"text": "a.c abc", "value": "a.c"}, "a.c abc"),  # literally
        # No match: the end but for a character.
        ("squad", {"text": LETTERS, "value": "no"[::-1]}, "vwxyz"),
        ("squad", {"text": LETTERS, "value": "on", "alt_answers": ["zy", "ef", "ab"]}, "abcdefgh"),
        ("squad", {"text": LETTERS, "value": "on", "alt_answers": None, "tok_pos": None}, "vwxyz"),
        ("squad", {"text": LETTERS, "value": "on", "tok_pos": 10}, "ghijklmn"),
        ("squad", {"text": "abcdefgh", "value": "on", "tok_pos": 0}, "defgh"),  # not longer than the budget
        ("squad", {"text": LETTERS, "value": "KL", "tok_pos": 20}, "ghijklmn"),
        # The key or the value, whichever is first.
        ("fda", {"text": LETTERS, "key": "Mno", "value": "uvw"}, "ijklmnop"),
        ("fda", {"text": LETTERS, "key": "uvw", "value": "mno"}, "ijklmnop"),
        ("swde", {"text": LETTERS, "key": "on", "value": "mno"}, "ijklmnop"),
        # The first answer, and no other; no anchor at all.
        ("nq", {"context": LETTERS, "answers": ["klm", "ab"]}, "ghijklmn"),
        ("triviaqa", {"context": LETTERS, "answers": ["klm"]}, "abcdefgh"),
        ("drop", {"context": LETTERS, "answers": ["klm"]}, "abcdefgh"),
        # Half a character at either end.
        ("squad", {"text": "éabcfghé", "value": "fg"}, "\N{REPLACEMENT CHARACTER}abcfgh\N{REPLACEMENT CHARACTER}"),
        ("squad", {"text": "", "value": "fg"}, ""),
    ],
)
def test_cut(characters: Tokenizer, questions: str, row: Row, kept: str) -> None:
    form = FORMS["jrt"][questions]
    cut = cut_document(row, form, Cut(characters, 8))
    assert cut == {**row, form.document: kept}
    assert FORMS["jrt-twice"][questions].anchors == form.anchors


def test_cut_then_prompt(characters: Tokenizer) -> None:
    """The key at the end goes only where the window reaches the end; swde's summary takes from the budget."""
    row = {"text": " The unit weighs 27 kg. It is grey.\nweight: ", "key": "weight", "value": "27 kg"}
    for budget, expected in ((12, "eighs 27 kg. Weight:"), (200, "The unit weighs 27 kg. It is grey. Weight:")):
        cut = Cut(characters, budget)
        assert FORMS["jrt"]["fda"].prompt(cut_document(row, FORMS["jrt"]["fda"], cut)) == expected
    twice = FORMS["jrt-twice"]["fda"].prompt(cut_document(row, FORMS["jrt-twice"]["fda"], Cut(characters, 12)))
    assert twice == "Information about Weight. eighs 27 kg.\neighs 27 kg. Weight:"
    page = {"text": f"Made in Oslo\n{SUMMARY} a: 1 b:", "key": "bb", "value": "Oslo"}
    form = FORMS["jrt"]["swde"]
    assert form.prompt(cut_document(page, form, Cut(characters, 16))) == "Made in Oslo\nSum. Bb:"
    assert form.prompt(cut_document(page, form, Cut(characters, 90))) == "Made in Oslo. Bb:"


@pytest.mark.parametrize(
    ("questions", "row", "dropped"),
    [
        ("fda", {"key": "k", "value": "27 kg"}, True),
        ("fda", {"key": "key", "value": "7"}, True),
        ("swde", {"key": "key", "value": ""}, True),
        ("swde", {"key": "ke", "value": "  "}, False),
        ("squad", {"key": "k", "value": "27"}, False),
        ("squad", {"value": "7"}, True),
        ("nq", {"answers": ["7", "seven"]}, True),
        ("nq", {"answers": ["seven", "7"]}, False),
        ("drop", {"answers": ["7"]}, False),
        ("triviaqa", {"answers": [""]}, False),
    ],
)
def test_dropped_rows(questions: str, row: Row, dropped: bool) -> None:
    assert is_dropped(row, FORMS["jrt"][questions]) == is_dropped(row, FORMS["jrt-twice"][questions]) == dropped
    assert not any(is_dropped(row, form) for form in FORMS["based"].values())


def test_blanks_before_punctuation_go_as_transformers_took_them(characters: Tokenizer) -> None:
    text = "It is n't so , he 's sure . Is n't it ? ' quoted ' They 've been , we 're , I 'm ! a .b"
    expected = "It isn't so, he's sure. Isn't it?'quoted'They've been, we're, I'm! a.b"
    cut = Cut(characters, 8)
    assert cut.text(cut.tokens(text)) == expected
    clean: Any = PreTrainedTokenizerBase.clean_up_tokenization
    assert clean(None, text) == expected
    assert clean(None, "".join(f"x{before}y" for before, _ in CLEANED)) == cut.text(
        cut.tokens("".join(f"x{before}y" for before, _ in CLEANED))
    )
    raw = Cut(characters, 8, clean_up_spaces=False)
    assert raw.text(raw.tokens(text)) == text


@pytest.mark.skipif(not GPT2.is_dir(), reason="no ../shared/data/gpt2: would cut a text by GPT-2's own tokens")
def test_cut_by_gpt2() -> None:
    tokenizer, sha256 = load_gpt2(str(GPT2))
    assert re.fullmatch("[0-9a-f]{64}", sha256)
    # Words of one token each: " word" but for the first.
    words = " ".join(["one two three four five six seven eight nine ten"] * 10)
    cut = Cut(tokenizer, 10)
    assert len(cut.tokens(words)) == 100
    row = {"context": words.replace("six", "dog", 5).replace("dog", "six", 4), "answers": ["DOG"]}
    # The tokens before " dog" end with a blank, a token of its own: the anchor is one further on than the word.
    assert cut_document(row, FORMS["jrt"]["nq"], cut)["context"] == " two three four five dog seven eight nine ten one"
    beginning = {"context": words, "answers": ["x"]}
    expected = "one two three four five six seven eight nine ten"
    assert cut_document(beginning, FORMS["jrt"]["drop"], cut)["context"] == expected
    assert cut.text(cut.tokens("Ends.<|endoftext|>Starts , again")) == "Ends.Starts, again"


def test_tokenizer_from_a_file_a_folder_or_nowhere(
    characters: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    characters.save(str(tmp_path / "tokenizer.json"))
    from_file, from_folder = load_gpt2(str(tmp_path / "tokenizer.json")), load_gpt2(str(tmp_path))
    assert from_file[1] == from_folder[1]
    assert from_folder[0].encode("abc").ids == characters.encode("abc").ids
    monkeypatch.setenv("RECALL_EVALS_GPT2", str(tmp_path))
    assert load_gpt2()[1] == from_file[1]
    monkeypatch.setenv("RECALL_EVALS_GPT2", str(tmp_path / "absent"))
    with pytest.raises(TokenizerNotFoundError, match=r"no file .*absent.*RECALL_EVALS_GPT2.*cut_tokenizer"):
        load_gpt2()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerNotFoundError, match=r"tokenizer.json can't be read.*RECALL_EVALS_GPT2"):
        load_gpt2(str(tmp_path))
