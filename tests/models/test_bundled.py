"""The bundled checkpoints by name: where they are found, what hides them, and what is said where they are missing."""

import json
from pathlib import Path

import pytest
import torch
from lm_eval.api.registry import get_model
from typer.testing import CliRunner

import recall_evals
import tiny
from recall_evals.adapters.lm import AttentionLM, BasedLM, MambaLM
from recall_evals.adapters.tokenizer import load_tokenizer
from recall_evals.evals.cli import app
from recall_evals.models import bundled as module
from recall_evals.models import load_model
from recall_evals.models.bundled import bundled, bundled_names
from recall_evals.models.checkpoint import find_checkpoint
from recall_evals.models.errors import CheckpointError, ConfigurationError

NAMES = ["attention", "based", "mamba"]
OWN = module.FOLDER


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Three small models in the place of the bundled ones, trained at 96 tokens; commands run in an empty folder."""
    folder = tmp_path / "checkpoints"
    for name in NAMES:
        tiny.save_sums(tiny.save(folder / name, tiny.changed(tiny.CONFIGS[name], train_length=96)))
    (folder / "README.md").touch()
    (folder / "unfinished").mkdir()
    monkeypatch.setattr(module, "FOLDER", folder)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return folder


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """An installation without checkpoints; no hub is asked."""
    monkeypatch.setattr(module, "FOLDER", tmp_path / "checkpoints")
    monkeypatch.setattr("recall_evals.models.checkpoint.fetch_from_hub", lambda *a: pytest.fail("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "checkpoints"


def refusal(source, revision=None) -> str:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(source, revision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- those of this installation -------------------------------------------------------------------------------------


def test_they_lie_in_the_package():
    assert Path(recall_evals.__file__).parent / "checkpoints" == OWN


@pytest.mark.parametrize("name", NAMES)
def test_each_is_whole_and_of_its_architecture(name):
    if name not in bundled_names():
        pytest.skip(f"no bundled checkpoint {name}: would have checked that it loads, and its checksums")
    assert (bundled(name) / "SHA256SUMS").is_file()
    lm = BasedLM(f"bundled:{name}", device="cpu")
    assert lm.model.architecture == name
    assert lm.max_length == lm.model.config["train_length"]
    assert lm.tokenizer.decode(lm.tok_encode("Device name: é 7\n")) == "Device name: é 7\n"


@pytest.mark.skipif(bundled_names() != NAMES, reason="no three bundled checkpoints: would have compared their sizes")
def test_they_differ_in_nothing_but_their_architecture():
    sizes = [load_model(OWN / name).n_parameters for name in NAMES]
    assert max(sizes) <= min(1.05 * min(sizes), 6_000_000)
    assert all((OWN / name / "model.safetensors").stat().st_size <= 12_000_000 for name in NAMES)
    assert len({(OWN / name / "tokenizer.json").read_bytes() for name in NAMES}) == 1
    curves = [[json.loads(row) for row in (OWN / name / "loss.jsonl").read_text().splitlines()] for name in NAMES]
    read = [[(row["step"], row["tokens"], row["rate"]) for row in curve] for curve in curves]
    assert read[0] == read[1] == read[2]
    cards = [(OWN / name / "README.md").read_text() for name in NAMES]
    data = {line for card in cards for line in card.splitlines() if "SHA-256 of the " in line}
    assert len(data) == 2, "the same corpora and the same tokenised documents"


# -- by name --------------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_folders(checkpoints):
    assert bundled_names() == NAMES
    assert bundled("based") == bundled("bundled:based") == checkpoints / "based"
    for name in ("unfinished", "README.md", "", ".", "..", "bundled:", "../checkpoints/based", str(checkpoints)):
        assert bundled(name) is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", ["", "bundled:"])
def test_a_name_is_the_model_in_that_folder(checkpoints, prefix, name):
    found = find_checkpoint(prefix + name)
    assert (found.source, found.revision) == (f"bundled:{name}", None)
    assert found.content_hash() == find_checkpoint(checkpoints / name).content_hash()
    want = load_model(checkpoints / name).state_dict()
    assert all(torch.equal(tensor, want[key]) for key, tensor in load_model(prefix + name).state_dict().items())
    assert len(load_tokenizer(None, prefix + name)) == len(load_tokenizer(prefix + name, "x")) == 257


def test_a_folder_is_taken_first_unless_the_prefix_is_given(checkpoints):
    here = tiny.save(Path("based"), tiny.BASED, seed=1)
    assert find_checkpoint("based").source == "based"
    assert BasedLM("based").get_model_info()["checkpoint"] == "based"
    theirs, ours = find_checkpoint(here).content_hash(), find_checkpoint(checkpoints / "based").content_hash()
    assert find_checkpoint("based").content_hash() == theirs != ours
    assert BasedLM().get_model_info()["content_hash"] == find_checkpoint("bundled:based").content_hash() == ours


def test_a_folder_in_the_way_that_is_no_checkpoint(checkpoints):
    Path("mamba").mkdir()
    message = refusal("mamba")
    assert "mamba: no config.json in the folder" in message and "the bundled checkpoint is bundled:mamba" in message
    assert "bundled" not in refusal("../cwd")


@pytest.mark.parametrize("source", ["based", "bundled:based"])
def test_a_bundled_checkpoint_has_no_revision(checkpoints, source):
    assert "bundled:based is a folder and has no revision 'main'; leave revision out" in refusal(source, "main")


def test_a_damaged_one_is_refused(checkpoints):
    (checkpoints / "based" / "config.json").write_text("{}")
    assert f"{checkpoints / 'based' / 'config.json'}: its SHA-256 is" in refusal("based")


@pytest.mark.parametrize("source", ["gpt2", "Based", "bundled:gpt2", "bundled:org/name", "bundled:"])
def test_a_name_that_is_unknown(checkpoints, source):
    message = refusal(source)
    assert message.startswith(f"{source}: no such folder or bundled checkpoint (there are attention, based, mamba)")
    assert "a hub id, which has the form owner/name" in message


@pytest.mark.parametrize("source", ["based", "bundled:based"])
def test_where_none_is_bundled(nothing, source):
    message = refusal(source)
    assert f"{source}: no such folder or bundled checkpoint (this installation has none, {nothing} is empty" in message
    assert "`recall-evals train` makes them" in message and "owner/name" in message


# -- as lm-eval's models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [(AttentionLM, "attention"), (BasedLM, "based"), (MambaLM, "mamba")])
def test_without_pretrained_each_model_takes_its_own(checkpoints, kind, name):
    lm = kind(device="cpu")
    info = lm.get_model_info()
    assert info["architecture"] == name and info["checkpoint"] == f"bundled:{name}"
    assert info["content_hash"] == find_checkpoint(checkpoints / name).content_hash()
    assert lm.tokenizer_name.startswith(f"bundled:{name}-")


@pytest.mark.parametrize("arguments", ["", "max_length=50"])
def test_lm_evals_command_line_needs_no_model_args(checkpoints, arguments):
    lm = get_model("mamba").create_from_arg_string(arguments, {"batch_size": 2, "device": "cpu"})
    assert lm.model.architecture == "mamba" and lm.max_length == (50 if arguments else 96)


def test_a_demanded_architecture_is_demanded_of_a_name_too(checkpoints):
    with pytest.raises(ValueError, match="bundled:based is a based model, not mamba"):
        MambaLM("based")


def test_none_bundled_is_said_by_the_models_too(nothing):
    with pytest.raises(CheckpointError, match="bundled:mamba: no such folder or bundled checkpoint"):
        MambaLM()


@pytest.mark.parametrize(("field", "length"), [({"train_length": 200}, 200), ({"train_length": "x"}, 2048), ({}, 2048)])
def test_the_default_context_is_what_it_was_trained_at(tmp_path, field, length):
    folder = tiny.save(tmp_path, tiny.MAMBA | field)
    assert BasedLM(str(folder)).max_length == length
    assert BasedLM(str(folder), max_length=30).max_length == 30


@pytest.mark.parametrize("length", [0, 1, -5, 10**9])
def test_a_train_length_that_no_model_has(tmp_path, length):
    folder = tiny.save(tmp_path, tiny.MAMBA | {"train_length": length})
    with pytest.raises(ConfigurationError) as caught:
        BasedLM(str(folder))
    message = (
        f"{folder}: config.json: field 'train_length' must be from 2 to 1,048,576, got {length}; correct it or give"
    )
    assert message in str(caught.value)
    assert BasedLM(str(folder), max_length=30).max_length == 30


# -- the commands ---------------------------------------------------------------------------------------------------


def test_the_gate_takes_a_name(checkpoints, monkeypatch):
    monkeypatch.setattr("recall_evals.adapters.conformance.DRIFT", 300)
    done = CliRunner().invoke(app, ["check", "mamba"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("mamba: mamba, ") and "8 of 8 checks passed" in done.stdout


def test_the_gate_says_which_names_there_are(checkpoints):
    done = CliRunner().invoke(app, ["check", "hyena"])
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(
        "recall-evals check: hyena: no such folder or bundled checkpoint (there are attention,"
    )
    # Rich draws a box around the text and breaks its lines.
    help_text = " ".join(CliRunner().invoke(app, ["check", "--help"]).stdout.replace("│", " ").split())
    assert "a bundled checkpoint (attention, based, mamba), or a hub id" in help_text


def test_results_are_json(checkpoints):
    assert json.loads(json.dumps(BasedLM().get_model_info()))["checkpoint"] == "bundled:based"
