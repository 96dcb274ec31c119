"""The command `recall-evals`: one subcommand an activity, each in a module of its own, imported when it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .. import __version__

app = typer.Typer(
    help="How well language models use what stands in their context, and what that costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@contextmanager
def _one_line(command: str, code: int = 2) -> Iterator[None]:
    """Within the block, an error that says what the user can mend is one line, and the exit code."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"recall-evals {command}: {error}", err=True)
        raise typer.Exit(code) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"recall-evals {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """How well language models use what stands in their context, and what that costs."""


class _HandedOn(TyperCommand):
    """A command that parses none of its arguments, `--help` and `--` included."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = args
        return args


@app.command(cls=_HandedOn, options_metavar="[LM-EVAL'S FLAGS]")
def run(context: typer.Context) -> None:
    """Evaluate a model: `lm-eval run` with its own flags, and with our models and tasks wherever they are installed."""
    from .run import run as run_lm_eval

    raise typer.Exit(run_lm_eval(context.args))


@app.command()
def demo(
    documents: Annotated[int, typer.Option(min=1, help="Documents of each task, which has 80.")] = 16,  # two minutes
    models: Annotated[str | None, typer.Option(help="Bundled checkpoints, by comma; default: all.")] = None,
) -> None:
    """The bundled checkpoints side by side: recall, perplexity, state and speed, in minutes on a CPU, offline."""
    from .demo import demo as run_demo

    with _one_line("demo", 1):
        run_demo(documents, models.split(",") if models else None)


@app.command()
def check(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder with config.json and weights, a bundled checkpoint (attention, based, mamba), or a hub id."
        ),
    ],
    revision: Annotated[str | None, typer.Option(help="Branch, tag, commit or refs/pr/N of a hub id.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16, float16; auto: bfloat16 on a GPU.")] = "auto",
) -> None:
    """The gate before a score: does this model, on this machine, answer a request the same whatever surrounds it?

    Prints a line a check with the largest difference and its bound. Exit 1: a check failed; 2: it could not run.
    """
    from .check import check as run_gate

    with _one_line("check"):
        passed = run_gate(source, revision, device, dtype)
    raise typer.Exit(0 if passed else 1)


@app.command()
def models() -> None:
    """All architectures: which checkpoints they read, what their state takes, where they run, what they need."""
    from .models import models as list_models

    list_models()


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="attention, based or mamba: the small model to train.")],
    corpus: Annotated[Path | None, typer.Option(help="Folder of the corpora; default: $RECALL_EVALS_CORPUS.")] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Folder of the validation sets, kept out of training; default: above --corpus.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Where what is unfinished is kept; one folder for all models.")] = Path(
        "out/training"
    ),
    output: Annotated[Path | None, typer.Option(help="The checkpoint's folder; default: checkpoints/NAME.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cuda",
    stop_after: Annotated[float | None, typer.Option(help="Seconds; the same command then goes on.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that cut training sequences.")] = 4,
) -> None:
    """Train one of the small checkpoints from its recipe; interrupted or stopped, the same command goes on.

    Exit 0: the checkpoint is written; 3: more steps remain; 2: it could not run.
    """
    from ..training.command import run_recipe

    with _one_line("train"):
        done = run_recipe(name, corpus, held_out, work, output, device, stop_after, workers)
    raise typer.Exit(0 if done else 3)


@app.command()
def gap(
    models: Annotated[str, typer.Option(help="Checkpoints, by comma, the best first.")] = "attention,based,mamba",
    tasks: Annotated[
        str, typer.Option(help="Tasks, by comma.")
    ] = "mini_fda,mini_swde,local_fda,local_swde,local_squad",
    output: Annotated[Path, typer.Option(help="Folder of the measurements and the table.")] = Path("results/gap"),
    corpus: Annotated[Path | None, typer.Option(help="Folder of the corpora, for the most common answers.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
) -> None:
    """Recall of several checkpoints beside its floors, paired comparisons, loss curves: writes and prints a table.

    The local tasks read the documents below $RECALL_EVALS_DATA. Models that `output` already has are not run again.
    """
    from .gap import run_gap

    with _one_line("gap"):
        report = run_gap(models.split(","), output, corpus, device, tuple(tasks.split(",")))
    typer.echo(report.read_text(encoding="utf-8"))


@app.command()
def ppl(
    sources: Annotated[
        list[str], typer.Argument(help="Models as in `check`; several are compared with the first, token by token.")
    ],
    data: Annotated[
        str, typer.Option(help=".txt, .jsonl (.xz, .gz, .zst), .parquet, a folder of them, or a hub dataset.")
    ],
    field: Annotated[str, typer.Option(help="Of a row, which holds its text.")] = "text",
    split: Annotated[str, typer.Option(help="Of a hub dataset.")] = "validation",
    tokens: Annotated[int | None, typer.Option(min=2, help="Read at most so many; default: all.")] = None,
    length: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a window; default: the smallest context of the models.")
    ] = None,
    counts: Annotated[
        Path | None, typer.Option(help="What `bigrams` wrote of the training corpus; default: counts of DATA itself.")
    ] = None,
    max_train_count: Annotated[int, typer.Option(min=1, help="Pairs seen so often in training are no hits.")] = 1000,
    tokenizer: Annotated[str | None, typer.Option(help="Default: the checkpoint's own, else GPT-2's.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag, commit or refs/pr/N of a hub id.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16, float16; auto: bfloat16 on a GPU.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file of the result.")] = None,
) -> None:
    """Perplexity of any text, of the tokens that associative recall can help with and of the others.

    Prints a table, a column a model, then one line of JSON.
    """
    from .perplexity.command import ppl as run_ppl
    from .perplexity.texts import Texts

    with _one_line("ppl"):
        run_ppl(
            sources,
            Texts(data, field, split),
            tokens=tokens,
            length=length,
            counts=counts,
            max_train_count=max_train_count,
            tokenizer=tokenizer,
            revision=revision,
            dtype=dtype,
            device=device,
            output=output,
        )


@app.command()
def bigrams(
    data: Annotated[list[str], typer.Argument(help="Texts as in `ppl`, and counts files (.npz) to add to them.")],
    tokenizer: Annotated[str, typer.Option(help="A model, folder, tokenizer.json or hub id: whose tokens to count.")],
    output: Annotated[Path, typer.Option(help="The counts file, .npz.")],
    field: Annotated[str, typer.Option(help="Of a row, which holds its text.")] = "text",
    split: Annotated[str, typer.Option(help="Of a hub dataset.")] = "train",
) -> None:
    """How often each pair of tokens occurs in a corpus, for `ppl --counts`."""
    from .perplexity.command import bigrams as count_bigrams

    with _one_line("bigrams"):
        count_bigrams(data, tokenizer, output, field, split)


@app.command()
def slices(
    runs: Annotated[list[Path], typer.Argument(help="Folders that lm-eval wrote (--output_path), with --log_samples.")],
    tasks: Annotated[str | None, typer.Option(help="Tasks, by comma; default: all, pooled.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="A model, folder, tokenizer.json or hub id; default: each run's own.")
    ] = None,
    records: Annotated[Path | None, typer.Option(help="JSON lines file of every prompt.")] = None,
    plot: Annotated[Path | None, typer.Option(help=".png or .svg of the slices.")] = None,
) -> None:
    """Where in the context recall fails: by depth, distance, length, answer length, repeats and key.

    Prints a table a slicing, a column a model. Prompts whose answer was cut away by truncation are counted apart.
    """
    from .slices import slices as slice_runs

    with _one_line("slices"):
        slice_runs(runs, tasks.split(",") if tasks else None, tokenizer, records, plot)


@app.command()
def sweep(
    suite: Annotated[
        str, typer.Argument(help="A YAML file, or a bundled suite: demo, based_readme, jrt_table1, frontier.")
    ],
    output: Annotated[Path | None, typer.Option(help="Folder of the results; default: out/NAME of the suite.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Jobs at a time; default: the GPUs, or the CPU's cores.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would run, and what is there.")] = False,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster, as `ray.init` takes it.")] = None,
) -> None:
    """Many models, many tasks: each job in its own process; stopped or killed, the same command goes on.

    Exit 0: all jobs are finished; 1: some failed, the others are finished; 2: it could not run; 130: Ctrl-C.
    """
    from .sweep.command import sweep as run_sweep

    try:
        with _one_line("sweep"):
            whole = run_sweep(suite, output, workers, plan, ray)
    except KeyboardInterrupt as stopped:
        typer.echo(f"recall-evals sweep: {str(stopped) or 'interrupted'}", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(0 if whole else 1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that lm-eval wrote (--output_path), or files of rows.")],
    form: Annotated[str, typer.Option("--format", help="table, md, latex, csv or html.")] = "table",
    sort: Annotated[str | None, typer.Option(help="Column to order by, its best first: fda, state_bytes ...")] = None,
    published: Annotated[bool, typer.Option("--published", help="With published rows, and the Δ to them.")] = False,
    output: Annotated[Path | None, typer.Option(help="File to write, instead of printing.")] = None,
) -> None:
    """One line a model: size, state, speed, perplexity, and each task with its clustered error."""
    from .report import report as make_report

    with _one_line("report"):
        text, notes = make_report(runs, form, sort, published)
        if output is not None:
            output.write_text(text + "\n", encoding="utf-8")
    if output is None:
        typer.echo(text)
    for note in notes:
        typer.echo(f"Note: {note}.", err=True)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders that lm-eval wrote, with --log_samples, of two models.")],
    tasks: Annotated[str | None, typer.Option(help="Tasks, by comma; default: all that both have.")] = None,
    flips: Annotated[int, typer.Option(min=0, help="List so many prompts whose score changed, of each task.")] = 0,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Compare rows of different protocols, with a note.")
    ] = False,
) -> None:
    """Models on the same prompts, paired: the difference, its interval, exact and clustered tests.

    Refuses rows whose protocols differ, and says in which field.
    """
    from .compare import compare as compare_runs

    with _one_line("compare"):
        compare_runs(runs, tasks.split(",") if tasks else None, flips, allow_mismatch)


@app.command()
def plot(
    what: Annotated[str, typer.Argument(help="frontier, slices or training.")],
    runs: Annotated[list[Path], typer.Argument(help="Folders that lm-eval wrote (--output_path), or files of rows.")],
    task: Annotated[
        str | None, typer.Option(help="Task of the frontier; default: all, averaged. Of the others, by comma.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Without a suffix: .png and .svg are written; default: WHAT.")
    ] = None,
) -> None:
    """Recall against memory and speed, by place in the context, or over the checkpoints of one training run."""
    from .plot import plot as plot_runs

    with _one_line("plot"):
        written, notes = plot_runs(what, runs, task, output or Path(what))
    typer.echo(f"wrote {', '.join(map(str, written))}")
    for note in notes:
        typer.echo(f"Note: {note}.", err=True)


@app.command()
def protocols(
    runs: Annotated[list[Path], typer.Argument(help="Folders with lm-eval's samples, or a page's scores.jsonl.")],
    ppl: Annotated[list[Path], typer.Option(help="What `ppl --output` wrote, named after its text; repeat for more.")],
    output: Annotated[Path, typer.Option(help="Folder of the page and its plots.")] = Path("results/protocols"),
) -> None:
    """One page of finished runs: scores under each protocol, and whether the perplexity gap lies in the hits."""
    from .protocols import protocols as make_page

    with _one_line("protocols"):
        report = make_page(runs, ppl, output)
    typer.echo(report.read_text(encoding="utf-8"))


@app.command()
def bench(
    what: Annotated[str, typer.Argument(help="kernels, drift, decode, prefill or eval.")],
    only: Annotated[str | None, typer.Option(help="Parts of it, by comma.")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file that takes the result up beside others.")] = None,
) -> None:
    """Measure kernels or whole models on a GPU, beside their peers and the card's ceilings."""
    from .bench.command import BenchError
    from .bench.command import bench as run_bench

    try:
        run_bench(what, only, output)
    except BenchError as error:
        typer.echo(f"recall-evals bench: {error}", err=True)
        raise typer.Exit(2) from None
