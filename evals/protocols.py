"""`recall-evals protocols`: the page of scores under each protocol and of perplexity gaps, from finished runs."""

import json
from collections.abc import Sequence
from pathlib import Path

from ..results.lm_eval_rows import is_perplexity
from ..results.protocol_page import page
from ..results.protocol_plots import plot_gaps, plot_scores
from ..results.protocol_scores import Perplexities, Scores
from ..results.row import main_rows
from ..results.rows import append_rows, latest, read_runs


class ProtocolsError(ValueError):
    """Runs that the page can't be made of; the message names the file and the remedy."""


def protocols(runs: Sequence[Path], perplexities: Sequence[Path], output: Path) -> Path:
    """Write README.md, scores.png, perplexity.png and scores.jsonl into `output`; returns the page.

    Args:
        runs: folders that lm-eval wrote with --log_samples, or the scores.jsonl of an earlier page.
        perplexities: files that `recall-evals ppl --output` wrote, named after their texts (`books.json`).

    Raises:
        ProtocolsError: no scores or perplexities, or files that can't be read.
        ValueError: scores that can't be compared.
    """
    reading = read_runs(runs)
    if reading.problems:
        raise ProtocolsError("\n".join(reading.problems))
    rows = [row for row in main_rows(latest(reading.rows)[0]) if row.percent]
    if not rows:
        raise ProtocolsError(f"{', '.join(map(str, runs))}: no scores; give what lm-eval's --output_path named")
    texts: dict[str, Perplexities] = {}
    for file in perplexities:
        if file.stem in texts:
            raise ProtocolsError(f"{file}: a second file named {file.stem}; name each after its text")
        texts[file.stem] = _read(file)
    scores = Scores(rows)
    output.mkdir(parents=True, exist_ok=True)
    kept = output / "scores.jsonl"
    kept.unlink(missing_ok=True)
    append_rows(kept, scores.kept())
    plot_scores(scores, output / "scores.png")
    plot_gaps(texts, output / "perplexity.png")
    report = output / "README.md"
    report.write_text(page(scores, texts), encoding="utf-8")
    return report


def _read(file: Path) -> Perplexities:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProtocolsError(f"{file} can't be read ({error}); make it with `recall-evals ppl --output`") from error
    if not is_perplexity(said) or len(said["models"]) < 2:
        raise ProtocolsError(f"{file} is no result of `recall-evals ppl` of two models or more")
    return dict(said)
