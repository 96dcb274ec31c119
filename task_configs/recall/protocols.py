"""The named protocols: pure functions of a row in its published schema to the prompt and the labels.

| protocol | source |
|---|---|
| `lm-eval-v1` | lm-eval's `swde`, `fda`, `squad_completion`, version 1 |
| `based` | the fork of lm-eval behind BASED's published table (arXiv 2402.18668) |
| `jrt` | the fork behind the tables of Just Read Twice (arXiv 2407.05483), given a document that `cutting.py` cut |
| `jrt-twice` | the same with the document in the prompt twice |

Each keeps the quirks of its source, which the README lists; nothing here repairs one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

SUMMARY = "Summary of information above..."  # SWDE: after it the keys and values that were asked before
MARKS = re.compile(r"\[PAR\]|\[DOC\]|\[TLE\]")  # TriviaQA: paragraphs, documents and titles


@dataclass(frozen=True)
class Form:
    """How one protocol asks the questions of one data set.

    Attributes:
        prompt: the prompt of a row, whose document is cut already where `anchors` is given.
        columns: texts that the prompt and the cut read. None may be missing.
        answers: the column of the answer, or of the list of answers, each as good as the others.
        document: the column that holds the document.
        anchors: columns whose contents the cut looks for, () for the document's start; None where nothing is cut.
        strip: whether the label is stripped.
        overlap: whether `exact` and `f1` are scored, beside `contains`.
    """

    prompt: Callable[[Row], str]
    columns: tuple[str, ...]
    answers: str = "value"
    document: str = "text"
    anchors: tuple[str, ...] | None = None
    strip: bool = False
    overlap: bool = False

    def labels(self, row: Row) -> list[str]:
        """The answers any of which counts as right."""
        labels = row[self.answers] if isinstance(row[self.answers], list) else [row[self.answers]]
        return [label.strip() for label in labels] if self.strip else list(labels)


def whole_text(row: Row) -> str:
    return str(row["text"])


def stripped_text(row: Row) -> str:
    return str(row["text"]).strip()


def swde(row: Row) -> str:
    document = _swde_document(row).strip("\n").strip().strip("\n").strip().strip(".") + "."
    return f"{document} {_upper_key(row)}:"


def swde_twice(row: Row) -> str:
    # Dots go before blanks here, so more than one may stay at the end: "page.. " stays "page..".
    document = _one_dot(_swde_document(row).strip("\n").strip(".").strip().strip("\n").strip())
    return _asked_twice(document, row)


def fda(row: Row) -> str:
    return f"{_fda_document(row)} {_upper_key(row)}:"


def fda_twice(row: Row) -> str:
    return _asked_twice(_fda_document(row), row)


def squad_twice(row: Row) -> str:
    """Only `text` was cut: the passage read first is whole."""
    return f"{row['question']} {row['context'].split('Question:')[0]}\n{row['text'].strip()}"


def drop(row: Row) -> str:
    question = row["question"].strip()
    return _then_question(without_endings(row["context"].strip(), question), question)


def drop_twice(row: Row) -> str:
    """NQ's too."""
    question = row["question"].strip()
    context = without_endings(row["context"].strip(), question)
    return _context_twice(row["orig_question"].strip(":"), context, question)


def nq(row: Row) -> str:
    question = row["question"].strip()
    return _then_question(row["context"].strip().removesuffix(question), question)  # once, and in this very case


def triviaqa(row: Row) -> str:
    question = row["question"].strip()
    return _then_question(without_endings(MARKS.sub("", row["context"].strip()), question), question)


def triviaqa_twice(row: Row) -> str:
    question = row["question"].strip()
    context = without_endings(MARKS.sub("", row["context"].strip()), question)
    return _context_twice(row["orig_question"], context, question)


def without_endings(text: str, ending: str) -> str:
    """The text without the ending, as often as it stands there, in any case. The ending must not be empty."""
    while text.lower().endswith(ending.lower()):
        text = text[: -len(ending)]
    return text


def document_of(row: Row, form: Form) -> str:
    """The document without the question: what an answer is looked for in, and what prompts have in common."""
    if form.document != "text":
        return str(row[form.document])
    if isinstance(row.get("context"), str):
        return str(row["context"]).split("Question:")[0]
    document, mark, _ = row["text"].partition(SUMMARY)
    if mark:
        return str(document)
    return str(row["text"].strip().rpartition("\n")[0] or row["text"])


def _upper_key(row: Row) -> str:
    return str(row["key"][0].upper() + row["key"][1:])


def _swde_document(row: Row) -> str:
    return without_endings(row["text"].split(SUMMARY)[0], row["key"] + ":")


def _fda_document(row: Row) -> str:
    return without_endings(row["text"], row["key"] + ":").strip("\n").strip(".") + "."


def _one_dot(document: str) -> str:
    return document if document.endswith(".") else document + "."


def _asked_twice(document: str, row: Row) -> str:
    key = _upper_key(row)
    return f"Information about {key.strip(':')}. {document}\n{document} {key}:"


def _then_question(context: str, question: str) -> str:
    return f"{context.strip().strip('.')}. {question}"


def _context_twice(first_question: str, context: str, question: str) -> str:
    document = context.strip().strip(".").strip() + "."
    return f"{first_question} {document}\n{document} {question}"


_ASKED = ("context", "question")
_ASKED_TWICE = (*_ASKED, "orig_question")

FORMS: dict[str, dict[str, Form]] = {
    "lm-eval-v1": {name: Form(stripped_text, ("text",), strip=True) for name in ("swde", "fda", "squad")},
    "based": {name: Form(whole_text, ("text",)) for name in ("swde", "fda", "squad")},
    "jrt": {
        "swde": Form(swde, ("text", "key"), anchors=("key", "value")),
        "fda": Form(fda, ("text", "key"), anchors=("key", "value")),
        "squad": Form(stripped_text, ("text",), anchors=("value",), overlap=True),
        "nq": Form(nq, _ASKED, "answers", "context", anchors=("answers",)),
        "triviaqa": Form(triviaqa, _ASKED, "answers", "context", anchors=(), overlap=True),
        "drop": Form(drop, _ASKED, "answers", "context", anchors=()),
    },
    "jrt-twice": {
        "swde": Form(swde_twice, ("text", "key"), anchors=("key", "value")),
        "fda": Form(fda_twice, ("text", "key"), anchors=("key", "value")),
        "squad": Form(squad_twice, ("text", "question", "context"), anchors=("value",), overlap=True),
        "nq": Form(drop_twice, _ASKED_TWICE, "answers", "context", anchors=("answers",)),
        "triviaqa": Form(triviaqa_twice, _ASKED_TWICE, "answers", "context", anchors=(), overlap=True),
        "drop": Form(drop_twice, _ASKED_TWICE, "answers", "context", anchors=()),
    },
}
"""The form of a protocol's questions about a data set; `nq` is the same for its three lengths."""
