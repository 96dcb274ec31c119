"""The loopback hub serves huggingface_hub, datasets and lm-eval's own tasks, each in a process of its own."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

import tiny
from hub import LoopbackHub

MODEL_ID = "hazyresearch/tiny"
OLD_COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = os.urandom(300_000)
DATASETS = {"fda": "hazyresearch/based-fda", "swde": "hazyresearch/based-swde-v2", "squad": "hazyresearch/based-squad"}
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy this machine has
ROWS = [
    {
        "doc_id": f"d{number // 2}",
        "file_name": f"{number}.txt",
        "key": "Key",
        "value": f"v{number} ",
        "text": " t\nKey: ",
    }
    for number in range(4)
]

Process = subprocess.CompletedProcess[str]
Run = Callable[..., Process]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """A model with `main`, a branch, a pull request and a commit; the published data sets, with four rows each."""
    revisions = {}
    for revision in ("main", "dev", "refs/pr/1", OLD_COMMIT):
        folder = tmp_path / "model" / revision
        (folder / "nested").mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"revision": revision}))
        (folder / "nested" / "model.safetensors").write_bytes(WEIGHTS)
        (folder / "empty.txt").touch()
        revisions[revision] = folder
    datasets = {}
    for name, repository in DATASETS.items():
        datasets[repository] = tmp_path / "data" / name
        publish(datasets[repository], as_parquet=name != "squad")
    with LoopbackHub(models={MODEL_ID: revisions, "gpt0": revisions["main"]}, datasets=datasets) as hub:
        yield hub


def publish(folder: Path, *, as_parquet: bool) -> None:
    """ROWS as the published sets lie on the hub: a card that names the split's files, and those files."""
    pattern = "data/validation-*" if as_parquet else "validation.json"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        f"  - split: validation\n    path: {pattern}\n---\n# A data set\n"
    )
    if as_parquet:
        table = pyarrow.Table.from_pylist(ROWS)
        pyarrow.parquet.write_table(table, folder / "data" / "validation-00000-of-00001.parquet")
    else:
        (folder / "validation.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


@pytest.fixture
def python(hub: LoopbackHub, tmp_path: Path) -> Run:
    """Runs Python code that downloads from the hub, with one cache for the test."""

    def run(code: str, **variables: str) -> Process:
        environment = hub.environment(tmp_path / "home", **variables)
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def printed(process: Process) -> Any:
    """The JSON in the last line that the process printed."""
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


SNAPSHOT = """
import json, pathlib
from huggingface_hub import snapshot_download
folder = pathlib.Path(snapshot_download({arguments}))
files = {{str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}}
print(json.dumps([files, json.loads((folder / "config.json").read_text())["revision"], folder.name]))
"""


def test_model_by_id_then_offline(hub: LoopbackHub, python: Run) -> None:
    code = SNAPSHOT.format(arguments=f"{MODEL_ID!r}")
    files = {"config.json": len('{"revision": "main"}'), "nested/model.safetensors": len(WEIGHTS), "empty.txt": 0}
    first = printed(python(code))
    assert first == [files, "main", hub.commit("models", MODEL_ID)]
    asked = len(hub.requests)
    assert printed(python(code, HF_HUB_OFFLINE="1")) == first
    assert len(hub.requests) == asked
    assert printed(python(code)) == first
    # The library doesn't ask for an empty file, whose content it knows.
    assert sorted(path.rsplit("/", 1)[1] for path in hub.downloads()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("revision", ["dev", "refs/pr/1", OLD_COMMIT])
def test_model_by_revision(hub: LoopbackHub, python: Run, revision: str) -> None:
    commit = hub.commit("models", MODEL_ID, revision)
    code = SNAPSHOT.format(arguments=f"{MODEL_ID!r}, revision={revision!r}")
    assert printed(python(code))[1:] == [revision, commit]
    assert printed(python(code, HF_HUB_OFFLINE="1"))[1:] == [revision, commit]


def test_one_file_of_a_model_without_organisation(hub: LoopbackHub, python: Run) -> None:
    path = printed(
        python(
            "import json; from huggingface_hub import hf_hub_download;"
            "print(json.dumps(hf_hub_download('gpt0', 'nested/model.safetensors')))"
        )
    )
    assert Path(path).read_bytes() == WEIGHTS
    assert hub.downloads() == ["/gpt0/resolve/main/nested/model.safetensors"]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("hf_hub_download('nobody/nothing', 'config.json')", "RepositoryNotFoundError"),
        ("snapshot_download('nobody/nothing')", "RepositoryNotFoundError"),
        ("hf_hub_download('hazyresearch/tiny', 'absent.json')", "RemoteEntryNotFoundError"),
        ("hf_hub_download('hazyresearch/tiny', 'config.json', revision='v9')", "RevisionNotFoundError"),
        ("snapshot_download('hazyresearch/tiny', revision='v9')", "RevisionNotFoundError"),
        ("HfApi().model_info('hazyresearch/tiny', revision='v9')", "RevisionNotFoundError"),
        ("list(HfApi().list_repo_tree('hazyresearch/tiny', 'absent'))", "RemoteEntryNotFoundError"),
        ("snapshot_download('hazyresearch/tiny', repo_type='dataset')", "RepositoryNotFoundError"),
    ],
)
def test_what_is_missing_gives_the_library_its_own_errors(python: Run, call: str, expected: str) -> None:
    failed = python(f"from huggingface_hub import *; {call}")
    assert failed.returncode == 1
    assert f"{expected}: " in failed.stderr


def test_api_as_the_library_reads_it(hub: LoopbackHub, python: Run) -> None:
    answer = printed(
        python(
            f"""
import json
from huggingface_hub import HfApi
api, name = HfApi(), {MODEL_ID!r}
print(json.dumps({{
    "info": [sibling.rfilename for sibling in api.model_info(name).siblings],
    "tree": [entry.path for entry in api.list_repo_tree(name)],
    "nested": [entry.path for entry in api.list_repo_tree(name, "nested", revision="refs/pr/1")],
    "recursive": [entry.path for entry in api.list_repo_tree(name, recursive=True)],
    "paths": [entry.path for entry in api.get_paths_info(name, ["nested", "config.json", "absent"])],
    "branches": {{branch.name: branch.target_commit for branch in api.list_repo_refs(name).branches}},
    "exists": [api.file_exists(name, "config.json"), api.file_exists(name, "absent"), api.repo_exists("no/body")],
}}))
"""
        )
    )
    files = ["config.json", "empty.txt", "nested/model.safetensors"]
    assert answer == {
        "info": files,
        "tree": ["config.json", "empty.txt", "nested"],
        "nested": ["nested/model.safetensors"],
        "recursive": ["config.json", "empty.txt", "nested", "nested/model.safetensors"],
        "paths": ["config.json", "nested"],
        "branches": {name: hub.commit("models", MODEL_ID, name) for name in ("main", "dev", "refs/pr/1")},
        "exists": [True, False, False],
    }


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        (None, 200, slice(None)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=100-199", 206, slice(100, 200)),
        ("bytes=299990-400000", 206, slice(299_990, None)),
        ("bytes=-7", 206, slice(-7, None)),
    ],
)
def test_ranges(hub: LoopbackHub, asked: str | None, status: int, part: slice) -> None:
    url = f"{hub.url}/{MODEL_ID}/resolve/main/nested/model.safetensors"
    request = urllib.request.Request(url, headers={} if asked is None else {"Range": asked})
    with OPENER.open(request) as answer:
        assert (answer.status, answer.read()) == (status, WEIGHTS[part])
        assert answer.headers["X-Repo-Commit"] == hub.commit("models", MODEL_ID)
    assert hub.requests[-1].range == asked


def test_what_lies_outside_the_folder_is_not_served(hub: LoopbackHub) -> None:
    for name in ("..%2Fdev%2Fconfig.json", "../dev/config.json", "nested/../../dev/config.json", "%2Fetc%2Fhostname"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            OPENER.open(f"{hub.url}/{MODEL_ID}/resolve/main/{name}")


def test_changed_folder_is_a_new_commit(hub: LoopbackHub, python: Run, tmp_path: Path) -> None:
    code = SNAPSHOT.format(arguments=f"{MODEL_ID!r}")
    before = printed(python(code))
    (tmp_path / "model" / "main" / "config.json").write_text('{"revision": "changed"}')
    after = printed(python(code))
    assert (before[1], after[1]) == ("main", "changed")
    assert before[2] != after[2]


@pytest.mark.parametrize("repository", list(DATASETS.values()))
def test_datasets_then_offline(hub: LoopbackHub, python: Run, repository: str) -> None:
    code = (
        "import json, datasets;"
        f"rows = datasets.load_dataset({repository!r}, 'default');"
        "print(json.dumps({split: rows[split].to_list() for split in rows}))"
    )
    assert printed(python(code)) == {"validation": ROWS}
    asked = len(hub.requests)
    assert printed(python(code, HF_HUB_OFFLINE="1")) == {"validation": ROWS}
    assert len(hub.requests) == asked


def test_lm_evals_own_tasks(hub: LoopbackHub, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("lm_eval")
    arguments = ["--model", "dummy", "--tasks", "swde,fda,squad_completion", "--limit", "3"]
    ran = subprocess.run(
        [script, *arguments],
        cwd=tmp_path,
        env=hub.environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    for task in ("swde", "fda", "squad_completion"):
        assert f"|{task}" in ran.stdout
    assert {path.split("/resolve/")[0] for path in hub.downloads() if "validation" in path} == {
        f"/datasets/{repository}" for repository in DATASETS.values()
    }


LOAD = """
from recall_evals.adapters.lm import BasedLM
lm = BasedLM("hazyresearch/tiny-{kind}", tokenizer={tokenizer!r}, device="cpu")
print(lm.get_model_info()["revision"], len(lm.tokenizer))
"""


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_our_model_loads_by_id_then_offline(tmp_path: Path, kind: str) -> None:
    """The published checkpoints are pickles without a tokenizer: what is not there must not be asked for offline."""
    folder = tiny.save(tmp_path / "model", tiny.BASED)
    tokenizer = None if kind == "safetensors" else str((folder / "tokenizer.json").rename(tmp_path / "tokenizer.json"))
    if kind == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    code = LOAD.format(kind=kind, tokenizer=tokenizer)
    with LoopbackHub(models={f"hazyresearch/tiny-{kind}": folder}) as hub:
        environment = hub.environment(tmp_path / "home")
        commit = hub.commit("models", f"hazyresearch/tiny-{kind}", "main")
        printed = [_python(code, environment)]
    printed.append(_python(code, environment | {"HF_HUB_OFFLINE": "1"}))
    assert printed == [f"{commit} 257"] * 2


def test_a_model_that_can_not_be_asked_for_is_refused_at_once(tmp_path: Path) -> None:
    with LoopbackHub() as hub:
        environment = hub.environment(tmp_path / "home") | {"HF_HUB_OFFLINE": "1"}
    code = "import recall_evals.models as m\ntry: m.load_model('models/mistyped')\nexcept ValueError as e: print(e)"
    assert "there is no such folder, it is not in the hub's cache" in _python(code, environment)


def _python(code: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()
