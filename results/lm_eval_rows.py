"""From one results file of lm-eval, of any backend, or of `recall-evals ppl`, to rows."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .row import NEUTRAL_ARGUMENTS, Row
from .samples import SamplesFile, read_samples
from .statistics import clustered_standard_error

# What lm-eval's `hf`, or ours, calls a field of its model.
MODEL_FIELDS = {
    "architecture": ("architecture",),
    "parameters": ("parameters", "model_num_parameters"),
    "dtype": ("dtype", "model_dtype"),
    "state_dtype": ("state_dtype",),
    "content_hash": ("content_hash",),
    "model_sha": ("model_sha",),
    "revision": ("revision", "model_revision"),
    "tokenizer_hash": ("tokenizer_hash",),
    "training_tokens": ("training_tokens",),
}
MEASURED = (
    "state_bytes", "longest_prompt", "prompt_tokens", "prompt_tokens_computed", "generated_tokens", "truncated_prompts",
    "near_ties", "peak_states", "peak_state_bytes", "prefill_tokens_per_second", "decode_tokens_per_second",
    "conformance", "recall_evals_version", "device", "batch_size",
)  # fmt: skip
RUN_FIELDS = ("lm_eval_version", "transformers_version", "date", "git_hash", "max_length")
# Of a task's metadata, what decides its prompts.
SETTINGS = ("protocol", "questions", "context_length", "answer_length", "clean_up_spaces", "cut_tokenizer_sha256")
CLUSTERED = "_stderr_clustered"


def is_lm_eval(said: Any) -> bool:
    """Whether a JSON value is a results file of lm-eval's."""
    return isinstance(said, Mapping) and all(isinstance(said.get(name), Mapping) for name in ("results", "configs"))


def is_perplexity(said: Any) -> bool:
    """Whether a JSON value is what `recall-evals ppl` prints."""
    return isinstance(said, Mapping) and isinstance(said.get("models"), list) and "predicted_tokens" in said


def lm_eval_rows(said: Mapping[str, Any], file: Path, problems: list[str]) -> Iterator[Row]:
    """A row a task, metric and filter. Scores that are no numbers, and samples that aren't whole, are problems."""
    config = said.get("config") or {}
    arguments = model_arguments(config.get("model_args"))
    model = _model(config, arguments, said, file)
    reported = _reported(said, config, arguments)
    folder, date = file.parent, re.search(r"_(\d{4}-\d\d-\d\dT.*)$", file.stem)
    for task, scores in said["results"].items():
        if task not in said["configs"] or not isinstance(scores, Mapping):
            continue  # a group's mean: computed from the rows where it is wanted
        samples_file = folder / f"samples_{task}_{date[1]}.jsonl" if date else None
        samples = _whole_samples(samples_file, said, task, problems)
        for name, value in scores.items():
            metric, _, chosen = name.partition(",")
            if not chosen or metric.endswith(("_stderr", CLUSTERED)) or metric == "alias" or isinstance(value, str):
                continue
            if not isinstance(value, int | float) or not math.isfinite(value):
                problems.append(f"{file}: {task}: {metric} is {value}, no number; run this task again")
                value = math.nan
            error, clustered = _error(scores, metric, chosen, float(value), samples)
            better = (said.get("higher_is_better") or {}).get(task, {}).get(metric)
            counts = (said.get("n-samples") or {}).get(task) or {}
            yield Row(
                model=model,
                task=task,
                metric=metric,
                value=float(value),
                error=error,
                n=counts.get("effective"),
                filter=chosen,
                higher_is_better=not re.search("perplexity|bits_per_byte", metric) if better is None else bool(better),
                clustered=clustered,
                must_match=_must_match(said, task, metric, chosen, samples),
                reported=reported,
                source=str(file),
                samples=str(samples_file) if samples_file and samples_file.is_file() else None,
            )


def system_of(said: Mapping[str, Any], file: Path) -> str:
    """Of a results file of lm-eval's, the `Row.system` of its rows."""
    config = said.get("config") or {}
    arguments = model_arguments(config.get("model_args"))
    model = _model(config, arguments, said, file)
    return Row(model, "", "", math.nan, reported=_reported(said, config, arguments)).system


def model_arguments(given: Any) -> dict[str, Any]:
    """--model_args, which lm-eval writes as a mapping or as it was given."""
    if isinstance(given, str):
        return dict(part.split("=", 1) for part in given.split(",") if "=" in part)
    return dict(given or {})


def _model(config: Mapping[str, Any], arguments: Mapping[str, Any], said: Mapping[str, Any], file: Path) -> str:
    """The checkpoint: as our models say, else by the arguments, else the name that lm-eval made up."""
    name = config.get("checkpoint") or arguments.get("pretrained") or arguments.get("model") or said.get("model_name")
    name = str(name or file.parent.name)
    return f"{name}@{arguments['revision']}" if arguments.get("revision") else name


def _reported(said: Mapping[str, Any], config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    ours = "recall_evals_version" in config
    left_out = NEUTRAL_ARGUMENTS | {"pretrained", "revision"}
    if ours:  # one engine under several names; dtype and tokenizer are reported as what they came out to be
        left_out |= {"dtype", "state_dtype", "tokenizer"}
    if arguments.get("pads"):  # which depend on who shares a batch
        arguments = {**arguments, "batch_size": arguments.get("batch_size", config.get("batch_size"))}
        left_out -= {"batch_size"}
    found: dict[str, Any] = {
        "backend": "recall-evals" if ours else config.get("model"),
        "arguments": {name: str(value) for name, value in sorted(arguments.items()) if name not in left_out},
    }
    for name, spellings in MODEL_FIELDS.items():
        found[name] = next((config[spelling] for spelling in spellings if config.get(spelling)), None)
    found |= {name: config.get(name) for name in MEASURED} | {name: said.get(name) for name in RUN_FIELDS}
    seconds = said.get("total_evaluation_time_seconds")
    found["seconds"] = None if seconds is None else float(seconds)
    found["hardware"] = _hardware(str(said.get("pretty_env_info") or ""))
    return {name: value for name, value in found.items() if value is not None}


def _hardware(environment: str) -> str | None:
    """The GPUs, or else the CPU, by what lm-eval tells of the machine."""
    # A single GPU stands behind "GPU models and configuration:", several on lines of their own.
    for pattern in (r"\bGPU \d+: (.+)$", r"^Model name:\s+(.+)$"):
        if found := re.findall(pattern, environment, re.MULTILINE):
            return f"{len(found)} x {found[0].strip()}" if len(found) > 1 else str(found[0]).strip()
    return None


def _whole_samples(file: Path | None, said: Mapping[str, Any], task: str, problems: list[str]) -> SamplesFile | None:
    """The task's samples where the file holds them all; a file that holds fewer is a problem."""
    if file is None or not file.is_file():
        if task in (said.get("task_hashes") or {}):
            problems.append(f"{file or task}: the samples that were logged are gone: nothing to compare by")
        return None
    read = read_samples(file)
    problems.extend(read.problems)
    expected = ((said.get("n-samples") or {}).get(task) or {}).get("effective")
    found = len({sample.id for sample in read.samples})
    if expected is not None and found != expected:
        problems.append(f"{file} has {found:,} of {expected:,} prompts; compare takes those that are there")
        return None
    return read if read.samples and not read.problems else None


def _error(
    scores: Mapping[str, Any], metric: str, chosen: str, value: float, samples: SamplesFile | None
) -> tuple[float, bool]:
    """The standard error, clustered by document where the task or the samples tell the documents."""
    clustered = scores.get(f"{metric}{CLUSTERED},{chosen}")
    if clustered is not None:
        return _number(clustered), True
    if samples is not None:
        rows = [sample for sample in samples.samples if sample.filter == chosen and metric in sample.scores]
        documents = [sample.document for sample in rows]
        # Only of metrics that are means: a perplexity is none of its samples' scores.
        if rows and None not in documents and math.isclose(sum(s.scores[metric] for s in rows) / len(rows), value):
            return clustered_standard_error([s.scores[metric] for s in rows], documents), True
    return _number(scores.get(f"{metric}_stderr,{chosen}")), False


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan


def _must_match(
    said: Mapping[str, Any], task: str, metric: str, chosen: str, samples: SamplesFile | None
) -> dict[str, Any]:
    config, run = said["configs"][task], said.get("config") or {}
    metadata = config.get("metadata") or {}
    counts = (said.get("n-samples") or {}).get(task) or {}
    effective, original = counts.get("effective"), counts.get("original")
    limit = run.get("limit")
    if effective is not None and original is not None:  # what a limit came out to be
        limit = None if effective >= original else effective
    rolling = config.get("output_type") == "loglikelihood_rolling"  # in windows of the context's length, uncut
    cut = run.get("truncated_prompts")
    found: dict[str, Any] = {
        "task": task,
        "version": (said.get("versions") or {}).get(task),
        "metric": metric,
        "filter": chosen,
        "shots": (said.get("n-shot") or {}).get(task, config.get("num_fewshot")),
        "n": effective,
        "output_type": config.get("output_type"),
        "generation": config.get("generation_kwargs"),
        "repeats": config.get("repeats"),
        "documents": metadata.get("documents_sha256"),
        "samples": None if samples is None else samples.fingerprint(),
        **{name: metadata.get(name) for name in SETTINGS},
    }
    found = {name: value for name, value in found.items() if value is not None}
    found["limit"] = limit
    for name in ("system_instruction_sha", "chat_template_sha", "fewshot_as_multiturn"):
        found[name] = said.get(name) or None
    if found.get("shots"):
        found["fewshot_seed"] = run.get("fewshot_seed")
    found["truncation"] = {"max_length": said.get("max_length"), "cut_prompts": None if rolling else cut}
    return found


def perplexity_rows(said: Mapping[str, Any], file: Path) -> Iterator[Row]:
    """Three rows a model: the perplexity of all tokens, of associative-recall hits, and of the others."""
    data = said.get("data") or {}
    must_match = {
        "task": "ppl",
        "documents": data.get("sha256"),
        "window": said.get("window"),
        "n": said["predicted_tokens"],
        "max_train_count": said.get("max_train_count"),
        "hits": said.get("hits"),
    }
    for model in said["models"]:
        fields = {name: model.get(name) for name in MODEL_FIELDS}
        reported = {
            "backend": "recall-evals",
            "arguments": {},
            "state_dtype": "float32",
            "data": data.get("source"),
            "device": said.get("device"),
            "seconds": model.get("seconds"),
        } | {name: value for name, value in fields.items() if value is not None}
        reported.setdefault("model_sha", model.get("revision") or model.get("content_hash"))
        # A perplexity is one of tokens: another tokenizer's can't be compared.
        shared = must_match | {"tokenizer_hash": model.get("tokenizer_hash")}
        for metric, part in (
            ("perplexity", model),
            ("perplexity_hits", model["hits"]),
            ("perplexity_others", model["others"]),
        ):
            value = part.get("perplexity")
            yield Row(
                model=model["checkpoint"],
                task="ppl",
                metric=metric,
                value=_number(value),
                n=part.get("tokens", said["predicted_tokens"]),
                higher_is_better=False,
                must_match=shared | {"metric": metric},
                reported=reported,
                source=str(file),
            )
