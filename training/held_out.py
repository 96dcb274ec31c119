"""Perplexity on text that was not trained on."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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
        hits: of these, the share that associative recall can help with: they complete a pair of tokens that stood in
            the window before (arXiv 2312.04927).
        hit_perplexity, other_perplexity: of the hits, and of all others.
    """

    perplexity: float
    bits_per_byte: float
    tokens: int
    hits: float
    hit_perplexity: float
    other_perplexity: float


def recall_hits(windows: Tensor) -> Tensor:
    """Which tokens complete a pair that stood in their window before: `[B, L + 1] -> [B, L]` bool, from the second on.

    Shapes: a window of L + 1 tokens has L pairs; the pair that ends in the first predicted token is the first.
    """
    pairs = windows[:, :-1] * (int(windows.max()) + 1) + windows[:, 1:]
    order = pairs.argsort(dim=1, stable=True)
    ranked = pairs.gather(1, order)
    repeated = torch.zeros_like(ranked, dtype=torch.bool)
    repeated[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    return torch.zeros_like(repeated).scatter(1, order, repeated)


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
    hit, other = [0.0, 0], [0.0, 0]  # sums of cross-entropy, and tokens
    read = torch.compile(scores) if model.device.type == "cuda" else scores  # uncompiled, a GPU would lay out L x L
    for i in range(0, len(windows), batch):
        tokens = torch.tensor(windows[i : i + batch], device=model.device)
        with plain_sums():
            given = read(model, tokens[:, :-1])
        loss = F.cross_entropy(given.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
        hits = recall_hits(tokens).flatten()
        for sums, which in ((hit, hits), (other, ~hits)):
            sums[0] += loss[which].sum().item()
            sums[1] += int(which.sum())
    count = len(windows) * length
    size, ids_in_all = (sum(column) for column in zip(*bytes_per_token, strict=True))
    mean = (hit[0] + other[0]) / count
    bits = mean / math.log(2) * ids_in_all / size
    split = (math.exp(total / n) if n else math.nan for total, n in (hit, other))
    return HeldOut(math.exp(mean), bits, count, hit[1] / count, *split)
