"""Models and tokenizers by hub id and revision; then without the hub; and what is said when it can't be."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from hub import Fault, LoopbackHub
from recall_evals.adapters.tokenizer import load_tokenizer, tokenizer_hash
from recall_evals.models import load_model
from recall_evals.models.checkpoint import find_checkpoint

pytestmark = pytest.mark.xdist_group("loading from the hub")  # one worker, or the fixtures are made by each

MODEL = "hazyresearch/tiny"
OLD_COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "dev", "refs/tags/v1", "refs/pr/1", OLD_COMMIT)
TOKENS = [72, 101, 108, 108, 111]

# Evaluates the expressions it is given, {label: expression}, and prints {label: [kind of error, message or value]}.
# huggingface_hub's waits between its attempts, 23 s in all, are shortened; its attempts are its own.
SCRIPT = f"""
import json, os, sys, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / 50)
import torch
from recall_evals.adapters.tokenizer import load_tokenizer, tokenizer_hash
from recall_evals.models import load_model
from recall_evals.models.checkpoint import find_checkpoint

def read(source, revision=None):
    checkpoint = find_checkpoint(source, revision)
    model = load_model(source, revision=revision)
    scores, _ = model.prefill(torch.tensor({TOKENS}), lengths=[{len(TOKENS)}])
    return [checkpoint.revision, checkpoint.content_hash(), scores[0].tolist()]

def told(tokenizer):
    return [len(tokenizer), tokenizer.eos_token, tokenizer.name_or_path, tokenizer_hash(tokenizer)]

def with_token(token, call):
    os.environ["HF_TOKEN"] = token
    try:
        return call()
    finally:
        del os.environ["HF_TOKEN"]

said = {{}}
for label, expression in json.loads(sys.stdin.read()).items():
    try:
        said[label] = ["", eval(expression)]
    except Exception as error:
        said[label] = [type(error).__name__, str(error)]
print(json.dumps(said))
"""

Said = dict[str, list[Any]]


def ask(environment: dict[str, str], expressions: dict[str, str]) -> Said:
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command,
        env=environment,
        input=json.dumps(expressions),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def in_shards(folder: Path) -> Path:
    """Replace a folder's model.safetensors by two shards and their index."""
    tensors = load_file(folder / "model.safetensors")
    weight_map = {name: f"model-{1 + i % 2:05d}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
    for shard in set(weight_map.values()):
        save_file({n: t for n, t in tensors.items() if weight_map[n] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    return folder


def without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


class Asked(NamedTuple):
    """What one set of questions was answered with the hub, then offline, then with a hub that has gone."""

    expected: Said
    online: Said
    offline: Said
    gone: Said
    requests_offline: int


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """Other weights at each revision, published in each way, and tokenizers; the folders say what must come out."""
    folder = tmp_path_factory.mktemp("hub")
    revisions = {name: tiny.save(folder / str(seed), tiny.BASED, seed=seed) for seed, name in enumerate(REVISIONS)}
    in_shards(revisions["dev"])
    weights = revisions["refs/pr/1"] / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    own = tiny.save(folder / "own", tiny.MAMBA)
    configured = tiny.save(folder / "configured", tiny.BASED)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "model_max_length": 64}
    (configured / "tokenizer_config.json").write_text(json.dumps(settings))
    none = without(tiny.save(folder / "none", tiny.BASED), "tokenizer.json")
    models = {"org/own": own, "org/configured": configured, "org/none": none, "openai-community/gpt2": configured}

    expressions = {name: f"read({MODEL!r}, {name.removeprefix('refs/tags/')!r})" for name in REVISIONS}
    expressions["no revision"] = f"read({MODEL!r})"
    expressions |= {name: f"told(load_tokenizer(None, {name!r}))" for name in ("org/own", "org/configured", "org/none")}
    expressions["named"] = "told(load_tokenizer('org/configured', 'org/none'))"
    with LoopbackHub(models={MODEL: revisions} | models) as hub:
        expected: Said = {}
        for name, checkpoint in revisions.items():
            scores, _ = load_model(checkpoint).prefill(torch.tensor(TOKENS), lengths=[len(TOKENS)])
            hashed = find_checkpoint(checkpoint).content_hash()
            expected[name] = ["", [hub.commit("models", MODEL, name), hashed, scores[0].tolist()]]
        expected["no revision"] = expected["main"]
        for label, name, source in (
            ("org/own", "org/own", own),
            ("org/configured", "org/configured", configured),
            ("org/none", "openai-community/gpt2", configured),
            ("named", "org/configured", configured),
        ):
            expected[label] = ["", [257, "<|endoftext|>", name, tokenizer_hash(load_tokenizer(None, source))]]
        environment = hub.environment(folder / "home")
        online = ask(environment, expressions)
        requests = len(hub.requests)
        offline = ask(environment | {"HF_HUB_OFFLINE": "1"}, expressions)
        requests = len(hub.requests) - requests
    return Asked(expected, online, offline, ask(environment, expressions), requests)


@pytest.mark.parametrize("label", [*REVISIONS, "no revision"])
def test_every_revision_with_offline_and_without_the_hub(asked: Asked, label: str) -> None:
    assert asked.online[label] == asked.offline[label] == asked.gone[label] == asked.expected[label]


@pytest.mark.parametrize("label", ["org/own", "org/configured", "org/none", "named"])
def test_every_tokenizer_with_offline_and_without_the_hub(asked: Asked, label: str) -> None:
    """The same as from the folder: with a configuration beside it or without, the model's own, GPT-2's or another."""
    assert asked.online[label] == asked.offline[label] == asked.gone[label] == asked.expected[label]


def test_revisions_differ_and_offline_nothing_is_asked(asked: Asked) -> None:
    assert len({json.dumps(asked.expected[name][1][1:]) for name in REVISIONS}) == len(REVISIONS)
    assert asked.requests_offline == 0


# label -> what is evaluated, and what the one line that is said must name; {hub} is the hub's address
REFUSED = {
    "no repository": (
        "read('nobody/nothing')",
        ["nobody/nothing", "no such repository", "check the name", "hf auth login"],
    ),
    "no such id": ("read('no body')", ["no body: no such folder", "owner/name"]),
    "private": ("read('org/private')", ["org/private", "no such repository", "hf auth login", "HF_TOKEN"]),
    "no revision": (f"read({MODEL!r}, 'v9')", [MODEL, "no revision 'v9'", "refs/pr/N", f"{{hub}}/{MODEL}/tree/main"]),
    "no config": ("read('org/no-config')", ["org/no-config", "no config.json", "give"]),
    "no weights": ("read('org/no-weights')", ["org/no-weights", "model.safetensors, pytorch_model.bin", "give"]),
    "no shard": (
        "read('org/no-shard')",
        ["org/no-shard", "model.safetensors.index.json", "model-00002-of-00002", "give"],
    ),
    "gated": ("read('org/gated')", ["org/gated is gated", "accept its terms on {hub}/org/gated", "hf auth login"]),
    "gated, other account": (
        "with_token('hf_other', lambda: read('org/gated'))",
        ["org/gated is gated", "accept its terms on {hub}/org/gated", "as the account that accepted them"],
    ),
    "gated, no account": (
        "with_token('hf_mistyped', lambda: read('org/gated'))",
        ["org/gated", "refuses the token", "Invalid credentials", "hf auth login", "HF_TOKEN"],
    ),
    "metadata unavailable": (
        "read('org/down')",
        ["org/down", "config.json is not in the hub's cache", "could not be asked", "503", "HF_HUB_OFFLINE=1"],
    ),
    "weights unavailable": ("read('org/busy')", ["org/busy: model.safetensors", "answered 503", "run again later"]),
    "too many requests": ("read('org/limited')", ["org/limited: model.safetensors", "429", "wait", "hf auth login"]),
    "cut short": ("read('org/cut')", ["org/cut", "download of model.safetensors broke off", "run again", "are kept"]),
    "reset": ("read('org/reset')", ["org/reset", "model.safetensors broke off", "reset by peer", "run again"]),
    "slow": ("read('org/slow')", ["org/slow", "model.safetensors broke off", "timed out", "run again"]),
    "no room": ("read('org/blocked')", ["org/blocked: config.json could not be stored in", "HF_HOME"]),
    "no GPT-2": (
        "load_tokenizer(None, 'org/no-tokenizer')",
        ["org/no-tokenizer has no tokenizer", "openai-community/gpt2", "no such repository", "give tokenizer=<folder"],
    ),
    "no tokenizer": (
        "load_tokenizer('org/no-tokenizer', 'org/gated')",
        ["org/no-tokenizer: no tokenizer", "looked for tokenizer.json", "give tokenizer=<folder"],
    ),
    "broken tokenizer": (
        "load_tokenizer(None, 'org/broken-tokenizer')",
        ["org/broken-tokenizer", "can't be read", "give tokenizer=<folder"],
    ),
}


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LoopbackHub, dict[str, str]]]:
    """A hub on which something is wrong with every repository but one, and the environment of who asks it."""
    folder = tmp_path_factory.mktemp("hub")
    whole = tiny.save(folder / "whole", tiny.BASED)
    models = {MODEL: whole} | {
        f"org/{name}": whole
        for name in ("private", "gated", "down", "busy", "limited", "cut", "reset", "slow", "blocked")
    }
    models["org/no-config"] = without(tiny.save(folder / "1", tiny.BASED), "config.json")
    models["org/no-weights"] = without(tiny.save(folder / "2", tiny.BASED), "model.safetensors")
    models["org/no-shard"] = without(in_shards(tiny.save(folder / "3", tiny.BASED)), "model-00002-of-00002.safetensors")
    models["org/no-tokenizer"] = without(tiny.save(folder / "4", tiny.BASED), "tokenizer.json")
    models["org/broken-tokenizer"] = tiny.save(folder / "5", tiny.BASED)
    (folder / "5" / "tokenizer.json").write_text('{"model": ')
    with LoopbackHub(models=models) as hub:
        hub.restrict("org/private", gated=False)
        hub.restrict("org/gated", gated=True, tokens={"hf_granted"})
        hub.tokens.add("hf_other")
        hub.fault("HEAD /org/down/*", Fault(status=HTTPStatus.SERVICE_UNAVAILABLE))
        hub.fault("GET /org/busy/*.safetensors", Fault(status=HTTPStatus.SERVICE_UNAVAILABLE, times=1))
        hub.fault("GET /org/limited/*.safetensors", Fault(status=HTTPStatus.TOO_MANY_REQUESTS, times=6))
        hub.fault("GET /org/cut/*.safetensors", Fault(cut_after=1000, times=6))
        hub.fault("GET /org/reset/*.safetensors", Fault(cut_after=1000, reset=True, times=1))
        hub.fault("GET /org/slow/*.safetensors", Fault(delay=60, times=6))
        home = folder / "home"
        (home / "hub").mkdir(parents=True)
        (home / "hub" / "models--org--blocked").touch()  # where a folder would have to be
        yield hub, hub.environment(home, HF_HUB_DOWNLOAD_TIMEOUT="1")


@pytest.fixture(scope="module")
def said(troubled: tuple[LoopbackHub, dict[str, str]]) -> Said:
    return ask(troubled[1], {label: expression for label, (expression, _) in REFUSED.items()})


@pytest.mark.parametrize("label", REFUSED)
def test_one_line_names_the_repository_and_the_remedy(
    troubled: tuple[LoopbackHub, dict[str, str]], said: Said, label: str
) -> None:
    kind, message = said[label]
    assert kind == "CheckpointError"
    assert "\n" not in message
    assert troubled[0].signature not in message
    for part in REFUSED[label][1]:
        assert part.format(hub=troubled[0].url) in message


def test_what_failed_once_loads_with_the_next_run(troubled: tuple[LoopbackHub, dict[str, str]], said: Said) -> None:
    """The faults are over by now; what arrived whole, config.json, is not sent again."""
    hub, environment = troubled
    names = ("busy", "limited", "cut", "reset", "slow")
    before = len(hub.requests)
    again = {name: f"read('org/{name}')" for name in names}
    again["gated"] = "with_token('hf_granted', lambda: read('org/gated'))"
    answers = ask(environment, again)
    whole = hub.repositories["models"][MODEL]["main"]
    expected = ["", [hub.commit("models", MODEL), find_checkpoint(whole).content_hash()]]
    assert {name: [kind, answer[:2]] for name, (kind, answer) in answers.items()} == dict.fromkeys(again, expected)
    sent = [r.path.rsplit("/", 1)[1] for r in hub.requests[before:] if r.method == "GET" and r.status == HTTPStatus.OK]
    assert sorted(sent) == ["config.json"] + ["model.safetensors"] * len(again)


def test_a_download_that_is_killed_does_no_harm(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "model", tiny.BASED)
    with LoopbackHub(models={MODEL: folder}) as hub:
        hub.fault("GET *.safetensors", Fault(cut_after=100_000, stall=60, times=1))
        environment = hub.environment(tmp_path / "home")
        code = f"from recall_evals.models.hub import *; print(fetch_from_hub({MODEL!r}, 'model.safetensors'))"
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, env=environment) as process:
            deadline = time.monotonic() + 60
            while not hub.downloads() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert list((tmp_path / "home").rglob("*.incomplete"))
            process.kill()
        path = subprocess.check_output(command, env=environment, text=True, timeout=60).strip()
    assert Path(path).read_bytes() == (folder / "model.safetensors").read_bytes()


def test_nothing_listens_or_nothing_may_be_asked(tmp_path: Path) -> None:
    folder = without(tiny.save(tmp_path / "model", tiny.BASED), "tokenizer.json")
    expressions = {
        "model": "read('hazyresearch/based-360m')",
        "tokenizer": f"load_tokenizer(None, {str(folder)!r})",
        "revision": "read('hazyresearch/based-360m', 'v1')",
    }
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and doesn't listen
        with LoopbackHub() as hub:
            environment = hub.environment(tmp_path / "home")
        environment["HF_ENDPOINT"] = f"http://127.0.0.1:{unused.getsockname()[1]}"
        unreachable = ask(environment, expressions)
    offline = ask(environment | {"HF_HUB_OFFLINE": "1"}, expressions)
    remedies = ("check the connection and HF_ENDPOINT", "give a folder")
    not_there = ("there is no such folder, it is not in the hub's cache", "unset HF_HUB_OFFLINE")
    gpt2 = (f"{folder} has no tokenizer of its own", "openai-community/gpt2", "give tokenizer=<folder")
    for answers, label, parts in (
        (unreachable, "model", ("hazyresearch/based-360m", environment["HF_ENDPOINT"], "refused", *remedies)),
        (unreachable, "tokenizer", (*gpt2, "refused", remedies[0])),
        (offline, "model", ("hazyresearch/based-360m", *not_there)),
        (offline, "revision", ("hazyresearch/based-360m", "at revision 'v1'", not_there[1])),
        (offline, "tokenizer", (*gpt2, "HF_HUB_OFFLINE")),
    ):
        kind, message = answers[label]
        assert kind == "CheckpointError"
        assert "\n" not in message
        for part in parts:
            assert part in message
