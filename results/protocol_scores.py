"""What a protocol does to a score, and where a perplexity gap lies: the tables, two plots and a plain sentence.

Scores are rows of lm-eval's runs, perplexities what `recall-evals ppl` wrote. Of a gap between two models on the same
tokens, the part in the hits is the sum of the differences over hits, in nats a token of all:

    hits = share · difference,    others = (1 - share) · difference
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .loss_curves import STYLES
from .row import Row, mismatches
from .samples import read_samples
from .slices import MARKERS

PROTOCOLS = {"lm-eval-v1": "local_", "based": "local_based_", "jrt": "local_jrt_", "jrt-twice": "local_jrt_twice_"}
DATA_SETS = ("fda", "swde", "squad")

Perplexities = Mapping[str, Any]  # one result of `recall-evals ppl`


@dataclass(frozen=True)
class Asked:
    """What a task's prompts were.

    Attributes:
        documents: clusters of its standard error.
        lost: prompts without the answer that stands in their document, which the protocol's cut took away.
    """

    documents: int
    lost: int


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
            if (name := _short(row.model)) in models:
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

    def cell(self, task: str, model: str) -> str:
        row = self.rows[task].get(model)
        if row is None:
            return ""
        error = "" if row.error != row.error else f" ± {100 * row.error:.1f}"
        return f"{100 * row.value:.1f}{error}"

    def prompts(self, task: str) -> str:
        row = next(iter(self.rows[task].values()))
        return f"{row.n or 0:,} / {self.asked[task].documents:,}"


def _asked(task: str, row: Row) -> Asked:
    if row.samples is None:
        raise ValueError(f"{row.source}: {task} has no samples beside it; run lm-eval with --log_samples")
    read = read_samples(Path(row.samples))
    if read.problems:
        raise ValueError(f"{read.problems[0]}; run {task} again")
    places = [sample.doc.get("answer_place") or {} for sample in read.samples]
    lost = sum(place.get("in_prompt") == 0 and place.get("in_document", 0) > 0 for place in places)
    return Asked(len({sample.document for sample in read.samples}), lost)


def parts(texts: Mapping[str, Perplexities]) -> list[Part]:
    """The gap of every model but the first to the first, text by text."""
    found = []
    for name, result in texts.items():
        for model in result["models"][1:]:
            gap = model["gap"]
            hits = (gap["hits"] or 0.0) * gap["difference"]
            found.append(Part(name, _name(model), gap["difference"], hits))
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
    return f"Does the recall gap sit in the hits? {answer}: {'; '.join(said)} distance to {_first(texts)}."


def page(scores: Scores, texts: Mapping[str, Perplexities]) -> str:
    """README.md, which shows `scores.png` and `perplexity.png` beside it."""
    local = [(data, name, start + data) for data in DATA_SETS for name, start in PROTOCOLS.items()]
    local = [(data, name, task) for data, name, task in local if task in scores.rows]
    known = {task for _, _, task in local}
    lines = [
        "# What a protocol does to a score, and where the perplexity gap lies",
        "",
        verdict(texts),
        "",
        "Share of prompts answered (%), ± the standard error clustered by document.",
        "",
        "## Real documents under each protocol",
        "",
        _table(
            ["data", "protocol", "prompts / documents", "answer cut away", *scores.models],
            [
                [data, name, scores.prompts(task), f"{_lost(scores, task):.1f} %"]
                + [scores.cell(task, model) for model in scores.models]
                for data, name, task in local
            ],
        ),
        "",
        "`answer cut away`: prompts whose document has the answer, while what the protocol's cut left of it has not.",
        "The protocols are those of [task_configs/recall](../../task_configs/recall/README.md).",
        "",
        "![Scores by protocol](scores.png)",
        "",
        "## Generated documents",
        "",
        _table(
            ["task", "prompts / documents", *scores.models],
            [
                [task, scores.prompts(task), *(scores.cell(task, model) for model in scores.models)]
                for task in scores.rows
                if task not in known
            ],
        ),
        "",
        *_cut_notes(scores),
        "",
        "## Perplexity, of associative-recall hits and of other tokens",
        "",
        _perplexities(texts),
        "",
        *(_source(name, result) for name, result in texts.items()),
        "",
        "A hit completes a pair of tokens that stood in its window before and is rare in training. `gap`: nats a token",
        f"above {_first(texts)}. Zoology (arXiv 2312.04927) found 82 % of the gap between attention and gated",
        "convolutions on the Pile in the hits.",
        "",
        "![The gap in hits and in other tokens](perplexity.png)",
        "",
    ]
    return "\n".join(lines)


def _lost(scores: Scores, task: str) -> float:
    n = next(iter(scores.rows[task].values())).n
    return 100 * scores.asked[task].lost / n if n else 0.0


def _cut_notes(scores: Scores) -> list[str]:
    """What the models' own contexts cut, of each run."""
    runs: dict[str, list[Row]] = {}
    for models in scores.rows.values():
        for row in models.values():
            runs.setdefault(row.source, []).append(row)
    lines = []
    for rows in runs.values():
        cut = rows[0].must_match["truncation"]
        if cut["cut_prompts"]:
            prompts = sum(row.n or 0 for row in rows)
            lines.append(
                f"- {_short(rows[0].model)}'s context of {cut['max_length']:,} tokens cut {cut['cut_prompts']:,} of "
                f"{prompts:,} prompts on the left, of {', '.join(_families(rows))}."
            )
    return sorted(lines)


def _families(rows: Sequence[Row]) -> list[str]:
    return sorted({f"{row.task.partition('_')[0]}_*" for row in rows})


def _perplexities(texts: Mapping[str, Perplexities]) -> str:
    rows = []
    for name, result in texts.items():
        for model in result["models"]:
            gap = model["gap"]
            rows.append(
                [name, _name(model)]
                + [_number(part["perplexity"]) for part in (model, model["last_half"], model["hits"], model["others"])]
                + [_number(model["bits_per_byte"], ".3f")]
                + (["", ""] if gap is None else [f"{gap['difference']:.3f}", _number(gap["hits"], ".0%")])
            )
    headers = ["text", "model", "perplexity", "last half", "hits", "others", "bits per byte", "gap", "gap in hits"]
    return _table(headers, rows)


def _source(name: str, result: Perplexities) -> str:
    counts = result["train_counts"]
    whose = "the text itself" if counts["from"] != "counts file" else f"{counts['tokens']:,} tokens of training text"
    return (
        f"- {name}: {result['predicted_tokens']:,} tokens in {result['windows']:,} windows of {result['window']:,}, "
        f"{result['hits']:.1%} of them hits (pairs that {whose} has fewer than {result['max_train_count']:,} times)."
    )


def _first(texts: Mapping[str, Perplexities]) -> str:
    return _name(next(iter(texts.values()))["models"][0])


def _name(model: Mapping[str, Any]) -> str:
    return _short(str(model["checkpoint"]))


def _short(checkpoint: str) -> str:
    """`based` of `bundled:based`, and of a folder or hub id its last part."""
    return Path(checkpoint.removeprefix("bundled:")).name or checkpoint


def _number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from tabulate import tabulate

    return str(tabulate(rows, headers, "pipe", disable_numparse=True))


def plot_scores(scores: Scores, output: Path) -> None:
    """A panel a data set, a line a model over the protocols, bars of one standard error; the suffix says the format."""
    pyplot = _pyplot()
    with pyplot.rc_context({"font.size": 8, "svg.fonttype": "none"}):
        figure, panels = pyplot.subplots(1, len(DATA_SETS), figsize=(6.8, 2.7), sharey=True, layout="constrained")
        for axes, data in zip(panels, DATA_SETS, strict=True):
            for i, model in enumerate(scores.models):
                found = {
                    place: scores.rows[start + data][model]
                    for place, start in enumerate(PROTOCOLS.values())
                    if model in scores.rows.get(start + data, {})
                }
                colour, dash = STYLES[i % len(STYLES)]
                axes.errorbar(
                    list(found),
                    [100 * row.value for row in found.values()],
                    [100 * row.error for row in found.values()],
                    color=colour,
                    linestyle=dash,
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=4,
                    linewidth=1.1,
                    elinewidth=0.8,
                )
            axes.set_title(data)
            axes.set_xticks(range(len(PROTOCOLS)), list(PROTOCOLS), rotation=30, ha="right")
            _plain(axes)
        panels[0].set_ylabel("right (%)")
        panels[0].set_ylim(bottom=-2)  # a marker at 0 is whole
        figure.legend(panels[0].containers, scores.models, loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(output, dpi=200)
        pyplot.close(figure)


def plot_gaps(texts: Mapping[str, Perplexities], output: Path) -> None:
    """A bar a text and model: its gap to the first model, the part in hits before the part in other tokens."""
    pyplot = _pyplot()
    found = parts(texts)
    with pyplot.rc_context({"font.size": 8, "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(5.2, 0.9 + 0.42 * len(found)), layout="constrained")
        (hits_colour, _), (others_colour, _) = STYLES[:2]
        for place, part in enumerate(found):
            # Parts of opposite sign go opposite ways from zero; of the same, the second begins where the first ends.
            start = part.hits if part.hits * part.others > 0 else 0.0
            axes.barh(place, part.hits, 0.6, color=hits_colour, label="hits" if place == 0 else None)
            axes.barh(
                place, part.others, 0.6, start, color=others_colour, hatch="///", edgecolor="white",
                label="other tokens" if place == 0 else None,
            )  # fmt: skip
            end = max(part.hits, start + part.others, 0.0)
            axes.annotate(f"{part.share:.0%} in hits", (end, place), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(found)), [f"{part.text}: {part.model}" for part in found])
        axes.invert_yaxis()
        axes.margins(x=0.3)
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_xlabel(f"nats a token above {_first(texts)}")
        _plain(axes)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        figure.savefig(output, dpi=200)
        pyplot.close(figure)


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
