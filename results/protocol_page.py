"""The page of protocols, as Markdown: sentences, tables, and the two plots beside it."""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

from .protocol_scores import (
    DATA_SETS,
    PREFIX,
    PROTOCOLS,
    WITHOUT,
    Perplexities,
    Scores,
    first_model,
    model_name,
    short_name,
    spread_verdict,
    spreads,
    verdict,
)
from .row import Row

MEANINGS = {
    "lm-eval-v1": "as lm-eval asks today: document and question whole, blanks at both ends taken off; on squad an "
    "answer is all up to an empty line or 256 tokens, everywhere else up to the line's end or 48",
    "based": "as the fork behind BASED's table: the same text and answer, blanks at their ends kept",
    "jrt": "as the fork behind Just Read Twice's tables: of the document {budget} around the first place of the key or "
    "the answer, and the question in a form of its own (squad: as it is)",
    "jrt-twice": "the same, after a first reading of the document that says what will be asked",
    WITHOUT: "the question alone: what is right without recall",
}


def page(scores: Scores, texts: Mapping[str, Perplexities]) -> str:
    """README.md, which shows `scores.png` and `perplexity.png` beside it and names `scores.jsonl`."""
    local = [(data, name, start + data) for data in DATA_SETS for name, start in PROTOCOLS.items()]
    local += [(data, WITHOUT, f"local_{data}_no_document") for data in DATA_SETS]
    local = [place for place in local if place[2] in scores.rows]
    local.sort(key=lambda place: DATA_SETS.index(place[0]))
    known = {task for _, _, task in local}
    lines = [
        "# What a protocol does to a score, and where the perplexity gap lies",
        "",
        *_wrapped(verdict(texts)),
        "",
        *_wrapped(spread_verdict(spreads(scores))),
        "",
        *_table(
            ["model", "parameters", "precision", "context", "state, bytes", "near ties"],
            [_model(scores, m) for m in scores.models],
        ),
        "",
        _made(scores),
        "",
        "Scores are the share of prompts answered in %, ± the standard error clustered by document: prompts about one",
        "document are right or wrong together.",
        "",
        "## Real documents under each protocol",
        "",
        *(
            line
            for name in MEANINGS
            if any(place[1] == name for place in local)
            for line in _wrapped(f"- **{name}**: {_meaning(scores, name)}")
        ),
        "",
        "All are defined, with their quirks, in [task_configs/recall](../../task_configs/recall/README.md).",
        "",
        *_table(
            ["data", "protocol", "prompts / documents", "answer cut away", "most frequent", *scores.models],
            [
                [data, name, _prompts(scores, task), _lost(scores, task), _share(scores.asked[task].floor)]
                + [_cell(scores, task, model) for model in scores.models]
                for data, name, task in local
            ],
        ),
        "",
        "`answer cut away`: prompts whose document has the answer, while what the protocol's cut left of it has not.",
        "`most frequent`: always giving the most frequent answer that the question has in the other documents.",
        "The documents are our own, in the schema of the published sets: no score here compares with one on those.",
        "",
        "![Scores by protocol, bars of one standard error](scores.png)",
        "",
        "## Generated documents",
        "",
        *_table(
            ["task", "metric", "prompts / documents", *scores.models],
            [
                [task, scores.any_row(task).metric, _prompts(scores, task)]
                + [_cell(scores, task, model) for model in scores.models]
                for task in scores.rows
                if task not in known
            ],
        ),
        "",
        *(line for note in _cut_notes(scores) for line in _wrapped(note)),
        "",
        "## Perplexity, of associative-recall hits and of other tokens",
        "",
        *_perplexities(texts),
        "",
        *(line for name, result in texts.items() for line in _wrapped(_source(name, result))),
        "",
        "A hit completes a pair of tokens that stood in its window before and is rare in training. `gap`: nats a token",
        f"above {first_model(texts)}. Zoology (arXiv 2312.04927) found 82 % of the gap between attention and gated",
        "convolutions on the Pile in the hits.",
        "",
        "![The gap in hits and in other tokens](perplexity.png)",
        "",
        *_commands(scores, texts),
    ]
    return "\n".join(lines)


def _meaning(scores: Scores, protocol: str) -> str:
    tasks = [PROTOCOLS.get(protocol, "") + data for data in DATA_SETS]
    settings = next((scores.any_row(task).must_match for task in tasks if task in scores.rows), {})
    budget = settings.get("context_length", 0) - settings.get("answer_length", 0)
    return MEANINGS[protocol].format(budget=f"{budget:,} tokens of GPT-2's")


def _model(scores: Scores, model: str) -> list[str]:
    rows = scores.of_model(model)
    said = rows[0].reported
    state = max((row.reported.get("state_bytes") or 0 for row in rows), default=0)
    length = rows[0].must_match["truncation"]["max_length"]
    parameters = said.get("parameters")
    runs = {row.date: row.reported for row in rows}.values()
    ties, tokens = (sum(run.get(name) or 0 for run in runs) for name in ("near_ties", "generated_tokens"))
    return [
        model,
        f"{parameters:,}" if parameters else "",
        str(said.get("dtype", "")),
        f"{length:,} tokens" if length else "",
        f"{state:,}" if state else "",
        f"{100 * ties / tokens:.2f} % of {tokens:,}" if tokens else "",
    ]


def _made(scores: Scores) -> str:
    """On what machine, with which versions; each that the rows name."""

    def all_of(name: str) -> str:
        found = {str(row.reported[name]) for m in scores.models for row in scores.of_model(m) if row.reported.get(name)}
        return " and ".join(sorted(found))

    versions = [
        f"{what} {found}"
        for what, name in (
            ("recall-evals", "recall_evals_version"),
            ("lm-eval", "lm_eval_version"),
            ("Transformers", "transformers_version"),
        )
        if (found := all_of(name))
    ]
    return (
        "`state`: of one sequence after the longest prompt. `near ties`: tokens chosen by less than 1e-4, which in\n"
        "half precision another batch may turn. "
        f"Made on {all_of('hardware') or all_of('device')}, {', '.join(versions)}."
    )


def _cell(scores: Scores, task: str, model: str) -> str:
    row = scores.rows[task].get(model)
    if row is None:
        return ""
    error = "" if row.error != row.error else f" ± {100 * row.error:.1f}"
    return f"{100 * row.value:.1f}{error}"


def _prompts(scores: Scores, task: str) -> str:
    return f"{scores.any_row(task).n or 0:,} / {scores.asked[task].documents:,}"


def _lost(scores: Scores, task: str) -> str:
    if task.endswith("_no_document"):
        return ""
    n = scores.any_row(task).n
    return _share(scores.asked[task].lost / n if n else 0.0)


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _cut_notes(scores: Scores) -> list[str]:
    """What the models' own contexts cut, of each run; runs of several models that say the same are one line."""
    runs: dict[tuple[str, float], list[Row]] = {}
    for model in scores.models:
        for row in scores.of_model(model):
            runs.setdefault((model, row.date), []).append(row)
    found: dict[str, list[str]] = {}
    for (model, _), rows in runs.items():
        cut = rows[0].must_match["truncation"]
        if cut["cut_prompts"]:
            prompts = sum(row.n or 0 for row in rows)
            said = f"{cut['cut_prompts']:,} of {prompts:,} prompts of {', '.join(_families(rows))} on the left"
            found.setdefault(f"{said}, to {cut['max_length']:,} tokens with the answer", []).append(model)
    return sorted(f"- The context of {', '.join(models)} cut {said}." for said, models in found.items())


def _families(rows: Sequence[Row]) -> list[str]:
    """`local_*_fda` of the tasks about `fda`, and of others the first word: `needle_*`."""
    local = {data: f"local_*_{data}" for data in DATA_SETS}
    named = [(row.task, local.get(row.task.removesuffix("_no_document").rpartition("_")[2])) for row in rows]
    return sorted({
        data if data and task.startswith("local_") else f"{task.partition('_')[0]}_*" for task, data in named
    })  # fmt: skip


def _perplexities(texts: Mapping[str, Perplexities]) -> list[str]:
    rows = []
    for name, result in texts.items():
        for model in result["models"]:
            gap = model["gap"]
            rows.append(
                [name, model_name(model)]
                + [_number(part["perplexity"]) for part in (model, model["last_half"], model["hits"], model["others"])]
                + [_number(model["bits_per_byte"], ".3f")]
                + (["", ""] if gap is None else [f"{gap['difference']:.3f}", _number(gap["hits"], ".0%")])
            )
    headers = ["text", "model", "perplexity", "last half", "hits", "others", "bits per byte", "gap", "gap in hits"]
    return _table(headers, rows)


def _source(name: str, result: Perplexities) -> str:
    counts = result["train_counts"]
    whose = f"{counts['tokens']:,} tokens of training text have"
    if counts["from"] != "counts file":
        whose = "the text itself has"
    return (
        f"- {name}: {result['predicted_tokens']:,} tokens in {result['windows']:,} windows of {result['window']:,}, "
        f"{result['hits']:.1%} of them hits (pairs that {whose} fewer than {result['max_train_count']:,} times); "
        f"{' and '.join(sorted({str(model['dtype']) for model in result['models']}))}."
    )


def _commands(scores: Scores, texts: Mapping[str, Perplexities]) -> Iterator[str]:
    """How the first run was made, and this page of all of them."""
    row = scores.of_model(scores.models[0])[0]
    tasks = [other.task for other in scores.of_model(scores.models[0]) if other.date == row.date]
    size = f" --batch_size {row.reported['batch_size']}" if row.reported.get("batch_size") else ""
    checkpoint = row.model if row.model.startswith(PREFIX) else short_name(row.model)
    files = " ".join(f"--ppl {name}.json" for name in texts)
    yield from (
        "## Made with",
        "",
        "```console",
        "$ recall-evals run --model based --model_args "
        f"pretrained={checkpoint},dtype={row.reported.get('dtype')}{size} \\",
        f"      --tasks {','.join(tasks[:4])}{',...' if len(tasks) > 4 else ''} \\",
        "      --log_samples --output_path out",
        f"$ recall-evals protocols out {files}",
        "```",
        "",
        "and so for the other models and tasks; those of generated documents are the group `recall_offline`, and the",
        "questions alone are `*_no_document`. [scores.jsonl](scores.jsonl) holds every score and what was asked for",
        "it; given instead of `out` it makes this page. The perplexities:",
        "[results/perplexity](../perplexity/README.md).",
        "",
    )


def _number(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def _wrapped(text: str) -> list[str]:
    """A paragraph, or an item of a list, in lines."""
    return wrap(text, 120, subsequent_indent="  " * text.startswith("- "), break_on_hyphens=False)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    from tabulate import tabulate

    align: Any = ("left",) * len(headers)
    return str(tabulate(rows, headers, "pipe", disable_numparse=True, colalign=align if rows else None)).splitlines()
