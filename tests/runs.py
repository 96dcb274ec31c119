"""Runs for tests: real ones of lm-eval, saved by its own tracker, and files written in its form."""

import hashlib
import json
from pathlib import Path
from typing import Any

import our_tasks
import tiny

DATE = "2026-01-02T03-04-05.000006"


def evaluate(output: Path, backend: str, arguments: dict[str, Any], tasks: list[str], **options: Any) -> dict[str, Any]:
    """`lm_eval --model BACKEND --model_args ... --log_samples --output_path OUTPUT` on the CPU; returns the results."""
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(output))
    given = ",".join(f"{name}={value}" for name, value in arguments.items())
    tracker.general_config_tracker.log_experiment_args(backend, given, "", "", False)
    options = {"device": "cpu", "batch_size": 16, "bootstrap_iters": 0, "model_args": arguments} | options
    results = our_tasks.evaluate(tasks, backend, **options)
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in tasks:
        tracker.save_results_samples(task, samples[task])
    return results


def transformer(folder: Path) -> Path:
    """A GPT-2 of Transformers with the byte tokenizer and random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    tiny.save_byte_tokenizer(folder / "byte.json")
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "byte.json"), eos_token=end).save_pretrained(folder)
    config = GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=2, bos_token_id=256, eos_token_id=256)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def sample(i: int, score: float, answer: str = " 42", document: str | None = None, **fields: Any) -> dict[str, Any]:
    """A sample of lm-eval's, of `contains`; `fields` replace or add to its doc."""
    doc = {"doc_id": document or f"d{i // 4}", "key": "Lot", "value": "42", "text": f"Item {i}. Lot: 42. Dry.\nLot:"}
    doc |= fields

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    return {
        "doc_id": i,
        "doc": doc,
        "target": doc["value"],
        "arguments": {"gen_args_0": {"arg_0": doc["text"], "arg_1": {"until": ["\n"], "max_gen_toks": 8}}},
        "resps": [[answer]],
        "filtered_resps": [answer],
        "filter": "none",
        "metrics": ["contains"],
        "doc_hash": digest(json.dumps(doc)),
        "prompt_hash": digest(doc["text"]),
        "target_hash": digest(doc["value"]),
        "contains": score,
    }


def write(
    folder: Path, samples: dict[str, list[dict[str, Any]]], model: str = "org/tiny", date: str = DATE, **fields: Any
) -> Path:
    """A run in lm-eval's form, with `fields` of its config and `top` of the results; returns the folder."""
    top = fields.pop("top", {})
    counts = {task: len(rows) for task, rows in samples.items()}
    results = {
        "results": {
            task: {
                "alias": task,
                "contains,none": sum(row["contains"] for row in rows) / max(1, len(rows)),
                "contains_stderr,none": "N/A",
            }
            for task, rows in samples.items()
        },
        "configs": {
            task: {"task": task, "output_type": "generate_until", "num_fewshot": 0, "metadata": {"version": 1}}
            for task in samples
        },
        "versions": dict.fromkeys(samples, 1),
        "n-shot": dict.fromkeys(samples, 0),
        "higher_is_better": {task: {"contains": True} for task in samples},
        "n-samples": {task: {"original": n, "effective": n} for task, n in counts.items()},
        "config": {"model": "hf", "model_args": {"pretrained": model}, "limit": None} | fields,
        "date": 1.0,
        "max_length": 64,
        "task_hashes": dict.fromkeys(samples, "0" * 64),
    } | top
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"results_{date}.json").write_text(json.dumps(results))
    for task, rows in samples.items():
        (folder / f"samples_{task}_{date}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
