"""Perplexity on text that was not trained on."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..kernels.precision import plain_sums
from ..models.sequence_model import SequenceModel
from .corpus import read_corpus
from .parallel import scores


@dataclass(frozen=True)
class HeldOut:
    """What a model makes of a text.

    Attributes:
        perplexity: exp of the mean cross-entropy a token.
        bits_per_byte: of UTF-8, comparable between tokenizers.
        tokens: predicted.
    """

    perplexity: float
    bits_per_byte: float
    tokens: int


@torch.no_grad()
def held_out(model: SequenceModel, tokenizer: Any, folder: Path, length: int, batch: int = 8) -> HeldOut:
    """Perplexity of `validation.jsonl[.xz]` in `folder`, read in windows of `length` tokens that don't overlap.

    In float32; the first token of a window is not predicted, and what remains at the end of a text is left out.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
    """
    windows, bytes_per_token = [], []
    for document in read_corpus(folder, "validation"):
        ids = tokenizer.encode(document.text).ids
        bytes_per_token.append((len(document.text.encode()), len(ids)))
        windows += [ids[i : i + length + 1] for i in range(0, len(ids) - length, length)]
    total = 0.0
    read = torch.compile(scores) if model.device.type == "cuda" else scores  # uncompiled, a GPU would lay out L x L
    for i in range(0, len(windows), batch):
        tokens = torch.tensor(windows[i : i + batch], device=model.device)
        with plain_sums():
            given = read(model, tokens[:, :-1])
        total += F.cross_entropy(given.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="sum").item()
    count = len(windows) * length
    size, ids_in_all = (sum(column) for column in zip(*bytes_per_token, strict=True))
    mean = total / count
    return HeldOut(math.exp(mean), mean / math.log(2) * ids_in_all / size, count)
