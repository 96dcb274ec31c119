"""Reading weight files, safetensors or torch.save's, and the index of shards; nothing in them is run."""

import contextlib
import json
import pickle
import pickletools
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError
from .fields import shown

LONGEST_TEXT = 1000  # characters, of a tensor's name or whatever else a pickle spells out


def read_index(index: Path) -> list[str]:
    """The shards that a weights index names, all of them files beside it.

    Raises:
        CheckpointError: no weight_map, or one that names anything else.
    """
    try:
        shards = list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: no valid weight_map ({shown(str(error))}); download it again") from error
    for shard in shards:
        if not isinstance(shard, str) or not re.fullmatch(r"\w[\w .-]{0,199}", shard, re.ASCII):
            raise CheckpointError(
                f"{index}: weight_map names {shown(shard)}; a shard must be a file beside the index, named by letters, "
                "digits, spaces, dots, - and _"
            )
    if not shards:
        raise CheckpointError(f"{index}: weight_map names no file; download it again")
    return sorted(set(shards))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of one file by name, as stored, on the CPU.

    Raises:
        CheckpointError: a file that is damaged, or holds anything but named dense tensors.
    """
    # What damaged bytes make the libraries raise is not bounded: everything is caught.
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except Exception as error:
            raise CheckpointError(
                f"{file}: not a readable safetensors file ({shown(str(error))}); download it again"
            ) from error
    try:
        archive = zipfile.is_zipfile(file)
        damaged = _first_damaged(file) if archive else None
        _check_texts(file, archive)
        loaded = None if damaged else torch.load(file, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        # Torch's message begins and ends with how to run the code all the same.
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "no valid pickle")
        raise CheckpointError(
            f"{file}: refused: it is damaged, or holds more than tensors ({shown(reason)}); download it again, or save "
            "the tensors alone"
        ) from None
    except Exception as error:
        reason = shown(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"{file}: not a readable file of torch.save ({reason}); download it again") from error
    if damaged:
        raise CheckpointError(f"{file}: {shown(damaged)} in it is damaged; download it again")
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{file}: holds a {type(loaded).__name__}; save a dictionary of tensors")
    if "pytorch-lightning_version" in loaded and isinstance(loaded.get("state_dict"), dict):
        # Lightning's training state: the network's tensors are those below `model.`.
        loaded = {n: t for n, t in loaded["state_dict"].items() if isinstance(n, str) and n.startswith("model.")}
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not _is_dense(tensor):
            kind = f"{tensor.layout} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CheckpointError(f"{file}: {shown(name)} is no plain tensor ({kind}); save dense tensors by name")
    return loaded


def _first_damaged(archive: Path) -> str | None:
    """The first member whose checksum is wrong; torch does not look at them."""
    with zipfile.ZipFile(archive) as content:
        return content.testzip()


def _check_texts(file: Path, archive: bool) -> None:
    """Refuses texts that no name needs: about a bad one torch writes a message, in quadratic time."""
    with contextlib.ExitStack() as stack:
        if archive:
            content = stack.enter_context(zipfile.ZipFile(file))
            streams = [content.open(name) for name in content.namelist() if name.endswith("data.pkl")]
        else:
            streams = [stack.enter_context(file.open("rb"))] * 5  # so many pickles stand before the old form's tensors
        for stream in streams:
            for opcode, argument, place in pickletools.genops(stream):
                if isinstance(argument, str | bytes) and len(argument) > LONGEST_TEXT:
                    raise ValueError(f"{opcode.name} at {place} has a text of {len(argument)} characters")


def _is_dense(tensor: object) -> bool:
    """Whether it is a tensor that has its data, a number a place."""
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and not tensor.is_nested
        and tensor.device.type == "cpu"
    )
