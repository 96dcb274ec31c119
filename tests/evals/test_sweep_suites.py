"""Suites: what is wrong with one, all at once and by line; the bundled ones; and those of the hub, from a hub."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from hub import LoopbackHub
from recall_evals import task_configs
from recall_evals.evals.sweep.command import sweep
from recall_evals.evals.sweep.names import TaskNames, backends
from recall_evals.evals.sweep.suite import BUNDLED, find_suite, read_suite
from recall_evals.evals.sweep.yaml_lines import SuiteError
from recall_evals.results.rows import read_runs
from recall_rows import publish, published

pytestmark = pytest.mark.xdist_group("sweep")

NAMES = TaskNames()
RELEASED = {
    "based-360m": tiny.BASED,
    "based-1b": tiny.BASED,
    "based-1b-50b": tiny.BASED,
    "attn-360m": tiny.ATTENTION,
    "attn-1b": tiny.ATTENTION,
    "mamba-360m": tiny.MAMBA,
    "mamba-1b": tiny.MAMBA,
    "JRT-360M-30B": tiny.JRT,
    "JRT-1B-50B": tiny.JRT,
}


def read(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "suite.yaml"
    file.write_text(text, encoding="utf-8")
    return read_suite(file, backends(), NAMES.ours)


def said_of(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(SuiteError) as refused:
        read(tmp_path, text)
    return str(refused.value).replace(str(tmp_path / "suite.yaml"), "").splitlines()


EVERYTHING_WRONG = """\
modles: []
models:
  - basd
  - {backend: hff, args: {pretrained: x/y}}
  - {pretrained: based, args: {pretrained: mamba}}
  - {checkpoints: nowhere/step-*, name: one}
  - {pretrained: based, revisions: []}
  - [based]
tasks:
  - mini_fdb
  - {tasks: [fda], protocol: base}
  - {protocol: based}
  - {tasks: [mini_fda, mini_fda], limit: 1.5, num_fewshot: -1}
batch_size: many
timeout: three weeks
limit: 0
gpus: 1.0
device: [cpu]
shard_prompts: 0
published: perhaps
name: a/b
"""


def test_all_that_is_wrong_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    said = said_of(tmp_path, EVERYTHING_WRONG)
    expected = {
        1: ["unknown key 'modles', did you mean 'models'?"],
        3: ["unknown model 'basd': no such folder or bundled checkpoint"],
        4: ["'backend' must be one of", "did you mean 'hf'?"],
        5: ["'pretrained' stands here and in 'args'"],
        6: ["no folder 'nowhere/step-*' holds a config.json", "'name' can't name several"],
        7: ["'revisions' must be a name, or a list of them"],
        8: ["a model is a name, or a mapping"],
        10: ["unknown task 'mini_fdb', did you mean 'mini_fda'?"],
        11: ["'protocol' must be one of lm-eval-v1, based, jrt, jrt-twice, got 'base', did you mean 'based'?"],
        12: ["'tasks' is missing"],
        13: ["'limit' must be a number of documents, or a share", "'num_fewshot' must be", "in this job a second time"],
        14: ["'batch_size' must be a number or auto, got 'many'"],
        15: ["'timeout' must be a time such as 90s, 30m or 2h, got 'three weeks'"],
        16: ["'limit' must be a number of documents"],
        17: ["'gpus' must be a whole number >= 0, got '1.0'"],
        18: ["'device' must be text"],
        19: ["'shard_prompts' must be a whole number >= 1"],
        20: ["'published' must be true or false, got 'perhaps'"],
        21: ["'name' 'a/b' names a folder"],
    }
    for line, texts in expected.items():
        of_line = "\n".join(text for text in said if text.startswith(f":{line}: "))
        assert of_line and all(text in of_line for text in texts), (line, of_line)
    assert {int(text.split(":")[1]) for text in said} <= {*expected}  # and nothing else


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [based\ntasks: [mini_fda]", ":2: isn't YAML"),
        ("- based", ":1: must be a mapping"),
        ("", ":1: must be a mapping"),
        ("models: [based]", ":1: 'tasks' is missing: list at least one"),
        ("models: [based]\ntasks: [mini_fda]\ntasks: [mini_swde]", ":3: 'tasks' stands here a second time"),
        (
            "models: [based, {pretrained: based, args: {dtype: bfloat16}}]\ntasks: [mini_fda]",
            ":1: a second model named",
        ),
        ("models: &a [*a]\ntasks: [mini_fda]", ":1: a model is a name"),
        ("models: [{args: {x: &a [*a]}, pretrained: based}]\ntasks: [mini_fda]", ":1: 'args' must be plain YAML"),
        (f"models: {'[' * 5000}", "is nested too deeply"),
        ("models: [{args: {since: 2024-01-01}, pretrained: based}]\ntasks: [mini_fda]", ":1: 'args' must be plain"),
    ],
)
def test_a_suite_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    assert any(message in line for line in said_of(tmp_path, text))


def test_one_item_may_be_several_models(tmp_path: Path) -> None:
    for step in (1000, 200):
        (tmp_path / f"step-{step}").mkdir()
        (tmp_path / f"step-{step}" / "config.json").write_text("{}")
    suite = read(
        tmp_path,
        f"""
models:
  - {{checkpoints: {tmp_path}/step-*, timeout: 2h, gpus: 2}}
  - {{pretrained: org/model, revisions: [step-1, step-2], args: {{dtype: bfloat16}}, batch_size: 4}}
  - {{name: big, backend: hf, args: {{pretrained: org/big}}}}
tasks: [mini_fda, {{tasks: [fda, swde], protocol: based, documents: local, limit: 0.5}}, mini_swde]
limit: 7
timeout: 90
batch_size: auto
""",
    )
    assert [model.name for model in suite.models] == ["step-200", "step-1000", "model@step-1", "model@step-2", "big"]
    assert [model.timeout for model in suite.models] == [7200, 7200, 90, 90, 90]
    assert [model.batch_size for model in suite.models] == ["auto", "auto", "4", "4", "auto"]
    assert suite.models[3].args == {"pretrained": "org/model", "dtype": "bfloat16", "revision": "step-2"}
    assert [(some.tasks, some.limit) for some in suite.questions] == [
        (("mini_fda", "mini_swde"), 7),
        (("local_based_fda", "local_based_swde"), 0.5),
    ]


def test_bundled_suites_are_whole() -> None:
    found = {file.stem: read_suite(file, backends(), NAMES.ours) for file in BUNDLED.glob("*.yaml")}
    assert set(found) == {"demo", "based_readme", "jrt_table1", "frontier"}
    assert {name: len(suite.models) for name, suite in found.items()} == {
        "demo": 3, "based_readme": 6, "jrt_table1": 3, "frontier": 8,
    }  # fmt: skip
    assert all(find_suite(name).samefile(BUNDLED / f"{name}.yaml") for name in found)
    for given in ("nothing", "elsewhere/demo.yaml"):  # a path is a path
        with pytest.raises(SuiteError, match="no such file, nor a bundled suite: there are based_readme, demo, front"):
            find_suite(given)
    asked = {str(model.pretrained).rpartition("/")[2] for name in found for model in found[name].models}
    assert asked == {*RELEASED, "attention", "based", "mamba"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Tiny models under the released names, made-up rows under the names of the published sets."""
    root = tmp_path_factory.mktemp("hub")
    models = {}
    for seed, (name, config) in enumerate(RELEASED.items()):
        folder = tiny.save(root / name, config, seed=seed)
        (folder / "tokenizer.json").unlink()  # the released ones carry none
        models[f"hazyresearch/{name}"] = folder
    (root / "gpt2").mkdir()
    tiny.save_byte_tokenizer(root / "gpt2" / "tokenizer.json")
    models["openai-community/gpt2"] = root / "gpt2"
    datasets: dict[str, Any] = {}
    for file in Path(next(iter(task_configs.__path__)), "recall").rglob("recall_*.yaml"):
        config = yaml.safe_load(file.read_text())
        if "dataset_path" in config:
            kind = config["metadata"]["questions"]
            datasets[config["dataset_path"]] = publish(root / config["dataset_path"].replace("/", "_"), published(kind))
    with LoopbackHub(models=models, datasets=datasets) as served:
        environment = served.environment(root / "home", OMP_NUM_THREADS="1", COLUMNS="200")
        environment.pop("RECALL_EVALS_GPT2", None)

        def ask(*flags: str) -> subprocess.CompletedProcess[str]:
            command = [str(Path(sys.executable).with_name("recall-evals")), "sweep", *flags]
            return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=1200)

        yield ask, root


def test_a_plan_from_the_hub(hub: Any) -> None:
    ask, root = hub
    done = ask("based_readme", "--plan")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "-1b" in line]
    assert [row[0] for row in rows] == ["based-1b", "mamba-1b", "attn-1b"]
    for _, tasks, state, prompts, asked, read_once, time in rows:
        assert tasks == "recall_based_swde, recall_based_fda, recall_based_squad" and state == "to run" and time == "?"
        # By their bytes, which is what this tokenizer makes of them; rows of a document share its text.
        assert int(prompts) == 36 and int(asked.replace(",", "")) > 2 * int(read_once.replace(",", ""))
    about = json.loads(next((root / "out/based_readme/.sweep").glob("*/job.json")).read_text())
    assert len(about["content"]) == 40  # the commit


@pytest.mark.long
@pytest.mark.parametrize(("suite", "jobs"), [("based_readme", 6), ("jrt_table1", 6), ("frontier", 8)])
def test_the_suites_of_the_hub(hub: Any, suite: str, jobs: int) -> None:
    ask, root = hub
    done = ask(suite)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    print(done.stdout)
    reading = read_runs([root / "out" / suite])
    assert not reading.problems and not reading.unknown
    assert len({row.source for row in reading.rows}) == jobs
    if suite != "frontier":
        assert "Δ" in done.stdout


def test_an_unknown_repository_is_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = tmp_path / "suite.yaml"
    file.write_text("models:\n- based\n- hazyresearch/nothing-7b\n- org/nothing\ntasks: [mini_fda]\n")
    with pytest.raises(SuiteError) as refused:
        sweep(str(file), tmp_path / "out", None, False, None)
    assert [line.split(": ")[0].rpartition(":")[2] for line in str(refused.value).splitlines()] == ["3", "4"]
    assert "hazyresearch/nothing-7b" in str(refused.value) and not list(tmp_path.glob("out/*-*"))
