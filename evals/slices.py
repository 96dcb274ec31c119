"""`recall-evals slices`: from what lm-eval wrote with `--log_samples` to where in the context recall fails.

Any backend's runs. What a model read of a prompt is what lm-eval's own backends and ours keep of it: its last tokens,
`max_length` less the tokens to generate. A run that names no `max_length` counts as uncut.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters.tokenizer import load_tokenizer, tokenizer_hash
from ..models.bundled import PREFIX
from ..models.errors import ModelError
from ..results.lm_eval_rows import model_arguments, system_of
from ..results.slices import Record, counts_table, plot_slices, sliced, slicings, table
from ..task_configs.places import Bounds, answers_of, locate

METRICS = ("contains", "exact_match")
GENERATED = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names that lm-eval takes
DEFAULT_GENERATED = 256  # of lm-eval's backends and ours
PLOTS = (".png", ".svg")


class SlicesError(ValueError):
    """A run that can't be sliced; the message names the folder or file and the remedy."""


@dataclass(frozen=True)
class Samples:
    """One samples file, and what the results file of the same moment says of its run (nothing where it is absent).

    `model` is the checkpoint's name, else the one that lm-eval gave it, else its folder's.
    """

    file: Path
    task: str
    results: dict[str, Any]
    model: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The run's `--model_args`."""
        return model_arguments(self.results.get("config", {}).get("model_args"))

    @property
    def system(self) -> str | None:
        """What tells the model from others; None: no results file says."""
        return system_of(self.results, self.file) if self.results else None

    @property
    def max_length(self) -> int | None:
        """Tokens of the model's context, by the results file or the arguments; None: neither says."""
        found = self.results.get("max_length") or self.arguments.get("max_length")
        return int(found) if found else None


@dataclass
class Tokenizers:
    """The tokens of prompts: each tokenizer is loaded once, and each of its prompts read once."""

    override: str | None
    loaded: dict[Any, tuple[Any, str]] = field(default_factory=dict)
    read: dict[tuple[str, str], Bounds] = field(default_factory=dict)

    def of(self, samples: Samples) -> tuple[Any, str]:
        """The run's tokenizer and its hash. Raises SlicesError: it isn't known, isn't there or isn't the run's."""
        arguments, config = samples.arguments, samples.results.get("config", {})
        pretrained = config.get("checkpoint") or arguments.get("pretrained")
        named, revision = arguments.get("tokenizer"), arguments.get("revision")
        if "tokenizer_hash" not in config:  # another backend, which takes no GPT-2's where a model has no tokenizer
            named = named or pretrained
        source = (self.override, None, None) if self.override else (named, pretrained, revision)
        if not any(source[:2]):
            raise SlicesError(f"{samples.file}: its run names no tokenizer; give --tokenizer <folder, file or hub id>")
        if source not in self.loaded:
            try:
                tokenizer = load_tokenizer(source[0], source[1] or "", source[2])
            except ModelError as error:
                raise SlicesError(f"{samples.file}: the tokenizer of its run: {error}; or give --tokenizer") from error
            if not tokenizer.is_fast:
                raise SlicesError(f"{samples.file}: its run's tokenizer is no fast one; give --tokenizer with one")
            self.loaded[source] = tokenizer, tokenizer_hash(tokenizer)
        tokenizer, found = self.loaded[source]
        if not self.override and config.get("tokenizer_hash") not in (None, found):
            raise SlicesError(
                f"{samples.file}: its run had another tokenizer than {named or pretrained} has now (by its hash); "
                "give --tokenizer with the one of the run"
            )
        return tokenizer, found

    def offsets(self, tokenizer: tuple[Any, str], prompt: str) -> Bounds:
        """Characters at which the prompt's tokens start and end, two arrays [n]."""
        known, name = tokenizer
        if (name, prompt) not in self.read:
            pairs = known(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            array = np.array(pairs["offset_mapping"], dtype=np.int32).reshape(-1, 2)
            self.read[name, prompt] = array[:, 0].copy(), array[:, 1].copy()
        return self.read[name, prompt]


def slices(
    runs: Sequence[Path],
    tasks: Collection[str] | None = None,
    tokenizer: str | None = None,
    records: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Print what was counted and a table a slicing, one column a model; write records (JSON lines) and the plot.

    `tasks`: the only ones to take; None: all.

    Raises:
        SlicesError: no samples, none that can be scored, a tokenizer that isn't known, or an output of unknown format.
    """
    if plot is not None and plot.suffix not in PLOTS:
        raise SlicesError(f"--plot {plot}: its suffix must be one of {', '.join(PLOTS)}")
    for option, output in (("--records", records), ("--plot", plot)):
        if output is not None and not output.absolute().parent.is_dir():
            raise SlicesError(f"{option} {output}: there is no folder {output.absolute().parent}; make it first")
    notes: list[str] = []
    tokenizers = Tokenizers(tokenizer)
    models: dict[str, list[Record]] = {}
    for name, files in _columns(runs, notes).items():
        wanted = [samples for samples in files if tasks is None or samples.task in tasks]
        read = [record for samples in wanted for record in _records(samples, name, tokenizers, notes)]
        if read:
            models[name] = read
    if not models:
        among = "" if tasks is None else f" in {', '.join(tasks)}"
        raise SlicesError("\n".join([f"no prompts with a score of {' or '.join(METRICS)}{among}", *notes]))
    everything = [record for read in models.values() for record in read]
    taken = {name: Counter(record.task for record in read) for name, read in models.items()}
    if any(counts != taken[everything[0].model] for counts in taken.values()):
        notes.append("the models answered other prompts, so their columns can't be compared")
    pooled = sorted(set().union(*taken.values()))
    if len(pooled) > 1:
        notes.append("tasks are pooled, and a slice may hold only some of them: --tasks NAME shows one alone")
    print(f"tasks: {', '.join(pooled)}")
    print("share right (%) ± standard error clustered by document (prompts)\n")
    print(counts_table(models))
    for slicing in slicings(everything) if sliced(everything) else []:
        print(f"\n{table(models, slicing)}")
    for note in notes:
        print(f"\nNote: {note}.")
    if records is not None:
        records.write_text("".join(json.dumps(asdict(record)) + "\n" for record in everything), encoding="utf-8")
    if plot is not None:
        plot_slices(models, plot)


def _columns(runs: Sequence[Path], notes: list[str]) -> dict[str, list[Samples]]:
    """The samples files of each model, the newest of a task, by its name, with the run's where several have it.

    Folders below one run are one model's where their results say so, as those of a sweep's jobs.
    """
    found: dict[tuple[Path, str, str], list[Samples]] = {}
    for run in {path.resolve(): path for path in runs}.values():
        if not run.is_dir():
            raise SlicesError(f"{run}: no such folder; give what lm-eval's --output_path named")
        files = sorted(run.rglob("samples_*.jsonl"))
        if not files:
            raise SlicesError(f"{run} holds no samples_*.jsonl; run lm-eval again with --log_samples")
        newest: dict[tuple[Path, str, str], Samples] = {}
        for file in files:  # names end in the date, so that a later one comes later
            samples = _described(file)
            key = (file.parent, samples.model, samples.task)
            if key in newest:
                notes.append(f"{newest[key].file} is left out for the later {file.name}")
            newest[key] = samples
        for (folder, model, task), samples in newest.items():
            place = run, samples.system or str(folder), model
            if any(other.task == task for other in found.get(place, ())):  # the same model, asked otherwise
                place = run, str(folder), model
            found.setdefault(place, []).append(samples)
    names = [Path(model).name or model for _, _, model in found]
    columns: dict[str, list[Samples]] = {}
    for ((run, _, model), of_it), name in zip(found.items(), names, strict=True):
        label = name if names.count(name) == 1 else f"{run}: {name}"
        columns[label if label not in columns else f"{of_it[0].file.parent}: {model}"] = of_it
    return columns


def _described(file: Path) -> Samples:
    task, _, date = file.stem.removeprefix("samples_").rpartition("_")
    results: dict[str, Any] = {}
    for path in file.parent.glob(f"*_{date}.json"):  # `results_`, or what --output_path <name>.json said
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SlicesError(f"{path} isn't whole JSON ({error}); remove it, and give --tokenizer") from error
    # lm-eval invents a name where --model_args has none; ours say what the checkpoint was.
    model = results.get("config", {}).get("checkpoint") or results.get("model_name") or file.parent.name
    return Samples(file, task or file.stem, results, str(model).removeprefix(PREFIX))


def _records(samples: Samples, model: str, tokenizers: Tokenizers, notes: list[str]) -> Iterator[Record]:
    """One a sample, of its first filter; none, and a note why, for a task that isn't about recall."""
    tokenizer, chosen = None, None
    for number, row in _rows(samples.file, notes):
        chosen = row.get("filter") if chosen is None else chosen
        if row.get("filter") != chosen:
            continue
        try:
            given = row["arguments"]["gen_args_0"]
            prompt, generation = given["arg_0"], given.get("arg_1")  # of a whole text's likelihood there is no second
            doc = row["doc"]
        except (KeyError, TypeError, AttributeError) as error:
            raise SlicesError(
                f"{samples.file}: line {number} has no {error}; give samples of lm-eval 0.4.13"
            ) from error
        metric = next((name for name in METRICS if isinstance(row.get(name), int | float)), None)
        answers = answers_of(doc, row.get("target")) if isinstance(doc, Mapping) else None
        if metric is None or answers is None or not isinstance(prompt, str) or not isinstance(generation, Mapping):
            lacks = f"{' or '.join(METRICS)}" if metric is None else "generated text and an answer that is text"
            notes.append(f"{samples.file} is skipped: line {number} has no {lacks}")
            return
        tokenizer = tokenizer or tokenizers.of(samples)
        room = None
        if samples.max_length is not None:
            limits = [generation.get(name) for name in GENERATED] + [samples.arguments.get("max_gen_toks")]
            generated = next((int(limit) for limit in limits if limit is not None), DEFAULT_GENERATED)
            room = max(0, samples.max_length - generated)
        place = locate(prompt, answers, tokenizers.offsets(tokenizer, prompt), room)
        yield Record(
            model=model,
            task=samples.task,
            document=_document(row, f"{metric}_stderr_clustered"),
            key=None if doc.get("key") is None else str(doc["key"]),
            score=float(row[metric]),
            prompt_tokens=place.length,
            read_tokens=place.read,
            distance=place.distance,
            depth=place.depth,
            survived=place.survived,
            repeats=place.repeats,
            answer_tokens=place.answer_length,
        )


def _rows(file: Path, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbered lines; a last one that is cut short makes a note."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                if lines.read(1):
                    raise SlicesError(f"{file}: line {number} isn't JSON ({error}); run lm-eval again") from error
                notes.append(f"{file} ends in the middle of line {number}: its {number - 1} whole lines were used")
                return
            if not isinstance(row, dict):
                raise SlicesError(f"{file}: line {number} is no JSON object; run lm-eval again")
            yield number, row
    if not file.stat().st_size:
        notes.append(f"{file} is empty")


def _document(row: Mapping[str, Any], metric: str) -> str | None:
    """What the task itself clusters by, else the document's id; None where there is neither."""
    pair = row.get(metric)
    found = pair[1] if isinstance(pair, list) and len(pair) == 2 else row["doc"].get("doc_id")
    return None if found is None or found != found else str(found).strip() or None
