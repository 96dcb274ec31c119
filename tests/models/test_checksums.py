"""A folder with a SHA256SUMS: nothing is read from it that is not as listed, and every refusal says what to do."""

import hashlib
import json
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from recall_evals.adapters.lm import BasedLM
from recall_evals.adapters.tokenizer import load_tokenizer
from recall_evals.models import load_model
from recall_evals.models.checkpoint import find_checkpoint
from recall_evals.models.errors import CheckpointError

AGAIN = "take it again from where the checkpoint came from"


def digest(file) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def refusal(folder, read=load_model) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def own_tokenizer(folder):
    return load_tokenizer(None, folder)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint whose files are all listed."""
    return tiny.save_sums(tiny.save(tmp_path / "model", tiny.BASED))


@pytest.fixture
def sums(folder):
    return folder / "SHA256SUMS"


def in_shards(folder):
    """The same checkpoint in two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {f"part-{i}.safetensors": names[i::2] for i in range(2)}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def as_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("change", [lambda folder: None, in_shards, as_pickle], ids=["one file", "shards", "pickle"])
def test_what_is_listed_loads(folder, change):
    change(folder)
    tiny.save_sums(folder)
    assert load_model(folder).architecture == "based"
    assert len(BasedLM(str(folder), device="cpu").tokenizer) == 257


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here: would have compared with its output")
@pytest.mark.parametrize("options", [[], ["--binary"], ["./"]], ids=["text", "binary", "with ./"])
def test_what_sha256sum_writes_is_read(folder, sums, options):
    sums.unlink()
    prefix = "./" if options == ["./"] else ""
    names = [prefix + file.name for file in sorted(folder.iterdir())]
    command = ["sha256sum", *(o for o in options if o != "./"), *names]
    sums.write_bytes(subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout)
    assert (b" *" in sums.read_bytes()) == (options == ["--binary"])
    load_model(folder)
    own_tokenizer(folder)


@pytest.mark.parametrize(
    "change",
    [str.upper, lambda text: text.replace("\n", "\r\n"), lambda text: f"\n{text}\n\n", str.rstrip],
    ids=["upper case", "CRLF", "blank lines", "no last newline"],
)
def test_harmless_variants_of_the_list(folder, sums, change):
    digits = {line[:64] for line in sums.read_text().splitlines()}
    text = sums.read_text()
    if change is str.upper:
        for digit in digits:
            text = text.replace(digit, digit.upper())
    else:
        text = change(text)
    sums.write_bytes(text.encode())
    load_model(folder)
    own_tokenizer(folder)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda folder: None, "config.json"),
        (lambda folder: None, "model.safetensors"),
        (as_pickle, "pytorch_model.bin"),
        (in_shards, "model.safetensors.index.json"),
        (in_shards, "part-1.safetensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_changed_file_is_refused_before_it_is_read(folder, change, name):
    change(folder)
    tiny.save_sums(folder)
    expected = digest(folder / name)
    (folder / name).write_bytes(b"{")
    message = refusal(folder)
    assert str(folder / name) in message
    assert f"its SHA-256 is {digest(folder / name)}, SHA256SUMS says {expected}" in message
    assert AGAIN in message and "correct its line in SHA256SUMS if the change is meant" in message


def test_one_flipped_bit_that_no_other_check_sees(folder):
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "model.safetensors: its SHA-256 is" in refusal(folder)
    (folder / "SHA256SUMS").unlink()
    load_model(folder)


@pytest.mark.parametrize("read", [own_tokenizer, lambda f: load_tokenizer(f, ""), lambda f: BasedLM(str(f))])
def test_a_changed_tokenizer_is_refused(folder, read):
    file = folder / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    message = refusal(folder, read)
    assert f"{file}: its SHA-256 is {digest(file)}" in message and AGAIN in message


def test_every_file_that_a_configured_tokenizer_reads_is_checked(folder):
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "tokenizer_config.json: is not listed in SHA256SUMS" in refusal(folder, own_tokenizer)
    tiny.save_sums(folder)
    assert own_tokenizer(folder).eos_token == "<|endoftext|>"
    (folder / "tokenizer_config.json").write_text("{}")
    assert "tokenizer_config.json: its SHA-256 is" in refusal(folder, own_tokenizer)


def test_another_folders_tokenizer_needs_no_line(folder, tmp_path):
    other = tiny.save(tmp_path / "other", tiny.BASED)
    (folder / "tokenizer.json").write_text("changed")
    assert len(BasedLM(str(folder), tokenizer=str(other), device="cpu").tokenizer) == 257


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_is_not_listed_is_refused(folder, sums, name):
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if name not in line))
    message = refusal(folder, own_tokenizer if name == "tokenizer.json" else load_model)
    assert f"{folder / name}: is not listed in SHA256SUMS" in message
    assert AGAIN in message and f"add its line, as `sha256sum {name}` prints it" in message


def test_an_empty_list_vouches_for_nothing(folder, sums):
    sums.write_text("")
    assert "config.json: is not listed in SHA256SUMS" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "README.md", "sub/file", "x" * 300, "é", "a\0b"])
def test_a_listed_file_that_is_missing_is_an_error(folder, sums, name):
    (folder / name).unlink() if name == "model.safetensors" else sums.write_text(
        f"{sums.read_text()}{'0' * 64}  {name}"
    )
    for read in (load_model, own_tokenizer):
        message = refusal(folder, read)
        if "\0" in name:
            assert f"{sums}: line 4 names 'a\\x00b', which is not in the folder" in message
        else:
            assert f"{sums}: lists files that the folder lacks: '{name[:90]}" in message
            assert "copy the whole folder" in message
        assert AGAIN in message


@pytest.mark.parametrize(
    "line",
    [
        "config.json",
        f"{'0' * 63}  config.json",
        f"{'0' * 65}  config.json",
        f"{'g' * 64}  config.json",
        f"{'0' * 64} config.json",
        f"{'0' * 64}\tconfig.json",
        f"{'0' * 64}  ",
        f"\\{'0' * 64}  a\\nb",
        f"SHA256 (config.json) = {'0' * 64}",
        f"{'0' * 32}  config.json",
        "<!DOCTYPE html>",
        "x" * 100_000,
    ],
    ids=lambda line: line[:20],
)
def test_a_malformed_line_is_an_error(folder, sums, line):
    sums.write_text(f"{sums.read_text()}{line}\n")
    message = refusal(folder)
    assert f"{sums}: line 4 is " in message and "not `<64 hexadecimal digits>  <name>`" in message and AGAIN in message
    assert len(message) < 1000


@pytest.mark.parametrize("name", ["/etc/hostname", "../outside", "a/../../outside", "./../outside", ".."])
def test_a_name_outside_the_folder_is_an_error(folder, sums, name):
    (folder.parent / "outside").touch()
    sums.write_text(f"{sums.read_text()}{'0' * 64}  {name}\n")
    message = refusal(folder)
    assert (
        f"{sums}: line 4 names '{name.removeprefix('./')}', which is not in the folder" in message and AGAIN in message
    )


def test_a_name_listed_twice_is_an_error(folder, sums):
    sums.write_text(sums.read_text() + sums.read_text().splitlines(True)[0])
    assert f"{sums}: line 4 lists 'config.json' a second time; {AGAIN}" in refusal(folder)


@pytest.mark.parametrize("kind", ["noise", "a folder", "a broken link"])
def test_a_list_that_can_not_be_read_is_an_error(folder, sums, kind):
    sums.unlink()
    if kind == "noise":
        sums.write_bytes(bytes(range(256)))
    elif kind == "a folder":
        sums.mkdir()
    else:
        sums.symlink_to("nowhere")
    message = refusal(folder)
    assert f"{sums}: can't be read" in message and AGAIN in message


def test_finding_is_checking(folder):
    """The gate and the content hash start from find_checkpoint, too."""
    (folder / "config.json").write_text("{}")
    assert "its SHA-256 is" in refusal(folder, find_checkpoint)
