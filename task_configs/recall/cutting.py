"""The `jrt` protocols' cut: of a document, N tokens around the first place of the key or the answer.

With a the number of tokens before that place, L those of the whole document and B = context_length - answer_length:

    start = max(0, a - B // 2),    end = min(L, a + B - (a - start)),    document = decode(tokens[start:end])

Tokens are GPT-2's, whatever model is evaluated. Source: the fork of lm-eval behind Just Read Twice (arXiv 2407.05483).
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from .protocols import Form, Row

TOKENIZER_VARIABLE = "RECALL_EVALS_GPT2"
HUB_ID = "openai-community/gpt2"
FILE = "tokenizer.json"

# What Transformers did to every decoded text when the published numbers were made, in this order: it was the default
# until version 4.45 began to change it, and GPT-2's tokenizer doesn't say otherwise.
CLEANED = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class TokenizerNotFoundError(FileNotFoundError):
    """GPT-2's tokenizer can't be had; the message names where it was looked for and the remedy."""


@dataclass(frozen=True)
class Cut:
    """GPT-2's tokenizer, the tokens that may stay (B above), and whether blanks before punctuation go as they did."""

    tokenizer: Tokenizer
    budget: int
    clean_up_spaces: bool = True

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids

    def text(self, tokens: Sequence[int]) -> str:
        text = str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))
        for before, after in CLEANED if self.clean_up_spaces else ():
            text = text.replace(before, after)
        return text


def is_dropped(row: Row, form: Form) -> bool:
    """Whether the protocol leaves the row out: what it would look for has at most one character."""
    return any(len(_first(row[column])) <= 1 for column in form.anchors or ())


def cut_document(row: Row, form: Form, cut: Cut) -> dict[str, Any]:
    """The row with its document cut. The form must have anchors."""
    context = row[form.document].strip()
    offset = anchor_offset(row, form, context)
    # A place that isn't found counts as the end, but for the last character: the fork slices up to -1.
    anchor = len(cut.tokens(context[: -1 if offset is None else offset]))
    if offset is None and row.get("tok_pos") is not None and anchor > cut.budget:
        anchor = row["tok_pos"]
    tokens = cut.tokens(context)
    start, end = window(anchor, len(tokens), cut.budget)
    return {**row, form.document: cut.text(tokens[start:end])}


def anchor_offset(row: Row, form: Form, context: str) -> int | None:
    """The character around which to cut: the first match of any anchor in any case; None where there is no match."""
    if not form.anchors:
        return 0
    offsets = [_find(_first(row[column]), context) for column in form.anchors]
    found = [offset for offset in offsets if offset is not None]
    if found:
        return min(found)
    others = (_find(answer, context) for answer in row.get("alt_answers") or ())
    return next((offset for offset in others if offset is not None), None)


def window(anchor: int, length: int, budget: int) -> tuple[int, int]:
    """The tokens that stay, as (start, end).

    Half of the budget before the anchor, and the rest after it; what isn't used before the anchor goes after it, but
    not the other way round: at the document's end only half the budget stays.
    """
    start = max(0, anchor - budget // 2)
    return start, min(length, anchor + budget - (anchor - start))


def load_gpt2(source: str | None = None) -> tuple[Tokenizer, str]:
    """GPT-2's tokenizer and the SHA-256 of its file.

    Args:
        source: a tokenizer.json or the folder that holds one; without it `$RECALL_EVALS_GPT2`, and without that the
            hub, or its cache.

    Raises:
        TokenizerNotFoundError: not there, not to be had or not to be read.
    """
    place = source or os.environ.get(TOKENIZER_VARIABLE, "").strip()
    file = _local_file(place) if place else _hub_file()
    try:
        content = file.read_bytes()
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # `tokenizers` raises Exception itself
        raise TokenizerNotFoundError(f"{file} can't be read as a tokenizer: {_line(error)}. {_remedy()}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, hashlib.sha256(content).hexdigest()


def _local_file(place: str) -> Path:
    path = Path(place).expanduser()
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise TokenizerNotFoundError(f"No GPT-2 tokenizer, by which the protocol cuts: no file {file}. {_remedy()}")
    return file


def _hub_file() -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(HUB_ID, FILE))
    except (OSError, ValueError) as error:
        raise TokenizerNotFoundError(
            f"No GPT-2 tokenizer, by which the protocol cuts: {HUB_ID}/{FILE} is not in the hub's cache and can't be "
            f"fetched ({_line(error)}). {_remedy()}"
        ) from error


def _remedy() -> str:
    return f"Set ${TOKENIZER_VARIABLE}, or `cut_tokenizer` under the task's `metadata`, to a {FILE} or its folder."


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _first(answer: str | Sequence[str]) -> str:
    return answer if isinstance(answer, str) else answer[0]


def _find(answer: str, context: str) -> int | None:
    match = re.search(re.escape(answer), context, re.IGNORECASE)
    return match.start() if match else None
