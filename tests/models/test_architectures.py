"""The registry: which architecture a configuration describes, and architectures of other packages."""

import json
import sys
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from safetensors.torch import save_file
from typer.testing import CliRunner

import tiny
from recall_evals.adapters.conformance import check_conformance
from recall_evals.adapters.lm import BasedLM
from recall_evals.evals.cli import app
from recall_evals.evals.models import benchmarked
from recall_evals.models import load_model
from recall_evals.models.architectures import FLA, OURS, architectures, detect_architecture, model_class
from recall_evals.models.errors import ConfigurationError
from recall_evals.models.matched import SIZES, matched_config, matched_names
from recall_evals.models.transformers_loading import named_class, names_transformers_class

OUTSIDE = Path(__file__).parent / "outside" / "gated_average.py"
CONFIG = {"model_type": "gated_average", "d_model": 32, "n_layer": 2, "vocab_size": 257}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Install a package with these entries in the group, as pip lays it out; gives its folder."""

    def install(**entries: str) -> Path:
        folder = tmp_path / "site"
        info = folder / "gated_average-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gated-average\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
        (info / "entry_points.txt").write_text(f"[recall_evals.architectures]\n{lines}")
        (folder / "gated_average.py").write_text(OUTSIDE.read_text())
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "gated_average", raising=False)
        return folder

    return install


def save_outside(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    model = model_class("gated_average")(CONFIG)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.5)
    save_file(tiny.tensors(model), folder / "model.safetensors")
    tiny.save_byte_tokenizer(folder / "tokenizer.json")
    return folder


def test_an_architecture_of_another_package_is_evaluated_like_ours(outside, tmp_path, monkeypatch):
    assert len(OUTSIDE.read_text().splitlines()) <= 150
    outside(gated_average="gated_average:GatedAverageModel")
    folder = str(save_outside(tmp_path / "checkpoint"))
    monkeypatch.setattr("recall_evals.adapters.conformance.DRIFT", 100)
    assert all(finding.passed for finding in check_conformance(load_model(folder)))
    lm = BasedLM(folder, device="cpu", max_length=64, batch_size=2)
    assert lm.get_model_info()["architecture"] == "gated_average"
    requests = [Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": 4}), 0) for text in ("ab", "abc")]
    assert len(lm.generate_until(requests, disable_tqdm=True)) == 2


def test_other_packages_break_nothing(outside):
    """Not even one that takes the name of ours, can't be imported, or is something else."""
    outside(based="gated_average:GatedAverageModel", gone="nowhere:Model", other="gated_average:GatedAverage")
    assert model_class("based").architecture == "based"
    for name, config in (tiny.CONFIGS | tiny.BASELINES).items():
        assert detect_architecture(config) == name
    assert detect_architecture({"model_type": "gone"}) == "gone"
    with pytest.raises(ConfigurationError, match=r"architecture gone: nowhere:Model can't be imported \(No module"):
        model_class("gone")
    with pytest.raises(ConfigurationError, match="architecture other: .* is no subclass of recall_evals"):
        model_class("other")


def test_what_is_not_known_is_said(outside):
    outside(gated_average="gated_average:GatedAverageModel")
    with pytest.raises(ConfigurationError, match="model_type h3, hyena, rwkv5, gated_average; model_type is 'llama'"):
        detect_architecture({"model_type": "llama"})


def test_the_command_lists_all(outside):
    outside(gated_average="nowhere:Model")
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0, done.output
    table, _, note = done.stdout.partition("\n\n")
    assert "in bfloat16" in note
    rows = {line.split()[0]: line for line in table.splitlines()[2:]}
    # Below the two libraries, after a dash, each of their architectures that has a configuration.
    assert [name for name in rows if name != "-"] == [*OURS, "gated_average"] == list(architectures())
    below = {line.split()[1]: line for line in table.splitlines() if line.startswith("- ")}
    assert set(below) == LIBRARIES
    assert "of gated-average" in rows["gated_average"]
    # two keys and values a token, layer and channel, of 2 bytes; and the position
    assert f"{2 * 2048 * 36 * 1680 * 2 + 8:,}" in rows["attention"]
    # a matrix of 64 x 64 float32 a head; two inputs of 2 bytes a channel
    assert f"{21 * (32 * 64 * 64 * 4 + 2 * 2048 * 2) + 8:,}" in rows["rwkv"]
    # a matrix of 64 x 128 float32 a head; four inputs of 2 bytes a channel, 128 for B and for C among them
    assert f"{48 * (64 * 64 * 128 * 4 + 4 * (4096 + 2 * 128) * 2) + 8:,}" in below["mamba2"]
    # as measured: a matrix of 256 x 512 float32 a head
    assert f"{24 * 4 * 256 * 512 * 4 + 8:,}" in below["gla"]
    assert [name for name, row in rows.items() if "CPU, GPU" not in row and name != "-"] == ["fla"]
    assert rows["fla"].endswith("recall-evals[fla]")
    assert "--model recall" in rows["transformers"]


MATCHED = [f"{name}-{size}" for name in OURS if name not in ("transformers", "fla") for size in SIZES]
LIBRARIES = set(FLA) | {"bamba", "falcon_mamba", "jamba", "lfm2", "mamba2", "qwen3_next", "recurrent_gemma", "rwkv4"}
LIBRARIES |= {"zamba2"}
WANTED = {"360m": 360e6, "1b": 1.33e9}


@pytest.mark.parametrize("name", MATCHED)
def test_matched_configurations_have_the_same_size(name):
    config = matched_config(name)
    architecture, _, size = name.rpartition("-")
    assert detect_architecture(config) == architecture
    with torch.device("meta"):
        model = model_class(architecture)(config)
    assert abs(model.n_parameters / WANTED[size] - 1) < 0.03, f"{model.n_parameters:,}"


@pytest.mark.parametrize("name", [f"{name}-{size}" for name in sorted(LIBRARIES) for size in SIZES])
def test_those_of_other_libraries_have_that_size_too(name):
    """Counted here, or, without flash-linear-attention, as a GPU counted them."""
    config = matched_config(name)
    assert names_transformers_class(config)
    measured = next((row["parameters"] for row in benchmarked() if row["what"] == name and "parameters" in row), None)
    try:
        kind = named_class(config)
    except ImportError:
        if measured is None:
            pytest.skip(f"no flash-linear-attention, and no benchmark of {name}: would have counted its parameters")
        counted = measured
    else:
        with torch.device("meta"):
            counted = sum(p.numel() for p in kind._from_config(kind.config_class(**config)).parameters())
    assert measured in (None, counted)
    assert abs(counted / WANTED[name.rpartition("-")[2]] - 1) < 0.03, f"{counted:,}"


def test_all_configurations_are_named():
    assert matched_names() == sorted([*MATCHED, *(f"{name}-{size}" for name in LIBRARIES for size in SIZES)])
    with pytest.raises(ValueError, match="no configuration 'based-7b'; there are attention-1b, attention-360m, bamba"):
        matched_config("based-7b")
