"""lm-eval's own command line with our model, on lm-eval's own `swde` and `fda` and on the shared documents."""

import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from hub import LoopbackHub

DATASETS = {"fda": "hazyresearch/based-fda", "swde": "hazyresearch/based-swde-v2"}
CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: validation\n    path: validation.json\n---\n"


def lm_eval(arguments: list[str], environment: dict[str, str], cwd: Path) -> str:
    command = [str(Path(sys.executable).with_name("lm_eval")), *arguments]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def results(folder: Path) -> dict:
    return json.loads(next(folder.rglob("results_*.json")).read_text())


def texts(folder: Path, task: str) -> list[tuple]:
    lines = next(folder.rglob(f"samples_{task}_*.jsonl")).read_text().splitlines()
    return [(s["doc_id"], s["resps"], s["contains"]) for s in map(json.loads, lines)]


def documents(task: str, rows: int) -> list[dict]:
    """Rows in the published schema: real ones where they are, generated ones elsewhere."""
    file = tiny.SHARED / "data" / task / "validation.jsonl.xz"
    if file.exists():
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line, _ in zip(lines, range(rows), strict=False)]
    page = "The sensor of unit {0} is made of brass and was sold in {0}. " * 5
    return [
        {
            "doc_id": f"d{i // 5}",
            "file_name": "",
            "key": f"Key {i % 5}",
            "value": "brass ",
            "text": f"{page.format(i // 5)}\nKey {i % 5}:",
        }
        for i in range(rows)
    ]


@pytest.fixture
def random_model(tmp_path: Path) -> Path:
    gpt2 = tiny.SHARED / "data" / "gpt2" / "tokenizer.json"
    folder = tiny.save(
        tmp_path / "random", tiny.changed(tiny.BASED, n_layer=3, vocab_size=50257 if gpt2.exists() else 257)
    )
    if gpt2.exists():
        shutil.copy(gpt2, folder / "tokenizer.json")
    return folder


def test_upstream_swde_and_fda_give_the_same_texts_at_batch_1_and_16(random_model, few_tasks, tmp_path):
    """The model and lm-eval's own data sets come from a hub, here on loopback."""
    published = {}
    for task, repository in DATASETS.items():
        folder = published[repository] = tmp_path / "hub" / task
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(CARD)
        lines = [json.dumps(row) + "\n" for row in documents(task, 24)]
        (folder / "validation.json").write_text("".join(lines))
    runs = []
    with LoopbackHub(models={"hazyresearch/based-random": random_model}, datasets=published) as hub:
        environment = hub.environment(tmp_path / "home", **few_tasks)
        for batch in (1, 16):
            out = tmp_path / f"out{batch}"
            printed = lm_eval(
                ["--model", "based", "--model_args", "pretrained=hazyresearch/based-random", "--tasks", "swde,fda"]
                + ["--batch_size", str(batch), "--log_samples", "--output_path", str(out), "--device", "cpu"],
                environment,
                tmp_path,
            )
            assert "prompt tokens computed" in printed
            runs.append(out)
        commit = hub.commit("models", "hazyresearch/based-random", "main")
    for task in DATASETS:
        assert len(texts(runs[0], task)) == 24
        assert texts(runs[0], task) == texts(runs[1], task)
    config = results(runs[1])["config"]
    assert config["revision"] == config["model_sha"] == commit
    assert config["prompt_tokens_computed"] < config["prompt_tokens"] / 2


@pytest.mark.parametrize(
    ("task", "prompts", "share"), [("fda", 763, 0.131), ("swde", 875, 0.161), ("squad", 1500, 0.591)]
)
def test_real_prompts_cost_what_their_trie_holds(random_model, tmp_path, task, prompts, share):
    """All real prompts, one generated token each: at most a point more is computed than a trie of them holds."""
    from lm_eval.api.instance import Instance

    from recall_evals.adapters.lm import BasedLM

    file = tiny.shared(f"data/{task}/validation.jsonl.xz", f"prompt tokens computed for all of local_{task}")
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert len(rows) == prompts
    lm = BasedLM(str(random_model), batch_size=16)
    asked = [
        Instance("generate_until", {}, (row["text"].strip(), {"until": ["\n"], "max_gen_toks": 1}), 0) for row in rows
    ]
    assert len(lm.generate_until(asked, disable_tqdm=True)) == prompts
    info = lm.get_model_info()
    computed = info["prompt_tokens_computed"] / info["prompt_tokens"]
    assert share - 0.0005 <= computed <= share + 0.01
    assert info["peak_state_bytes"] <= info["state_bytes"] * info["peak_states"]
