"""One command from the corpora to a checkpoint that everything else reads like any other."""

import json
import math
import random
import re
import shutil
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from typer.testing import CliRunner

from recall_evals.evals.cli import app
from recall_evals.models import load_model
from recall_evals.models.errors import CheckpointError
from recall_evals.training.command import run_recipe
from recall_evals.training.held_out import held_out, recall_hits
from recall_evals.training.recipe import NAMES, Recipe

LOG_EVERY = 10  # not 50: each update of a model of full size takes a while
RECIPE = Recipe(((LOG_EVERY, 16), (4, 32)), batch_tokens=32, warmup=2)
FILES = {"config.json", "model.safetensors", "tokenizer.json", "loss.jsonl", "README.md", "SHA256SUMS"}


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch):
    monkeypatch.setattr("recall_evals.training.train.LOG_EVERY", LOG_EVERY)


@pytest.fixture
def work(small_corpus, tmp_path):
    """What earlier runs leave: the tokenizer and the prepared arrays (of 8,000 generated documents, otherwise)."""
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copy(small_corpus.tokenizer, folder / "tokenizer.json")
    shutil.copy(small_corpus.prepared, folder / "prepared.npz")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_comes_out(name, small_corpus, work, tmp_path, capsys):
    output = tmp_path / name
    arguments = (name, small_corpus.corpus, None, work, output, "cpu")
    assert not run_recipe(*arguments, stop_after=0, workers=0, recipe=RECIPE)
    assert f"{name}: 10 of 14 steps done; the same command goes on from here" in capsys.readouterr().out
    assert not output.exists()
    assert run_recipe(*arguments, stop_after=None, workers=0, recipe=RECIPE)
    assert {file.name for file in output.iterdir()} == FILES

    model = load_model(output)
    state = torch.load(work / f"{name}.pt", weights_only=True)["model"]
    for parameter, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[parameter].bfloat16().float()), parameter
    stored = load_file(output / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert (output / "model.safetensors").stat().st_size < 12_000_000
    rows = [json.loads(line) for line in (output / "loss.jsonl").read_text().splitlines()]
    assert [(row["step"], row["tokens"]) for row in rows] == [(10, 320), (14, 14 * 32)]

    card = (output / "README.md").read_text()
    measured = float(re.search(r"Held-out perplexity ([\d.]+)", card)[1])
    model.load_state_dict(state)
    again = held_out(model, Tokenizer.from_file(str(work / "tokenizer.json")), small_corpus.held_out / "books", 32)
    assert measured == pytest.approx(again.perplexity, abs=0.01)
    assert "10 of 16 tokens a sequence, then 4 of 32" in card
    assert max(map(len, card.splitlines())) <= 120

    with (output / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: its SHA-256 is"):
        load_model(output)


def test_held_out_perplexity_is_the_model_s_own(small_corpus):
    """Against the model's forward in float64, over the same windows."""
    from recall_evals.models.loading import model_class
    from recall_evals.training.initialize import initialize
    from recall_evals.training.recipe import published_config

    model = model_class("based")(published_config("based") | {"vocab_size": 600, "n_embd": 32})
    initialize(model, 0)
    tokenizer = Tokenizer.from_file(str(small_corpus.tokenizer))
    given = held_out(model, tokenizer, small_corpus.held_out / "books", 40, batch=2)
    texts = [json.loads(row)["text"] for row in (small_corpus.held_out / "books/validation.jsonl").open()]
    model.double()
    total = count = size = tokens = 0
    for text in texts:
        ids = tokenizer.encode(text).ids
        size, tokens = size + len(text.encode()), tokens + len(ids)
        for i in range(0, len(ids) - 40, 40):
            window = torch.tensor([ids[i : i + 41]])
            logs = model(window[:, :-1]).log_softmax(-1)
            total -= logs[0, range(40), window[0, 1:]].sum().item()
            count += 40
    assert given.tokens == count > 0
    assert given.perplexity == pytest.approx(math.exp(total / count), rel=1e-4)
    parts = given.hits * math.log(given.hit_perplexity) + (1 - given.hits) * math.log(given.other_perplexity)
    assert 0 < given.hits < 1 and parts == pytest.approx(total / count, rel=1e-4)
    assert given.bits_per_byte == pytest.approx(total / count / math.log(2) * tokens / size, rel=1e-4)


def test_the_command_line_says_what_is_missing(tmp_path):
    result = CliRunner().invoke(app, ["train", "based", "--corpus", str(tmp_path), "--device", "cpu"])
    assert result.exit_code == 2
    assert "recall-evals train: " in result.output and "missing fda.jsonl[.xz]" in result.output.replace("\n", " ")
    result = CliRunner().invoke(app, ["train", "rwkv", "--corpus", str(tmp_path)])
    assert result.exit_code == 2
    assert "'rwkv' is none of the small models; choose attention, based, mamba" in result.output


def test_recall_hits_are_pairs_that_stood_before():
    draw = random.Random(0)
    windows = [[draw.randrange(6) for _ in range(30)] for _ in range(5)]
    want = [[(w[i], w[i + 1]) in set(pairwise(w[: i + 1])) for i in range(29)] for w in windows]
    assert recall_hits(torch.tensor(windows)).tolist() == want and sum(map(sum, want)) > 10
