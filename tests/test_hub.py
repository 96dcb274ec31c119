"""The loopback hub serves the real huggingface_hub and datasets, each time in a process of its own."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

import hub_files
from hub import Fault, LoopbackHub

MODEL_ID = "hazyresearch/tiny"
OLD_COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "dev", "refs/tags/v1", "refs/pr/1", OLD_COMMIT)
WEIGHTS = os.urandom(300_000)
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy this machine has

Run = Callable[..., Any]

# huggingface_hub waits a second and more between its attempts.
PROLOGUE = """
import json, pathlib, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / 50)
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
def name_of_error(call):
    try: return repr(call())
    except Exception as error: return type(error).__name__
"""
SNAPSHOTS = """
found = []
for revision in {revisions!r}:
    folder = pathlib.Path(snapshot_download({name!r}, revision=revision))
    files = {{str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}}
    found.append([files, json.loads((folder / "config.json").read_text())["revision"], folder.name])
print(json.dumps(found))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """A model with `main`, a branch, a tag, a pull request and a commit."""
    revisions = {}
    for revision in REVISIONS:
        folder = tmp_path / "model" / revision
        (folder / "nested").mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"revision": revision}))
        (folder / "nested" / "model.safetensors").write_bytes(WEIGHTS)
        (folder / "empty.txt").touch()
        revisions[revision] = folder
    with LoopbackHub(models={MODEL_ID: revisions, "gpt0": revisions["main"]}) as hub:
        yield hub


@pytest.fixture
def python(hub: LoopbackHub, tmp_path: Path) -> Run:
    """Runs Python code that downloads from the hub, with one cache for the test; the JSON that it prints last."""

    def run(code: str, **variables: str) -> Any:
        environment = hub.environment(tmp_path / "home", **variables)
        command = [sys.executable, "-c", PROLOGUE + code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_model_by_id_then_offline(hub: LoopbackHub, python: Run) -> None:
    code = SNAPSHOTS.format(name=MODEL_ID, revisions=[None])
    files = {"config.json": len('{"revision": "main"}'), "nested/model.safetensors": len(WEIGHTS), "empty.txt": 0}
    first = python(code)
    assert first == [[files, "main", hub.commit("models", MODEL_ID)]]
    asked = len(hub.requests)
    assert python(code, HF_HUB_OFFLINE="1") == first
    assert len(hub.requests) == asked
    assert python(code) == first
    # The library doesn't ask for an empty file, whose content it knows.
    assert sorted(path.rsplit("/", 1)[1] for path in hub.downloads()) == ["config.json", "model.safetensors"]


def test_model_by_revision(hub: LoopbackHub, python: Run) -> None:
    commits = {revision: hub.commit("models", MODEL_ID, revision) for revision in REVISIONS}
    asked = {"dev": "dev", "v1": "refs/tags/v1", "refs/pr/1": "refs/pr/1", OLD_COMMIT: OLD_COMMIT}
    asked[commits["dev"]] = "dev"
    code = SNAPSHOTS.format(name=MODEL_ID, revisions=list(asked))
    expected = [[revision, commits[revision]] for revision in asked.values()]
    assert [found[1:] for found in python(code)] == expected
    assert [found[1:] for found in python(code, HF_HUB_OFFLINE="1")] == expected


def test_large_files_come_from_the_cdn(hub: LoopbackHub, python: Run) -> None:
    path = python("print(json.dumps(hf_hub_download('gpt0', 'nested/model.safetensors')))")
    assert Path(path).read_bytes() == WEIGHTS
    stored = hub_files.sha256(hub.repositories["models"]["gpt0"]["main"] / "nested" / "model.safetensors")
    assert Path(path).resolve().name == stored
    assert [(request.method, request.status, request.cdn) for request in hub.requests] == [
        ("HEAD", 302, False),
        ("GET", 200, True),
    ]


def test_what_is_missing_gives_the_library_its_own_errors(hub: LoopbackHub, python: Run) -> None:
    expected = {
        "hf_hub_download('nobody/nothing', 'config.json')": "RepositoryNotFoundError",
        "snapshot_download('nobody/nothing')": "RepositoryNotFoundError",
        "snapshot_download('nobody/nothing', token='hf_known')": "RepositoryNotFoundError",
        "hf_hub_download('hazyresearch/tiny', 'absent.json')": "RemoteEntryNotFoundError",
        "hf_hub_download('hazyresearch/tiny', 'config.json', revision='v9')": "RevisionNotFoundError",
        "snapshot_download('hazyresearch/tiny', revision='v9')": "RevisionNotFoundError",
        "HfApi().model_info('hazyresearch/tiny', revision='v9')": "RevisionNotFoundError",
        "list(HfApi().list_repo_tree('hazyresearch/tiny', 'absent'))": "RemoteEntryNotFoundError",
        "snapshot_download('hazyresearch/tiny', repo_type='dataset')": "RepositoryNotFoundError",
    }
    hub.tokens.add("hf_known")
    code = f"print(json.dumps({{c: name_of_error(lambda: eval(c)) for c in {list(expected)!r}}}))"
    assert python(code) == expected
    statuses = {request.status for request in hub.requests if "nothing" in request.path}
    assert statuses == {HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND}  # without and with a token


def test_api_as_the_library_reads_it(hub: LoopbackHub, python: Run) -> None:
    answer = python(
        f"""
api, name = HfApi(), {MODEL_ID!r}
refs = api.list_repo_refs(name, include_pull_requests=True)
print(json.dumps({{
    "info": [sibling.rfilename for sibling in api.model_info(name).siblings],
    "blobs": [sibling.lfs and sibling.lfs.sha256 for sibling in api.model_info(name, files_metadata=True).siblings],
    "tree": [entry.path for entry in api.list_repo_tree(name)],
    "nested": [entry.path for entry in api.list_repo_tree(name, "nested", revision="refs/pr/1")],
    "recursive": [entry.path for entry in api.list_repo_tree(name, recursive=True)],
    "paths": [entry.path for entry in api.get_paths_info(name, ["nested", "config.json", "absent"])],
    "lfs": [entry.lfs.sha256 for entry in api.get_paths_info(name, "nested/model.safetensors")],
    "branches": {{branch.name: branch.target_commit for branch in refs.branches}},
    "tags": {{tag.name: tag.target_commit for tag in refs.tags}},
    "pull requests": {{request.ref: request.target_commit for request in refs.pull_requests}},
    "exists": [api.file_exists(name, "config.json"), api.file_exists(name, "absent"), api.repo_exists("no/body")],
}}))
"""
    )
    files = ["config.json", "empty.txt", "nested/model.safetensors"]
    sha256 = hub_files.sha256(hub.repositories["models"][MODEL_ID]["main"] / files[2])
    assert answer == {
        "info": files,
        "blobs": [None, None, sha256],
        "tree": ["config.json", "empty.txt", "nested"],
        "nested": ["nested/model.safetensors"],
        "recursive": ["config.json", "empty.txt", "nested", "nested/model.safetensors"],
        "paths": ["config.json", "nested"],
        "lfs": [sha256],
        "branches": {name: hub.commit("models", MODEL_ID, name) for name in ("main", "dev")},
        "tags": {"v1": hub.commit("models", MODEL_ID, "v1")},
        "pull requests": {"refs/pr/1": hub.commit("models", MODEL_ID, "refs/pr/1")},
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
        assert answer.url.startswith(hub.cdn_url)
    assert hub.requests[-1].range == asked


def test_what_lies_outside_the_folder_is_not_served(hub: LoopbackHub) -> None:
    for name in ("..%2Fdev%2Fconfig.json", "../dev/config.json", "nested/../../dev/config.json", "%2Fetc%2Fhostname"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            OPENER.open(f"{hub.url}/{MODEL_ID}/resolve/main/{name}")


def test_changed_folder_is_a_new_commit(hub: LoopbackHub, python: Run, tmp_path: Path) -> None:
    code = SNAPSHOTS.format(name=MODEL_ID, revisions=[None])
    before = python(code)[0]
    (tmp_path / "model" / "main" / "config.json").write_text('{"revision": "changed"}')
    after = python(code)[0]
    assert (before[1], after[1]) == ("main", "changed")
    assert before[2] != after[2]


def test_renamed_repository_is_redirected_to(hub: LoopbackHub, python: Run) -> None:
    hub.rename("former/name", MODEL_ID)
    code = SNAPSHOTS.format(name="former/name", revisions=["refs/pr/1"])
    assert python(code)[0][1:] == ["refs/pr/1", hub.commit("models", MODEL_ID, "refs/pr/1")]
    assert HTTPStatus.TEMPORARY_REDIRECT in {request.status for request in hub.requests}


def test_who_may_read_what(hub: LoopbackHub, python: Run) -> None:
    """The CDN refuses a token, so a success says that none was sent there."""
    hub.restrict(MODEL_ID, gated=True, tokens={"hf_granted"})
    hub.restrict("gpt0", gated=False, tokens={"hf_granted"})
    hub.tokens.add("hf_other")
    said = python(f"""
def said(name, token):
    info = name_of_error(lambda: HfApi(token=token).model_info(name).gated)
    return [info, name_of_error(lambda: len(hf_hub_download(name, "nested/model.safetensors", token=token)) > 0)]
print(json.dumps([
    said(name, token) for name in ({MODEL_ID!r}, "gpt0") for token in (False, "hf_other", "hf_unknown", "hf_granted")
]))""")
    gated, refused, missing = ["'manual'", "GatedRepoError"], ["HfHubHTTPError"] * 2, ["RepositoryNotFoundError"] * 2
    assert said == [gated, gated, refused, ["'manual'", "True"], missing, missing, refused, ["False", "True"]]


@pytest.mark.parametrize(
    ("request_pattern", "fault", "answers"),
    [
        ("HEAD *", Fault(times=2, status=HTTPStatus.SERVICE_UNAVAILABLE), 2),
        ("GET *", Fault(times=2, status=HTTPStatus.TOO_MANY_REQUESTS), 2),
        ("GET *", Fault(times=2, cut_after=1000), 2),
        ("GET *", Fault(times=1, delay=20), 0),  # nobody waited to be answered
        ("GET *", Fault(times=1, cut_after=1000, stall=20), 1),
    ],
    ids=["unavailable", "too many requests", "cut short", "slow", "stalled"],
)
def test_faults_that_the_library_survives(
    hub: LoopbackHub, python: Run, request_pattern: str, fault: Fault, answers: int
) -> None:
    """`answers` are those that were spoilt."""
    hub.fault(request_pattern, fault)
    code = f"print(json.dumps(hf_hub_download({MODEL_ID!r}, 'nested/model.safetensors')))"
    path = python(code, HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert Path(path).read_bytes() == WEIGHTS
    assert len(hub.requests) == 2 + answers


def test_truncated_download_goes_on_where_it_stopped(hub: LoopbackHub, python: Run, tmp_path: Path) -> None:
    """The library writes, and so keeps, pieces of 10 MiB."""
    content = os.urandom(23 * 2**20)
    (tmp_path / "model" / "main" / "large.bin").write_bytes(content)
    hub.fault("GET */large.bin", Fault(cut_after=11 * 2**20))
    path = python(f"print(json.dumps(hf_hub_download({MODEL_ID!r}, 'large.bin')))")
    assert Path(path).read_bytes() == content
    ranges = [(request.range, request.status) for request in hub.requests if request.method == "GET"]
    assert ranges == [(None, 200), (f"bytes={10 * 2**20}-", 206), (f"bytes={20 * 2**20}-", 206)]
