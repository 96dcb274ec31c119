"""What a protocol does to a score, and where a perplexity gap lies: the numbers and the plain sentences.

Scores are rows of lm-eval's runs, perplexities what `recall-evals ppl` wrote. Of a gap between two models on the same
tokens, the part in the hits is the sum of the differences over hits, in nats a token of all:

    hits = share · difference,    others = (1 - share) · difference

Of scores s[m, p] of models m under protocols p on the same data, what each does to a score is the mean spread:

    by protocol = mean_m (max_p s[m, p] - min_p s[m, p]),    by model = mean_p (max_m s[m, p] - min_m s[m, p])
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import hypot
from pathlib import Path
from typing import Any

from .row import Row, mismatches
from .samples import Sample, read_samples

PROTOCOLS = {"lm-eval-v1": "local_", "based": "local_based_", "jrt": "local_jrt_", "jrt-twice": "local_jrt_twice_"}
WITHOUT = "no document"  # the control
DATA_SETS = ("fda", "swde", "squad")
PREFIX = "bundled:"  # of checkpoints that come with the package

Perplexities = Mapping[str, Any]  # one result of `recall-evals ppl`


@dataclass(frozen=True)
class Asked:
    """What a task's prompts were.

    Attributes:
        documents: clusters of its standard error.
        lost: prompts without the answer that stands in their document, which the protocol's cut took away.
        floor: `most_frequent`.
    """

    documents: int
    lost: int
    floor: float | None


@dataclass(frozen=True)
class Part:
    """A model's gap to the first one on a text, in nats a token, and how much of it lies in the hits."""

    text: str
    model: str
    difference: float
    hits: float

    @property
    def others(self) -> float:
        return self.difference - self.hits

    @property
    def share(self) -> float:
        return self.hits / self.difference if self.difference else 0.0


@dataclass(frozen=True)
class Spread:
    """How far scores on a data set lie apart.

    Attributes:
        by_protocol, by_model: as above.
        orders: of the models, by protocol, the best first.
        furthest: the model whose score moves most between protocols, how far, and under which it is lowest.
        close: protocols under which neighbours in the order are nearer than two standard errors of their difference,
            taken as unpaired.
    """

    data: str
    by_protocol: float
    by_model: float
    orders: Mapping[str, tuple[str, ...]]
    furthest: tuple[str, float, str]
    close: tuple[str, ...]


class Scores:
    """Rows by task and model, the models in the order of their mean score, the best first.

    Raises:
        ValueError: rows of a task that can't be compared, are of two models of one name, or have no samples; names the
            task and the field.
    """

    def __init__(self, rows: Sequence[Row]):
        self.rows: dict[str, dict[str, Row]] = {}
        for row in rows:
            models = self.rows.setdefault(row.task, {})
            if (name := short_name(row.model)) in models:
                raise ValueError(f"{row.task}: {models[name].source} and {row.source} are both of {name}; give one")
            models[name] = row
        for task, models in self.rows.items():
            (first, one), *others = models.items()
            for model, other in others:
                if differences := mismatches(one, other):
                    raise ValueError(
                        f"{task}: {first} and {model} were asked otherwise ({differences[0]}); run them alike"
                    )
        found: dict[str, list[float]] = {}
        for models in self.rows.values():
            for model, row in models.items():
                found.setdefault(model, []).append(row.value)
        self.models = sorted(found, key=lambda model: (-sum(found[model]) / len(found[model]), model))
        self.asked = {task: _asked(task, next(iter(models.values()))) for task, models in self.rows.items()}

    def any_row(self, task: str) -> Row:
        return next(iter(self.rows[task].values()))

    def of_model(self, model: str) -> list[Row]:
        return [models[model] for models in self.rows.values() if model in models]

    def kept(self) -> list[Row]:
        """All rows, each with what its prompts were, so that the page can be made without the samples."""
        return [
            replace(row, source="", samples=None, reported={**row.reported, "asked": asdict(self.asked[task])})
            for task, models in self.rows.items()
            for row in models.values()
        ]


def _asked(task: str, row: Row) -> Asked:
    if row.samples is None:
        if (kept := row.reported.get("asked")) is None:
            raise ValueError(f"{row.source}: {task} has no samples beside it; run lm-eval with --log_samples")
        try:
            return Asked(**kept)
        except TypeError as error:
            raise ValueError(f"{row.source}: {task}: `asked` is {kept!r} ({error}); run it again") from error
    read = read_samples(Path(row.samples))
    if read.problems:
        raise ValueError(f"{read.problems[0]}; run {task} again")
    places = [sample.doc.get("answer_place") or {} for sample in read.samples]
    lost = sum(place.get("in_prompt") == 0 and place.get("in_document", 0) > 0 for place in places)
    return Asked(len({sample.document for sample in read.samples}), lost, most_frequent(read.samples))


def most_frequent(samples: Sequence[Sample]) -> float | None:
    """Share right of always giving a key's most frequent answer in the other documents; None where no row has a key."""
    asked = [(str(s.doc["key"]), s.document, s.target.strip().lower()) for s in samples if s.doc.get("key")]
    answers: dict[str, Counter[str]] = {}
    own: dict[tuple[str, str | None], Counter[str]] = {}  # of one document
    for key, document, answer in asked:
        answers.setdefault(key, Counter())[answer] += 1
        own.setdefault((key, document), Counter())[answer] += 1
    right = 0
    for key, document, answer in asked:
        others = answers[key] - own[key, document]
        right += bool(others) and answer in others.most_common(1)[0][0]
    return right / len(asked) if asked else None


def spreads(scores: Scores) -> list[Spread]:
    """Of each data set that two models or more were asked about under two protocols or more."""
    found = []
    for data in DATA_SETS:
        rows = {name: scores.rows.get(start + data, {}) for name, start in PROTOCOLS.items()}
        rows = {name: models for name, models in rows.items() if models}
        models = [model for model in scores.models if all(model in of for of in rows.values())]
        if len(rows) < 2 or len(models) < 2:
            continue
        values = [[rows[name][model].value for model in models] for name in rows]  # [protocol][model]
        by_model = [max(row) - min(row) for row in values]
        by_protocol = [max(column) - min(column) for column in zip(*values, strict=True)]
        orders = {
            name: tuple(model for _, model in sorted(zip([-value for value in row], models, strict=True)))
            for name, row in zip(rows, values, strict=True)
        }
        lowest = [min(rows, key=lambda name: rows[name][model].value) for model in models]
        furthest = max(zip(models, by_protocol, lowest, strict=True), key=lambda move: move[1])
        close = tuple(name for name, order in orders.items() if _close(rows[name], order))
        by_protocol_, by_model_ = sum(by_protocol) / len(models), sum(by_model) / len(rows)
        found.append(Spread(data, by_protocol_, by_model_, orders, furthest, close))
    return found


def _close(rows: Mapping[str, Row], order: Sequence[str]) -> bool:
    pairs = [(rows[better], rows[worse]) for better, worse in pairwise(order)]
    return any(one.value - other.value < 2 * hypot(one.error, other.error) for one, other in pairs)


def spread_verdict(found: Sequence[Spread]) -> str:
    """Plain sentences: does the protocol change a score more than the architecture, and do the orders hold?

    A mean can hide a model whose score falls as far as models lie apart, so such a one is named.
    """
    if not found:
        return "Does the protocol change a score more than the architecture? Too little was run to say."
    more = [spread.by_protocol > spread.by_model for spread in found]
    moved = [
        f"{model}'s by {100 * points:.1f} on {spread.data} (lowest under {lowest})"
        for spread in found
        for model, points, lowest in (spread.furthest,)
        if points > spread.by_model > spread.by_protocol
    ]
    answer = "Yes" if all(more) else "Not everywhere" if any(more) else "On average not" if moved else "No"
    changed = []
    for spread in found:
        orders = Counter(spread.orders.values())
        usual, _ = orders.most_common(1)[0]
        changed += [
            f"under {name} on {spread.data} it is {', '.join(order)}"
            for name, order in spread.orders.items()
            if order != usual
        ]
    if changed:
        last = f"The order of the models is not always the same: {'; '.join(changed)}"
    else:
        last = "Under all of them the models come in the same order"
    if close := [f"{name} on {spread.data}" for spread in found for name in spread.close]:
        last += f"; neighbours in it are nearer than two standard errors of their difference under {_listed(close)}"
    within = _listed([f"{100 * spread.by_protocol:.1f} points on {spread.data}" for spread in found])
    between = _listed([f"{100 * spread.by_model:.1f}" for spread in found])
    return (
        f"Does the protocol change a score more than the architecture? {answer}: between protocols one model's score "
        f"moves by {within}, between models under one protocol by {between} (largest less smallest, averaged). "
        f"{f'Single scores move further: {_listed(moved)}. ' if moved else ''}{last}."
    )


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:-1]) + " and " + texts[-1] if len(texts) > 1 else texts[0]


def parts(texts: Mapping[str, Perplexities]) -> list[Part]:
    """The gap of every model but the first to the first, text by text."""
    found = []
    for name, result in texts.items():
        for model in result["models"][1:]:
            gap = model["gap"]
            hits = (gap["hits"] or 0.0) * gap["difference"]
            found.append(Part(name, model_name(model), gap["difference"], hits))
    return found


def verdict(texts: Mapping[str, Perplexities]) -> str:
    """One plain sentence: does the recall gap sit in the hits? It does where more than half of every gap is there."""
    found = [part for part in parts(texts) if part.difference > 0]
    if not found:
        return "Does the recall gap sit in the hits? There is no gap: no model is worse than the first."
    inside = [part.share > 0.5 for part in found]
    answer = "Yes" if all(inside) else "No" if not any(inside) else "Not everywhere"
    said = []
    for name, result in texts.items():
        shares = [f"{part.share:.0%} of {part.model}'s" for part in found if part.text == name]
        if shares:
            said.append(f"on {name}, {result['hits']:.0%} of the tokens hold {' and '.join(shares)}")
    return f"Does the recall gap sit in the hits? {answer}: {'; '.join(said)} distance to {first_model(texts)}."


def first_model(texts: Mapping[str, Perplexities]) -> str:
    return model_name(next(iter(texts.values()))["models"][0])


def model_name(model: Mapping[str, Any]) -> str:
    return short_name(str(model["checkpoint"]))


def short_name(checkpoint: str) -> str:
    """`based` of `bundled:based`, and of a folder or hub id its last part."""
    return Path(checkpoint.removeprefix(PREFIX)).name or checkpoint
