"""The recall tasks' files: what their names say, their groups, and that loading them takes no torch."""

import subprocess
import sys
from pathlib import Path

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "task_configs" / "recall"


def test_names_say_protocol_and_data_set() -> None:
    files = [path for folder in FOLDER.iterdir() if folder.is_dir() for path in folder.glob("*.yaml")]
    assert len(files) == 22 + 9
    for path in files:
        config = yaml.safe_load(path.read_text())
        protocol = config["metadata"]["protocol"]
        assert path.stem == config["task"]
        assert path.parent.name == protocol.replace("-", "_")
        prefix = "" if protocol == "lm-eval-v1" else f"{path.parent.name}_"
        source, name = path.stem.split("_", 1)
        name = name.removeprefix(prefix)
        assert config["metadata"]["questions"] == name.split("_")[0]
        tail = config["dataset_path"].removeprefix("hazyresearch/based").lstrip("-_").removesuffix("-v2")
        assert (tail, "/" in config["dataset_path"]) == (name, source == "recall")


def test_groups_hold_tasks_that_are_there() -> None:
    upstream = Path(lm_eval.__file__).parent / "tasks"
    theirs = [str(upstream / folder) for folder in ("arc", "hellaswag", "lambada", "piqa", "winogrande")]
    manager = TaskManager(include_path=[str(ROOT / "task_configs"), *theirs], include_defaults=False)
    for path in FOLDER.glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        assert path.stem == config["group"]
        assert set(config["task"]) <= set(manager.all_tasks), path


def test_the_mean_of_recall_lm_as_the_readme_reads_it() -> None:
    readme = (FOLDER / "README.md").read_text()
    assert "(4 · acc of recall_lm_acc + 2 · acc_norm of recall_lm_acc_norm) / 6" in readme
    members = {name: yaml.safe_load((FOLDER / f"recall_lm_{name}.yaml").read_text()) for name in ("acc", "acc_norm")}
    assert {name: len(config["task"]) for name, config in members.items()} == {"acc": 4, "acc_norm": 2}
    for name, config in members.items():
        (aggregated,) = config["aggregate_metric_list"]
        assert (aggregated["metric"], aggregated["weight_by_size"]) == (name, False)


def test_loading_a_task_takes_no_torch() -> None:
    code = (
        "import sys; import recall_evals.task_configs.recall.protocols, recall_evals.task_configs.recall.cutting;"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
