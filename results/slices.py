"""Where in the context recall fails: accuracy by depth, distance, length, answer length, key and repeats.

Depth and distance are those of `task_configs/places.py`, in tokens. Prompts whose answer was cut away, or stands
nowhere in the prompt, are counted apart and are in no slice.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .loss_curves import STYLES
from .statistics import clustered_standard_error

MARKERS = "os^Dv<>P"
SHOWN_KEYS = 12


@dataclass(frozen=True)
class Record:
    """One prompt of one model, its score from 0 to 1, and where its answer stands.

    Attributes:
        document: the cluster of the standard errors; a prompt without one is its own.
        prompt_tokens: of the prompt as asked.
        read_tokens: of it that the model read.
        distance, depth: of the prompt as asked where the answer was cut away; None where it stands nowhere.
        survived: whether the answer is whole in what was read; None where it stands nowhere.
        repeats: how often it stands in the prompt as asked.
        answer_tokens: its tokens where it stands last; None where it stands nowhere.
    """

    model: str
    task: str
    document: str | None
    key: str | None
    score: float
    prompt_tokens: int
    read_tokens: int
    distance: int | None
    depth: float | None
    survived: bool | None
    repeats: int
    answer_tokens: int | None


@dataclass(frozen=True)
class Cell:
    """Prompts of one slice: how many, share right, and its standard error clustered by document (NaN: one document)."""

    n: int
    share: float
    error: float


@dataclass(frozen=True)
class Slicing:
    """A way to put records into bins, numbered in the order they are shown; a plot has only each label's first word."""

    name: str
    bin: Callable[[Record], int]
    label: Callable[[int], str]
    plotted: bool = True


def slicings(records: Sequence[Record]) -> list[Slicing]:
    """The six; keys are the most frequent ones of these records, and the rest."""
    counts = Counter(record.key for record in sliced(records) if record.key is not None)
    keys = sorted(counts, key=lambda key: (-counts[key], key))[:SHOWN_KEYS]
    others = "all other keys" if len(keys) < len(counts) else "no key"
    labels, places = [*keys, others], {key: place for place, key in enumerate(keys)}
    return [
        Slicing(
            "depth in %", lambda r: min(9, int(10 * (r.depth or 0) + 1e-9)), lambda b: f"{10 * b} to {10 * b + 10}"
        ),
        Slicing("distance in tokens", lambda r: (r.distance or 0).bit_length(), _powers),
        Slicing("prompt tokens read", lambda r: r.read_tokens.bit_length(), _powers),
        Slicing("answer tokens", lambda r: ((r.answer_tokens or 1) - 1).bit_length(), _up_to_powers),
        Slicing(
            "repeats of the answer",
            lambda r: (0, 1, 2, 3, 3)[r.repeats] if r.repeats < 5 else 4,
            lambda b: ("0", "1", "2", "3 to 4", "5 or more")[b],
        ),
        Slicing("key", lambda r: places.get(r.key or "", len(keys)), lambda b: labels[b], plotted=False),
    ]


def _powers(bits: int) -> str:
    low, high = (1 << bits) >> 1, max(0, (1 << bits) - 1)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _up_to_powers(bits: int) -> str:
    low, high = ((1 << bits) >> 1) + 1, 1 << bits
    return f"{high:,}" if low >= high else f"{low:,} to {high:,}"


def sliced(records: Sequence[Record]) -> list[Record]:
    """Those whose answer the model could read."""
    return [record for record in records if record.survived]


def cells(records: Sequence[Record], slicing: Slicing) -> dict[int, Cell]:
    """The records of `sliced`, by bin, in order."""
    bins: dict[int, list[Record]] = {}
    for record in sliced(records):
        bins.setdefault(slicing.bin(record), []).append(record)
    return {place: cell(bins[place]) for place in sorted(bins)}


def cell(records: Sequence[Record]) -> Cell:
    """Share right of records, at least one."""
    scores = [record.score for record in records]
    clusters = [(r.task, i if r.document is None else r.document) for i, r in enumerate(records)]
    return Cell(len(scores), sum(scores) / len(scores), clustered_standard_error(scores, clusters))


def counts_table(models: Mapping[str, Sequence[Record]]) -> str:
    """What is in the slices and what stays apart, one column a model."""
    parts: list[tuple[str, Callable[[Record], bool]]] = [
        ("all prompts", lambda r: True),
        ("in the slices", lambda r: r.survived is True),
        ("apart: answer cut away by truncation", lambda r: r.survived is False),
        ("apart: answer nowhere in the prompt", lambda r: r.survived is None),
    ]
    rows = []
    for name, chosen in parts:
        found = [[record for record in records if chosen(record)] for records in models.values()]
        rows.append([name, *(_shown(cell(part)) if part else "0" for part in found)])
    return _table("prompts", models, rows)


def table(models: Mapping[str, Sequence[Record]], slicing: Slicing) -> str:
    """Share right (%) ± its standard error, and the number of prompts, one column a model."""
    found = [cells(records, slicing) for records in models.values()]
    rows = [
        [slicing.label(place), *(_shown(column[place]) if place in column else "" for column in found)]
        for place in sorted(set().union(*found))
    ]
    return _table(slicing.name, models, rows)


def _shown(found: Cell) -> str:
    error = "" if np.isnan(found.error) else f" ± {100 * found.error:.1f}"
    return f"{100 * found.share:.1f}{error} ({found.n:,})"


def _table(name: str, models: Mapping[str, Sequence[Record]], rows: list[list[str]]) -> str:
    from tabulate import tabulate

    align = ("left", *["right"] * len(models))
    return str(tabulate(rows, [name, *models], "github", disable_numparse=True, colalign=align))


def plot_slices(models: Mapping[str, Sequence[Record]], output: Path) -> None:
    """Small multiples, a panel a slicing but keys, a line a model, bars of one standard error; the suffix says the
    format. A point at each bin, labelled by where it begins; an error that is unknown has no bar."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    everything = [record for records in models.values() for record in records]
    shown = [slicing for slicing in slicings(everything) if slicing.plotted]
    with pyplot.rc_context({"font.size": 7, "axes.titlesize": 7, "svg.fonttype": "none"}):
        figure, grid = pyplot.subplots((len(shown) + 2) // 2, 2, figsize=(3.4, 4.2), sharey=True, layout="constrained")
        panels = list(grid.flat)
        for axes, slicing in zip(panels, shown, strict=False):
            places: set[int] = set()
            for i, records in enumerate(models.values()):
                colour, dash = STYLES[i % len(STYLES)]
                found = cells(records, slicing)
                places |= set(found)
                # Side by side, so that bars at the same height stay apart.
                x = [place + 0.12 * (i - (len(models) - 1) / 2) for place in found]
                y, bars = [100 * c.share for c in found.values()], [100 * c.error for c in found.values()]
                style = {"color": colour, "linestyle": dash, "marker": MARKERS[i % len(MARKERS)]}
                axes.errorbar(x, y, bars, **style, markersize=2.5, linewidth=0.9, elinewidth=0.6)
            axes.set_title(slicing.name)
            ticks = sorted(places)
            ticks = ticks[:: 1 + len(ticks) // 7]  # at most seven have room
            axes.set_xticks(ticks, [_tick(slicing.label(place)) for place in ticks])
            if ticks:
                axes.set_xlim(min(places) - 0.5, max(places) + 0.5)
            axes.grid(alpha=0.3, linewidth=0.5)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("right (%)")
        axes, legend = panels[-1], "bars: 1 standard error\nlabels: where a bin begins"
        axes.axis("off")
        axes.legend(
            panels[0].containers,
            list(models),
            loc="center",
            frameon=False,
            handlelength=3.5,
            title=legend,
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=300)
        pyplot.close(figure)


def _tick(label: str) -> str:
    """Where a bin begins, `1k` for 1,024."""
    first = label.split()[0]
    return f"{int(first.replace(',', '')) // 1024}k" if "," in first else first
