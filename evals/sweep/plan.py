"""`recall-evals sweep --plan`: what would run, what is there, how many tokens it reads, and about how long it takes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from ... import task_configs
from ...models.checkpoint import find_folder
from .jobs import Job
from .ledger import Ledger
from .live import answers_in, clock
from .names import TaskNames
from .suite import Model, Questions
from .worker import RANK

GENERATED = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names that lm-eval takes
MAX_LENGTH, MAX_GENERATED = 2048, 256  # where neither the arguments nor the checkpoint name any


@dataclass(frozen=True)
class Prompt:
    """What is asked at once: a text, and a continuation to score or the most tokens to generate."""

    text: str
    continuation: str
    generated: int


@dataclass(frozen=True)
class Size:
    """Prompts of a job, their tokens, and those that are read when each shared prefix is read once."""

    prompts: int
    tokens: int
    computed: int


def print_plan(jobs: Sequence[Job], ledger: Ledger, console: Console, names: TaskNames) -> None:
    """A line a job. The tasks are loaded, which downloads documents that aren't here yet; no model is.

    The time is that of the tokens at the rate that the model's last finished job had here, loading and generating
    included; before its first it isn't known.
    """
    table = Table(title=f"{len(jobs)} jobs, {sum(job.finished for job in jobs)} finished")
    for header in ("model", "tasks", "state"):
        table.add_column(header, overflow="fold")
    for header in ("prompts", "prompt tokens", "after sharing", "time"):
        table.add_column(header, justify="right")
    notes: list[str] = []
    sizes = _sizes(jobs, names, notes)
    rates = _rates(jobs, sizes, ledger)
    total, unknown = 0.0, False
    for job in jobs:
        size, state, left = sizes.get(job.id), "finished", 0.0
        if not job.finished:
            kept = _kept(job)
            state = f"{kept:,} answers kept" if kept else "to run"
            rate, share = rates.get(job.model.name), 1.0
            if size and rate:
                share = max(0.0, 1 - kept / max(1, size.prompts))
                left = share * size.computed / rate
                total += left
            else:
                unknown = True
        cells = ("?",) * 3 if size is None else tuple(f"{n:,}" for n in (size.prompts, size.tokens, size.computed))
        time = "" if job.finished else clock(left) if left else "?"
        table.add_row(job.model.name, job.label, state, *cells, time)
    console.print(table)
    if total:
        console.print(f"about {clock(total)} one job after the other{', and what has no time yet' if unknown else ''}")
    elif unknown:
        console.print("The time is known once a job of the model has run here.")
    for note in notes:
        console.print(f"Note: {note}", highlight=False, markup=False, soft_wrap=True)


def _kept(job: Job) -> int:
    """Answers in the caches of a job, those that several hold counted once."""
    return max((answers_in(file) for file in (job.folder / "answers").glob(f"*{RANK}")), default=0)


def _rates(jobs: Sequence[Job], sizes: Mapping[str, Size], ledger: Ledger) -> dict[str, float]:
    """Prompt tokens a second, loading and generating included, of each model's last job that one process answered."""
    known = {job.id: job for job in jobs}
    found = {}
    for record in ledger:
        job, size = known.get(record["job"]), sizes.get(record["job"])
        if job and size and record["status"] == "finished" and record["part"] == "whole":
            # After a kill, or shards, it has read the rest alone, or nothing; other backends than ours don't say.
            computed = _computed(job)
            if (read := size.computed if computed is None else computed) > 0:
                found[job.model.name] = read / max(1e-3, float(record["seconds"]))
    return found


def _computed(job: Job) -> int | None:
    """The prompt tokens that the process read which wrote the job's results."""
    said = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(job.results.rglob("results_*.json"))]
    return said[-1]["config"].get("prompt_tokens_computed") if said else None


def _sizes(jobs: Sequence[Job], names: TaskNames, notes: list[str]) -> dict[str, Size]:
    """What each job asks, where its documents and its model's tokenizer can be had."""
    sizes: dict[str, Size] = {}
    asked: dict[str, list[Prompt] | None] = {}
    for job in jobs:
        key = str(replace(job.questions, lines=()))
        if key not in asked:
            try:
                asked[key] = list(_prompts(job.questions, names))
            except Exception as error:  # of whatever reads a task's documents
                asked[key] = None
                notes.append(f"{job.label}: can't be loaded ({_first_line(error)})")
        prompts = asked[key]
        if prompts is None:
            continue
        try:
            sizes[job.id] = _size(job.model, prompts)
        except Exception as error:  # of whatever reads a tokenizer
            notes.append(f"{job.model.name}: its tokens can't be counted ({_first_line(error)})")
    return sizes


def _prompts(questions: Questions, names: TaskNames) -> Iterator[Prompt]:
    """All that lm-eval would ask, as it builds it."""
    from lm_eval.evaluator_utils import get_sample_size
    from lm_eval.tasks import TaskManager

    only_ours = all(name in names.ours for name in questions.tasks)
    include = list(task_configs.__path__) if only_ours else None
    manager = TaskManager(include_path=include, include_defaults=not only_ours, metadata=questions.metadata)
    for task in manager.load(list(questions.tasks))["tasks"].values():
        if questions.gen_kwargs and task.get_config("output_type") == "generate_until":
            task.set_config(key="generation_kwargs", value=questions.gen_kwargs, update=True)
        default = task.get_config("num_fewshot")
        task.set_config(key="num_fewshot", value=default if questions.num_fewshot is None else questions.num_fewshot)
        if task.get_config("num_fewshot") is None or default == 0:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=1234)
        task.build_all_requests(limit=get_sample_size(task, questions.limit), rank=0, world_size=1)
        for instance in task.instances:
            text, *rest = instance.args
            if instance.request_type == "generate_until":
                kwargs = rest[0] if rest else {}
                most = next((int(kwargs[name]) for name in GENERATED if kwargs.get(name)), MAX_GENERATED)
                yield Prompt(text, "", most)
            else:
                yield Prompt(text, rest[0] if rest else "", 0)


def _size(model: Model, prompts: Sequence[Prompt]) -> Size:
    """Tokens as the model's tokenizer cuts them; other backends than ours share nothing."""
    from ...adapters.forest import Request, build_forest, total_tokens
    from ...adapters.tokenizer import encode, load_tokenizer

    arguments, source = model.args, model.pretrained
    if source is None:
        raise ValueError("its arguments name no `pretrained`")
    whole, max_length = _reading(model) if model.is_ours else (0, None)
    tokenizer = load_tokenizer(arguments.get("tokenizer"), source, arguments.get("revision"))
    max_length = int(arguments.get("max_length") or max_length or MAX_LENGTH)
    requests = []
    for prompt, ids in zip(prompts, encode(tokenizer, [p.text + p.continuation for p in prompts]), strict=True):
        room = max(1, max_length - prompt.generated)
        # A text whose likelihood is asked for as a whole is read in windows, none of it is cut.
        kept = ids[-room:] if prompt.generated or prompt.continuation else ids
        requests.append(Request(kept or [0], min(whole, len(kept))))
    asked = sum(len(request.tokens) for request in requests)
    return Size(len(prompts), asked, total_tokens(build_forest(requests)) if model.is_ours else asked)


def _reading(model: Model) -> tuple[int, int | None]:
    """By its config.json: tokens that a checkpoint reads in one piece (JRT's encoder), and those it was trained at."""
    import torch

    from ...models.hub import fetch_from_hub
    from ...models.loading import detect_architecture, model_class

    source = str(model.pretrained)
    folder = find_folder(source)
    file = folder / "config.json" if folder else fetch_from_hub(source, "config.json", model.args.get("revision"))
    config = json.loads(file.read_text(encoding="utf-8")) if file else {}
    with torch.device("meta"):
        whole = model_class(detect_architecture(config))(config).shortest_split
    return whole, config.get("train_length")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
