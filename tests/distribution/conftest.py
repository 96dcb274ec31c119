"""The three ways to install this project, each built once a session and put into an environment of its own."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import tiny
from distribution.environment import Environment, build, create

INSTALLATIONS = ("wheel", "wheel from the sdist", "editable")


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel file of each installation."""
    folder = tmp_path_factory.mktemp("builds")
    shutil.unpack_archive(build(folder / "sdist", "build_sdist"), folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    return {
        "wheel": build(folder / "wheel", "build_wheel"),
        "wheel from the sdist": build(folder / "from-sdist", "build_wheel", unpacked),
        "editable": build(folder / "editable", "build_editable"),
    }


@pytest.fixture(scope="session")
def environments(builds: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Environment]:
    """An environment for each installation, made when first asked for; tests leave them as they are."""
    return cache(lambda installation: create(tmp_path_factory.mktemp("installed"), builds[installation]))


@pytest.fixture(params=INSTALLATIONS)
def installed(request: pytest.FixtureRequest, environments: Callable[[str], Environment]) -> Environment:
    """The environment of each installation in turn."""
    return environments(request.param)


@pytest.fixture
def from_wheel(environments: Callable[[str], Environment]) -> Environment:
    """The environment with the wheel, where one installation is enough."""
    return environments("wheel")


@pytest.fixture
def to_break(builds: dict[str, Path], tmp_path: Path) -> Environment:
    """An environment with the wheel, for one test alone."""
    return create(tmp_path, builds["wheel"])


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A value for RECALL_EVALS_DATA: two documents of two questions each for `local_fda`."""
    folder = tmp_path_factory.mktemp("documents")
    rows = [
        {"doc_id": f"{d}", "key": key, "value": f"{key} {d}", "text": f"Device {d}: type A, use B.\n{key}:"}
        for d in range(2)
        for key in ("type", "use")
    ]
    (folder / "fda").mkdir()
    (folder / "fda" / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of BASED with random weights and a byte tokenizer."""
    return tiny.save(tmp_path_factory.mktemp("model"), tiny.BASED)


@pytest.fixture(scope="session")
def own_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An include path of a user's: a task of two prompts that needs no network, and one named as ours."""
    folder = tmp_path_factory.mktemp("own-tasks")
    data = folder / "rows.json"
    data.write_text('{"question": "1 + 1 =", "answer": "2"}\n{"question": "2 + 2 =", "answer": "4"}\n')
    for name in ("users_own", "local_fda"):
        config = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "exact_match"}],
        }
        (folder / f"{name}.yaml").write_text(json.dumps(config))  # JSON is YAML
    return folder
