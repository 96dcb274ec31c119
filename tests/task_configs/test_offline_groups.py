"""The offline groups list what they say, run without network and data, and average what has one scale."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

import tiny
from recall_evals import task_configs

KINDS = ("single", "multikey", "multivalue")
NEEDLE = [*(f"needle_{kind}_{length}" for length in ("512", "1k", "2k") for kind in KINDS), "needle_single_4k"]
LONG = ["needle_multikey_4k", "needle_multivalue_4k"]
LONG += [f"needle_{kind}_{length}" for length in ("8k", "16k", "32k", "64k", "128k") for kind in KINDS]
MQAR = [f"mqar_{pairs}" for pairs in (8, 16, 32, 64, 128, 256)]
LIST = (
    "import sys; from lm_eval.tasks import TaskManager; from recall_evals import task_configs;"
    "found = TaskManager(include_path=[*task_configs.__path__], include_defaults=False);"
    "groups = {'needle', 'mqar', 'recall_offline', 'recall_offline_long'};"
    "print(groups <= set(found.all_groups), 'torch' in sys.modules)"
)


@pytest.fixture
def model_args(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny model of random weights that reads bytes, without network and data."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("RECALL_EVALS_DATA", raising=False)
    return f"pretrained={tiny.save(tmp_path / 'model', tiny.changed(tiny.BASED, n_layer=3))}"


def evaluate(tasks: list[str], model_args: str, limit: int) -> dict[str, Any]:
    results = lm_eval.simple_evaluate(
        model="based",
        model_args=model_args,
        tasks=tasks,
        task_manager=TaskManager(include_path=[*task_configs.__path__], include_defaults=False),
        device="cpu",
        batch_size=16,
        limit=limit,
    )
    assert results is not None
    return results


def test_listing_loads_no_torch() -> None:
    environment = os.environ | {"RECALL_EVALS_NO_DISCOVERY": "1"}
    command = [sys.executable, "-c", LIST]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "True False\n"


def test_groups_have_their_members_and_run_with_one_prompt_of_each(model_args: str) -> None:
    results = evaluate(["recall_offline", "recall_offline_long"], f"{model_args},max_length=256", limit=1)
    assert results["group_subtasks"] == {
        "recall_offline": ["mini_fda", "mini_swde", "needle", "mqar"],
        "needle": NEEDLE,
        "mqar": MQAR,
        "recall_offline_long": LONG,
    }
    for name in ["mini_fda", "mini_swde", *NEEDLE, *MQAR, *LONG]:
        metric = "exact_match" if name in MQAR else "contains"
        assert results["results"][name][f"{metric},none"] == 0
        assert results["n-samples"][name]["effective"] == 1
        (sample,) = results["samples"][name]
        assert {"doc_id", "key", "value", "text"} <= sample["doc"].keys()
        place = sample["doc"]["answer_place"]
        assert place["in_prompt"] == place["in_document"] == 1
        assert 0 <= place["depth"] < 1 and place["prompt_characters"] == len(sample["arguments"][0][0])
        assert len(sample["resps"][0][0]) <= 48  # a byte a token here
    groups = results["groups"]
    assert groups["needle"]["contains,none"] == groups["recall_offline_long"]["contains,none"] == 0
    assert groups["needle"]["sample_count"] == {"contains,none": 10}
    assert groups["mqar"]["exact_match,none"] == 0
    assert groups["mqar"]["sample_count"] == {"exact_match,none": 6}
    assert not any("contains" in metric or "exact_match" in metric for metric in results["results"]["recall_offline"])


def test_standard_errors_in_a_real_run_that_reads_a_document_once(model_args: str) -> None:
    metrics = {"needle_multikey_512": "contains", "needle_multivalue_512": "contains", "mqar_8": "exact_match"}
    results = evaluate(list(metrics), f"{model_args},max_length=4096", limit=8)
    for name, metric in metrics.items():
        found = results["results"][name]
        assert [found[f"{metric}{ending},none"] for ending in ("", "_stderr", "_stderr_clustered")] == [0, 0, 0]
    characters = {name: [len(sample["doc"]["text"]) for sample in results["samples"][name]] for name in metrics}
    assert results["config"]["prompt_tokens"] == sum(map(sum, characters.values()))
    assert results["config"]["truncated_prompts"] == 0
    # Of multikey and mqar two documents each, asked four times.
    once = (
        sum(characters["needle_multivalue_512"])
        + (sum(characters["needle_multikey_512"]) + sum(characters["mqar_8"])) / 4
    )
    assert results["config"]["prompt_tokens_computed"] < 1.3 * once
