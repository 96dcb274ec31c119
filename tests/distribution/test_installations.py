"""The wheel, the wheel built from the sdist and an editable install: lm-eval's own console script runs our models."""

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from distribution.environment import ROOT, TASKS, Environment

FOLDERS = ("kernels", "models", "adapters", "task_configs", "evals", "results", "training", "checkpoints", "suites")
NAMES = {"based", "attention", "mamba", "h3", "hyena", "rwkv", "recall"}


def tracked(folder: str) -> list[Path]:
    """The files of a root folder that git has or would take, so no caches, or all of them outside a clone."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    found = (
        [ROOT / name for name in done.stdout.split("\0") if name]
        if done.returncode == 0
        else (ROOT / folder).rglob("*")
    )
    return [file for file in found if file.is_file() and "__pycache__" not in file.parts]


def test_root_folders_are_no_packages() -> None:
    """One with an `__init__.py` would shadow `kernels`, `adapters`, `evals` ... of others in the working directory."""
    assert [str(file) for folder in FOLDERS for file in (ROOT / folder).glob("__init__.py")] == []


def test_each_folder_has_a_link_that_leads_somewhere() -> None:
    links = {link.name: link for link in (ROOT / "src" / "recall_evals").iterdir() if link.is_symlink()}
    assert set(links) == {folder for folder in FOLDERS if tracked(folder)}
    assert {name: str(link.readlink()) for name, link in links.items()} == {name: f"../../{name}" for name in links}


@pytest.mark.parametrize("installation", ["wheel", "wheel from the sdist"])
def test_a_wheel_holds_the_tree(builds: dict[str, Path], installation: str) -> None:
    expected = {
        f"recall_evals/{file.relative_to(ROOT)}"
        for folder in FOLDERS
        for file in tracked(folder)
        if folder != "results"
        or file.suffix == ".py"
        or file in (ROOT / "results" / "page.html", ROOT / "results" / "benchmarks" / "h200.json")
        or file.is_relative_to(ROOT / "results" / "published")
    }
    with zipfile.ZipFile(builds[installation]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected | {"recall_evals/__init__.py", "recall_evals/py.typed", "recall_evals.pth"}


def test_the_console_script_runs_a_model(
    installed: Environment, model: Path, documents: Path, few_tasks: dict[str, str], tmp_path: Path
) -> None:
    command = ["--model", "based", "--model_args", f"pretrained={model}", "--tasks", "local_fda", "--batch_size", "2"]
    output = ["--gen_kwargs", "max_gen_toks=4", "--limit", "3", "--log_samples", "--output_path", str(tmp_path)]
    done = installed.run("lm_eval", *command, *output, RECALL_EVALS_DATA=str(documents), **few_tasks)
    assert "|local_fda|" in done.stdout
    (file,) = tmp_path.rglob("results_*.json")
    results = json.loads(file.read_text())
    assert results["n-samples"]["local_fda"] == {"original": 4, "effective": 3}
    assert len(next(tmp_path.rglob("samples_local_fda_*.jsonl")).read_text().splitlines()) == 3
    assert list(installed.home.iterdir()) == []


def test_lm_eval_lists_our_tasks_and_its_own(from_wheel: Environment, few_tasks: dict[str, str]) -> None:
    rows = from_wheel.run("lm_eval", "ls", "tasks", **few_tasks).stdout.splitlines()
    listed = {row.split("|")[1].strip() for row in rows if row.startswith("|")}
    assert {*TASKS, "local_fda", "local_swde", "local_squad", "fda", "hellaswag"} <= listed


def test_our_tasks_beside_all_of_lm_evals_own(from_wheel: Environment) -> None:
    found = from_wheel.evaluate(
        "import json; from lm_eval.tasks import TaskManager; index = TaskManager().task_index\n"
        f"print(json.dumps([len(index), 'mmlu' in index, [str(index[name].yaml_path) for name in {TASKS}]]))"
    )
    assert isinstance(found, list)
    assert found[0] > 10_000 and found[1]
    assert all(Path(file).is_relative_to(from_wheel.package / "task_configs") for file in found[2])


def test_the_bundled_checkpoints_are_found(installed: Environment) -> None:
    code = "import json; from recall_evals.models.bundled import bundled_names; print(json.dumps(bundled_names()))"
    tracked_names = {file.parent.name for file in tracked("checkpoints") if file.name == "config.json"}
    assert installed.evaluate(code) == sorted(tracked_names)


def test_names_and_targets(installed: Environment) -> None:
    """The copy imported is the installed one, it adds our names to lm-eval's, and its entry points say the same."""
    found = installed.evaluate(
        "import json, importlib.metadata as md, recall_evals, lm_eval.models as m\n"
        "from lm_eval.api.registry import model_registry as r\n"
        "from recall_evals.models import load_model\n"
        "print(json.dumps({'file': recall_evals.__file__,"
        " 'version': [recall_evals.__version__, md.version('recall-evals')],"
        " 'ours': {k: v for k, v in r.items() if k not in m.MODEL_MAPPING},"
        " 'hidden': [k for k, v in m.MODEL_MAPPING.items() if r._objs[k] != v],"
        " 'entry points': {e.name: e.value for e in md.entry_points(group='lm_eval.models')}}))"
    )
    assert isinstance(found, dict)
    assert found["file"] == str(installed.package / "__init__.py")
    assert found["version"][0] == found["version"][1]
    assert set(found["ours"]) == NAMES
    assert found["ours"] == found["entry points"]
    assert found["hidden"] == []
