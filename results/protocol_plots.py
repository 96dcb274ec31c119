"""The two plots of the page of protocols: scores by protocol, and perplexity gaps in hits and elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .loss_curves import STYLES
from .protocol_scores import DATA_SETS, PROTOCOLS, Perplexities, Scores, first_model, parts
from .slices import MARKERS


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
            axes.set_xlim(-0.3, len(PROTOCOLS) - 0.7)  # the same where nothing was run
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
        axes.set_xlabel(f"nats a token above {first_model(texts)}")
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
