"""Inputs that once broke a promise of targets.py, found by fuzzing; each stands for what it showed."""

import json
from collections.abc import Mapping, Sequence

import pytest
import torch
from safetensors.torch import save

from fuzz import inputs
from fuzz.targets import check_documents, check_stops, check_weights, tokenizer


@pytest.mark.parametrize(
    ("pieces", "stops"),
    [
        (("ï", "½"), ["\ufffd"]),  # a stop that matched the first byte of a character
        (("a", "<|endoftext|>" * 60, "b"), ["ab"]),  # special tokens, which have no text, inside a stop
    ],
)
def test_stops(pieces: Sequence[str], stops: list[str]) -> None:
    tokens = [token for piece in pieces for token in tokenizer("bytes").encode(piece)]
    check_stops("bytes", tokens, stops, 1000, None)


@pytest.mark.parametrize("cell", ['"t"}\n{"text": "t", "value": "v", "\\ud800": 1', "[{}, 1]", "1" * 30])
def test_documents(cell: str) -> None:
    # A column named by half a surrogate pair, whose name the error repeats: it could not be printed.
    check_documents("validation.jsonl", f'{{"text": "t", "value": "v", "\\ud800": {cell}}}\n'.encode())


@pytest.mark.parametrize(
    "files",
    [
        *(
            {"model.safetensors.index.json": json.dumps({"weight_map": {"x": shard}}).encode()}
            for shard in (0.5, None, 7, "x" * 5000, "\ud800")  # shards that were looked for as they are
        ),
        {"pytorch_model.bin": b"\x80\x02c" + b"x" * 50_000 + b"\ny\n."},  # an error that repeated all of the file
    ],
    ids=["number", "null", "whole number", "long", "surrogate", "pickle"],
)
def test_weights(files: Mapping[str, bytes]) -> None:
    check_weights(files)


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fn])
def test_tied_rows_of_a_type_that_cannot_be_compared(dtype: torch.dtype) -> None:
    tensors = inputs.weights("based")
    head = torch.zeros(tensors["lm_head.weight"].shape, dtype=dtype)
    check_weights({"model.safetensors": save({**tensors, "lm_head.weight": head})})
