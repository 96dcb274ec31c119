"""The prompts of a run: lm-eval's `samples_<task>_<date>.jsonl`, of any backend."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonlines

HASHES = ("doc_hash", "prompt_hash", "target_hash")


@dataclass(frozen=True)
class Sample:
    """One prompt, as one filter scored it.

    Attributes:
        id: lm-eval's `doc_id`, the row of the data set.
        hashes: of the document, the prompt and the answer asked for; what two runs are paired by.
        document: the cluster of standard errors; None where the run names none.
        doc: the row of the data set.
        prompt, target, answer: what was asked, what was to be said, and what the model said; of a multiple choice the
            likeliest choice.
        scores: by metric, those that are numbers.
    """

    id: int
    hashes: tuple[str, ...]
    filter: str
    document: str | None
    doc: Any
    prompt: str
    target: str
    answer: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class SamplesFile:
    """The samples that could be read, and what was wrong with the rest, a line each."""

    samples: list[Sample]
    problems: list[str]

    def fingerprint(self) -> str:
        """A hash of the documents, prompts and answers asked for, whatever their order and the filters."""
        lines = sorted({f"{sample.id} {' '.join(sample.hashes)}" for sample in self.samples})
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_samples(file: Path) -> SamplesFile:
    """Read what is whole. A line cut short or otherwise no sample is a problem, and no more than that."""
    samples: list[Sample] = []
    problems: list[str] = []
    for number, said in _objects(file, problems):
        try:
            samples.append(_sample(said))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"{file}: line {number} is no sample of lm-eval 0.4.13 ({type(error).__name__}: {error})")
    if not samples and not problems:
        problems.append(f"{file} is empty")
    return SamplesFile(samples, problems)


def _objects(file: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open("rb") as lines, jsonlines.Reader(lines) as reader:
        number = 0
        while True:
            number += 1
            try:
                yield number, reader.read(type=dict)
            except EOFError:
                return
            except (jsonlines.InvalidLineError, UnicodeDecodeError):
                problems.append(f"{file}: line {number} isn't a whole JSON object; what it asked is left out")


def _sample(said: Mapping[str, Any]) -> Sample:
    metrics = {str(name) for name in said["metrics"]}
    scores = {
        name: float(said[name])
        for name in metrics
        if isinstance(said.get(name), int | float) and math.isfinite(said[name])
    }
    first, *others = said["arguments"].values()
    answers = said["filtered_resps"]
    if others and isinstance(first.get("arg_1"), str) and len(answers) == len(others) + 1:  # of texts: choices
        answers = [_likeliest([first, *others], answers)]
    return Sample(
        id=int(said["doc_id"]),
        hashes=tuple(str(said[name]) for name in HASHES),
        filter=str(said["filter"]),
        document=_document(said, metrics),
        doc=said["doc"],
        prompt=str(first["arg_0"]),
        target=str(said["target"]),
        answer=str(answers[0]) if len(answers) == 1 else ", ".join(map(str, answers)),
        scores=scores,
    )


def _likeliest(asked: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[Any]]) -> str:
    """Of the choices asked after the same text, the one of the greatest log-likelihood.

    `acc_norm` may choose another, by the likelihood of a character; `acc_mutual_info` asks each without the text too.

    Args:
        answers: a log-likelihood each, and whether the choice is the greedy text.
    """
    alike = [i for i, given in enumerate(asked) if given["arg_0"] == asked[0]["arg_0"]]
    return str(asked[max(alike, key=lambda i: float(answers[i][0]))]["arg_1"])


def _document(said: Mapping[str, Any], metrics: set[str]) -> str | None:
    """What the task itself clusters by, else the document's id; None where there is neither."""
    pairs = (said.get(name) for name in metrics if name.endswith("_stderr_clustered"))
    found = next((pair[1] for pair in pairs if isinstance(pair, list) and len(pair) == 2), None)
    if found is None and isinstance(said["doc"], Mapping):
        found = said["doc"].get("doc_id")
    return None if found is None or found != found else str(found).strip() or None
