"""Training loss of several models against the tokens they read, as one plot."""

import json
from pathlib import Path

# Distinct in grey too: by lightness, and by the dash.
STYLES = (("#1b3a5c", "-"), ("#c05a1c", "--"), ("#6f8f72", "-."), ("#8a4f7d", ":"))


def read_curve(file: Path) -> tuple[list[float], list[float]]:
    """Millions of tokens read and the mean loss (nats a token) of each row of a `loss.jsonl`."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [row["tokens"] / 1e6 for row in rows], [row["loss"] for row in rows]


def plot_loss_curves(files: dict[str, Path], output: Path, window: int = 9) -> None:
    """Write the plot to `output`, whose suffix says the format; `window` rows are averaged around each point.

    Args:
        files: `loss.jsonl` by the model's name.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.2, 3.4), layout="constrained")
    ends = []
    for (name, file), (colour, dash) in zip(files.items(), STYLES, strict=False):
        tokens, loss = read_curve(file)
        half = window // 2
        parts = [loss[max(0, i - half) : i + half + 1] for i in range(len(loss))]
        smooth = [sum(part) / len(part) for part in parts]
        axes.plot(tokens, smooth, dash, color=colour, linewidth=1.4, label=f"{name} ({smooth[-1]:.2f})")
        ends.append(smooth)
    begun = {len(s): min(max(3, len(s) // 40), len(s) - 1) for s in ends}  # the steep beginning runs off the top
    axes.set_ylim(min(min(s) for s in ends) * 0.95, max(s[begun[len(s)]] for s in ends))
    axes.set_xlim(left=0)
    axes.set_xlabel("tokens read (millions)")
    axes.set_ylabel("training loss (nats a token)")
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.legend(frameon=False, title="model (last loss)")
    axes.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=180)
    pyplot.close(figure)
