"""What loading refuses: each error names the file and the field or tensor, and no code of a file is run."""

import contextlib
import io
import json
import os
import pickle
import resource
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save, save_file

import tiny
from recall_evals.models import load_model
from recall_evals.models.errors import CheckpointError, ConfigurationError

BASED, NORM = tiny.BASED, "transformer.layers.0.norm1.weight"


def refusal(folder, error=CheckpointError):
    """The message with which a folder is refused; it always names the folder."""
    with pytest.raises(error) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def weights():
    return tiny.tensors(tiny.build(BASED))


@pytest.fixture
def folder(tmp_path):
    """A folder with a good config.json and no weights."""
    (tmp_path / "config.json").write_text(json.dumps(BASED))
    return tmp_path


# -- weights that don't fit -----------------------------------------------------------------------------------------


def test_misfits_are_listed(tmp_path, weights):
    del weights["transformer.ln_f.weight"]
    weights[NORM] = torch.ones(3)
    weights["extra"] = torch.ones(1)
    message = refusal(tiny.save(tmp_path, BASED, weights))
    assert "take both from the same release" in message
    for part in ("missing: transformer.ln_f.weight [64]", "unexpected: 'extra' [1]", "norm1.weight is [3]"):
        assert part in message


def test_a_long_list_of_misfits_is_cut(tmp_path):
    message = refusal(tiny.save(tmp_path, BASED, {f"x{i}": torch.ones(1) for i in range(30)}))
    assert message.count("\n") == 21 and message.endswith("more")


def test_untied_matrices_are_refused_where_the_configuration_ties_them(tmp_path, weights):
    weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    assert "differ, but the configuration ties them" in refusal(tiny.save(tmp_path / "a", BASED, weights))
    model = load_model(tiny.save(tmp_path / "b", tiny.changed(BASED, tie_word_embeddings=False), weights))
    assert not torch.equal(model.lm_head.weight, model.embedding.weight)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_no_real_numbers(tmp_path, weights, dtype):
    weights[NORM] = torch.ones(64).to(dtype)
    assert f"wrong type: {NORM} is {dtype}" in refusal(tiny.save(tmp_path, BASED, weights))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_real_types_are_converted(tmp_path, weights, dtype):
    weights[NORM] = torch.full((64,), 0.5, dtype=dtype)
    model = load_model(tiny.save(tmp_path, BASED, weights))
    assert torch.equal(model.get_parameter(NORM), torch.full((64,), 0.5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(tmp_path, weights, bad):
    weights[NORM][5] = bad
    assert f"{NORM} holds NaN or infinity" in refusal(tiny.save(tmp_path, BASED, weights))


def test_weights_too_large_for_the_dtype(tmp_path, weights):
    weights[NORM][5] = 1e6
    load_model(tiny.save(tmp_path, BASED, weights))
    with pytest.raises(CheckpointError, match=f"{NORM} holds NaN or infinity as torch.float16; .*wider dtype"):
        load_model(tmp_path, dtype=torch.float16)


@pytest.mark.parametrize("other", [f"model.{NORM}", f"{NORM} of ln_0"])
def test_two_tensors_for_one_weight(tmp_path, weights, other):
    weights[other.replace(f"{NORM} of ln_0", "transformer.ln_0.weight")] = torch.ones(64)
    message = refusal(tiny.save(tmp_path, BASED, weights))
    # With a leading norm all others move on, and the last meets transformer.ln_f.
    assert "are the same weight; keep one of them" in message
    assert (NORM if other.startswith("model") else "transformer.ln_f.weight") in message


@pytest.mark.parametrize("field", ["n_layer", "n_embd", "vocab_size", "n_head", "n_inner", "n_positions"])
@pytest.mark.parametrize("size", [10**400, 10**12])
def test_sizes_that_no_model_has(folder, weights, field, size):
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(tiny.changed(BASED, **{field: size})))
    assert f"field {field!r} must be a whole number from" in refusal(folder, ConfigurationError)


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"n_layer": 1000}, "missing: transformer.layers.4.mixer"),
        (
            {"n_embd": 2**20, "vocab_size": 2**20},
            "wrong shape: transformer.embeddings.word_embeddings.weight is [264, 64]",
        ),
        ({"n_positions": 2**20}, "missing: transformer.embeddings.position_embeddings.weight"),
        (
            {"mixer": BASED["mixer"] | {"expand_proj": 1000}},
            "in_proj.weight is [256, 64], the configuration says [64000",
        ),
        ({"alt_mixer": BASED["alt_mixer"] | {"head_dim": 2**20}}, "proj_v.weight is [64, 64], the configuration says"),
    ],
    ids=["n_layer", "n_embd", "n_positions", "expand_proj", "head_dim"],
)
def test_sizes_are_compared_with_the_tensors_before_memory_is_taken(folder, weights, fields, part):
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(tiny.changed(BASED, **fields)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert part in refusal(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100_000, "kilobytes more than ever before"


# -- files that can't be read ---------------------------------------------------------------------------------------


def damaged(content):
    """Every kind of damage, by name."""
    return {
        "empty": b"",
        "cut": content[:-100],
        "cut in the header": content[:50],
        "noise": bytes(range(256)) * 20,
        "zeros": bytes(len(content)),
        "a web page": b"<!DOCTYPE html><html>404</html>",
        "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }


@pytest.mark.parametrize("kind", damaged(b""))
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "old.bin"])
def test_damaged_weights(folder, weights, name, kind):
    if name == "model.safetensors":
        content = save(weights)
    else:
        stream = io.BytesIO()
        torch.save(weights, stream, _use_new_zipfile_serialization=name != "old.bin")
        content, name = stream.getvalue(), "pytorch_model.bin"
    (folder / name).write_bytes(damaged(content)[kind])
    message = refusal(folder)
    assert str(folder / name) in message and "download it again" in message


def test_flipped_bits_in_an_archive_of_torch(folder, weights):
    torch.save(weights, folder / "pytorch_model.bin")
    content = bytearray((folder / "pytorch_model.bin").read_bytes())
    content[content.index(weights[NORM].numpy().tobytes()) + 3] ^= 4
    (folder / "pytorch_model.bin").write_bytes(content)
    assert "is damaged; download it again" in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2, 64]},
        {"shape": [2**40]},
        {"shape": [-64]},
        {"data_offsets": [0, 2**40]},
        {"data_offsets": [256, 0]},
        {"dtype": "F64"},
        {"dtype": "nonsense"},
        {"dtype": None},
    ],
    ids=str,
)
def test_a_header_that_lies(folder, change):
    body = torch.ones(64).numpy().tobytes()
    header = json.dumps({NORM: {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]} | change}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + body)
    assert "not a readable safetensors file" in refusal(folder)


@pytest.mark.parametrize("length", [0, 7, 2**31, 2**63, 2**64 - 1])
def test_a_header_of_another_length(folder, weights, length):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + save(weights)[8:])
    assert "not a readable safetensors file" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ([torch.ones(1)], "holds a list; save a dictionary of tensors"),
        ({"state_dict": {"x": torch.ones(1)}}, "'state_dict' is no plain tensor (dict)"),
        ({1: torch.ones(1)}, "1 is no plain tensor"),
        ({"x": torch.eye(3).to_sparse()}, "'x' is no plain tensor (torch.sparse_coo on cpu)"),
        ({"x": torch.empty(3, device="meta")}, "'x' is no plain tensor (torch.strided on meta)"),
    ],
)
def test_a_pickle_of_something_else(folder, content, part):
    torch.save(content, folder / "pytorch_model.bin")
    assert part in refusal(folder)


class Harmful:
    """Unpickled, it makes the folder that it names."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("form", ["archive", "old", "raw", "nested", "shard", "storage key"])
def test_a_pickle_that_runs_code_is_refused(folder, form, weights):
    harmful = Harmful(str(folder / "ran"))
    file = folder / ("part.bin" if form == "shard" else "pytorch_model.bin")
    if form == "raw":
        file.write_bytes(pickle.dumps({"x": harmful}, protocol=2))
    elif form == "storage key":  # a pickle of its own in an archive that is otherwise whole
        torch.save(weights, file)
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, pickle.dumps(harmful, protocol=2) if name.endswith("data.pkl") else content)
    else:
        content = {"x": {"y": [harmful]}} if form == "nested" else {"x": harmful}
        torch.save(content, file, _use_new_zipfile_serialization=form != "old")
    if form == "shard":
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"x": "part.bin"}}))
    message = refusal(folder)
    if form == "raw":
        assert f"{file}: not a readable file of torch.save" in message
    else:
        assert f"{file}: refused: it is damaged, or holds more than tensors" in message and "mkdir" in message
    assert not (folder / "ran").exists()
    with contextlib.suppress(Exception):
        torch.load(file, weights_only=False)
    assert (folder / "ran").exists(), "read without care, the file is harmful"


@pytest.mark.parametrize("old", [True, False])
def test_a_pickle_with_an_endless_name(folder, weights, old):
    # Torch's message about one that it doesn't know would take hours.
    weights["x" * 5_000_000] = torch.ones(1)
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
    assert "has a text of 5000000 characters" in refusal(folder)


# -- shards and their index -----------------------------------------------------------------------------------------


@pytest.fixture
def shards(folder, weights):
    """Two shards and their index; returns the folder and what the index holds."""
    names = sorted(weights)
    parts = {f"part-{i}.safetensors": names[i::2] for i in range(2)}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load_model(folder)
    return folder, index


def test_one_damaged_shard(shards):
    folder, _ = shards
    (folder / "part-1.safetensors").write_bytes((folder / "part-1.safetensors").read_bytes()[:-1])
    assert "part-1.safetensors: not a readable safetensors file" in refusal(folder)


def test_a_tensor_in_two_shards(shards):
    folder, index = shards
    name = next(n for n, file in index["weight_map"].items() if file == "part-0.safetensors")
    save_file({name: torch.ones(1)}, folder / "part-2.safetensors")
    index["weight_map"]["more"] = "part-2.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"part-2.safetensors: '{name}' is also in part-0.safetensors; keep one" in refusal(folder)


def test_a_missing_shard(shards):
    folder, _ = shards
    (folder / "part-1.safetensors").unlink()
    assert "part-1.safetensors" in refusal(folder)


@pytest.mark.parametrize(
    "shard",
    ["../outside.safetensors", "/outside.safetensors", "a/b.safetensors", "a\\b", "..", ".", "", "a\0b", "x" * 5000]
    + ["\ud800", "é", None, 3, 0.5, ["part-0.safetensors"], {}],
    ids=lambda shard: repr(shard)[:20],
)
def test_a_shard_must_lie_in_the_folder(shards, shard):
    folder, index = shards
    (folder.parent / "outside.safetensors").write_bytes((folder / "part-1.safetensors").read_bytes())
    index["weight_map"] = {n: shard if f == "part-1.safetensors" else f for n, f in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    message = refusal(folder)
    assert "model.safetensors.index.json: weight_map names" in message and "a file beside the index" in message
    message.encode()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"{}", b'{"weight_map": {}}', b'{"weight_map": []}', b'{"weight_map": 3}', b"\xff\xfe"]
    + [b"[" * 100_000],
    ids=lambda content: repr(content)[:20],
)
def test_an_index_that_is_none(shards, content):
    folder, _ = shards
    (folder / "model.safetensors.index.json").write_bytes(content)
    message = refusal(folder)
    assert "model.safetensors.index.json: " in message and "download it again" in message
