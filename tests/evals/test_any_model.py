"""`recall-evals check` and `ppl` of models of Transformers: folders as its `save_pretrained` writes them."""

import json
import math

import pytest
import torch
from typer.testing import CliRunner

import causal
import tiny
from recall_evals.evals.cli import app

TEXT = "The quick brown fox jumps over the lazy dog; the quick brown fox → naïve café. " * 4
# Positions that change with the length bound what the gate reads, and so how long it takes.
SHORT = {"max_position_embeddings": 96, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made = {"llama": causal.build("llama"), "mamba": causal.build("mamba"), "short": causal.build("llama", **SHORT)}
    return {name: causal.save(root / name, model) for name, model in made.items()}


def invoke(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_gate_runs_over_them(folders):
    done = invoke("check", folders["short"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{folders['short']}: llama, 35,488 parameters, float32, cpu\n")
    assert "8 of 8 checks passed" in done.stdout


def test_perplexity_is_what_the_library_computes(folders, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (tmp_path / "page.txt").write_text(TEXT)
    own = tiny.save(tmp_path / "own", tiny.MAMBA)
    done = invoke(
        "ppl", folders["llama"], folders["mamba"], "--data", tmp_path / "page.txt", "--length", 63, "--device", "cpu"
    )
    assert done.exit_code == 0, done.output
    for name, found in zip(("llama", "mamba"), json.loads(done.stdout.splitlines()[-1])["models"], strict=True):
        theirs = AutoModelForCausalLM.from_pretrained(folders[name])
        ids = [causal.END, *AutoTokenizer.from_pretrained(folders[name])(TEXT)["input_ids"]]
        losses = []
        for window in torch.tensor(ids).split(64):
            with torch.no_grad():
                scores = theirs(window[None, :-1]).logits[0].log_softmax(-1)
            losses.append(-scores.gather(1, window[1:, None]))
        assert found["architecture"] == name
        assert found["perplexity"] == pytest.approx(math.exp(torch.cat(losses).mean()), rel=1e-4)
    # Beside one of our own formats, by the same tokens.
    mixed = invoke("ppl", own, folders["mamba"], "--data", tmp_path / "page.txt", "--tokenizer", own)
    assert mixed.exit_code == 0, mixed.output


def test_what_can_not_be_read_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true, "architectures": ["T5"]}')
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    (tmp_path / "page.txt").write_text(TEXT)
    for command in (["check", tmp_path], ["ppl", tmp_path, "--data", tmp_path / "page.txt"]):
        done = invoke(*command)
        assert done.exit_code == 2 and done.stdout == ""
        message = f"recall-evals {command[0]}: {tmp_path}: a t5 model is a sequence-to-sequence model: "
        assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
