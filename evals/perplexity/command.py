"""`recall-evals ppl` and `recall-evals bigrams`."""

import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

from ... import __version__
from ...adapters.causal_lm import RecallLM
from ...adapters.tokenizer import load_tokenizer, tokenizer_hash
from .bigrams import BigramCounter, Counted, CountsError, CountsFile, Keys
from .hits import rare_hits
from .measure import BUDGET, Gap, Slice, Slices, cross_entropies, gap
from .texts import Texts, TextsError
from .windows import Tokens, TokenStream, vocabulary_size, windows

IDENTITY = (
    "checkpoint",
    "architecture",
    "parameters",
    "dtype",
    "revision",
    "content_hash",
    "tokenizer_hash",
)


@dataclass(frozen=True)
class Rarity:
    """Which pairs are too frequent to be hits, and who says so.

    Attributes:
        frequent: their sorted keys.
        origin: where the counts come from, for the results.
        words: the same in words.
        sha256: of the texts that were counted, where they are the evaluated ones.
    """

    frequent: Keys
    origin: dict[str, Any]
    words: str
    sha256: str | None = None


def ppl(
    sources: Sequence[str],
    texts: Texts,
    *,
    tokens: int | None = None,
    length: int | None = None,
    counts: Path | None = None,
    max_train_count: int = 1000,
    tokenizer: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    output: Path | None = None,
) -> None:
    """Measure models on the same windows of the same tokens; print a table, then one line of JSON.

    Raises:
        ModelError, TextsError, CountsError: a model, texts or counts that can't be used.
        ValueError: models of different tokenizers, an argument outside its range, or nothing to read.
    """
    if output is not None and not output.absolute().parent.is_dir():
        raise ValueError(f"--output {output}: there is no folder {output.absolute().parent}; make it first")
    if revision is not None and len(sources) > 1:
        raise ValueError(f"--revision {revision} of which model? Give one model with it")
    options: dict[str, Any] = {
        "revision": revision,
        "tokenizer": tokenizer,
        "dtype": dtype,
        "device": device,
        "max_length": length,
    }
    models = [RecallLM(source, **options) for source in sources]
    window = min(lm.max_length for lm in models)
    hashes = [tokenizer_hash(lm.tokenizer) for lm in models]
    for source, found in zip(sources, hashes, strict=True):
        if found != hashes[0]:
            raise ValueError(
                f"{source} has another tokenizer than {sources[0]}, so that perplexities can't be compared: measure "
                "them in runs of their own, and compare bits per byte"
            )
    stream = TokenStream(texts, models[0].tokenizer, tokens)
    vocabulary = vocabulary_size(models[0].tokenizer)
    rarity = _rarity(stream, vocabulary, counts, max_train_count, hashes[0], sources[0])

    slices = [Slices(window) for _ in models]
    seconds, slicing, size, read = [0.0] * len(models), 0.0, 0, 0
    began = time.perf_counter()
    for part in windows(_shown(stream, "predicting"), window, max(1, BUDGET // window)):
        at = time.perf_counter()
        cells = slices[0].cells(rare_hits(part.ids, vocabulary, rarity.frequent))
        slicing += time.perf_counter() - at
        size += int(part.sizes[:, 1:].sum())
        read += len(part.ids)
        for i, lm in enumerate(models):
            at = time.perf_counter()
            losses = cross_entropies(lm.model, torch.from_numpy(part.ids).to(lm.model.device)).double().cpu().numpy()
            seconds[i] += time.perf_counter() - at
            if not np.isfinite(losses).all():
                kind = str(lm.model.dtype).removeprefix("torch.")
                raise ValueError(f"{sources[i]} gives scores that are no numbers in {kind}; choose another --dtype")
            at = time.perf_counter()
            slices[i].add(losses, cells)
            slicing += time.perf_counter() - at
    if not read:
        raise TextsError(f"{texts.source}: {_empties(stream)}, nothing to predict; give a text of two tokens or more")
    if rarity.sha256 not in (None, stream.tally.sha256):
        raise TextsError(f"{texts.source} changed between counting its pairs and predicting it; run again")

    result: dict[str, Any] = {
        "data": {**texts.identity(), **asdict(stream.tally)},
        "window": window,
        "windows": read,
        "predicted_tokens": slices[0].all.tokens,
        "predicted_bytes": size,
        "hits": slices[0].hits.tokens / slices[0].all.tokens,
        "max_train_count": max_train_count,
        "train_counts": rarity.origin,
        "models": [
            {
                **{name: value for name, value in lm.get_model_info().items() if name in IDENTITY},
                **_measured(found, size, None if i == 0 else gap(found, slices[0])),
                "seconds": round(seconds[i], 3),
            }
            for i, (lm, found) in enumerate(zip(models, slices, strict=True))
        ],
        "gap_to": sources[0],
        "seconds": round(time.perf_counter() - began, 3),
        "seconds_of_slices": round(slicing, 3),
        "versions": {
            "recall_evals": __version__,
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "tokenizers": version("tokenizers"),
            "python": platform.python_version(),
        },
        "device": str(models[0].model.device),
    }
    print(f"{texts.source}: {stream.tally.documents:,} documents{_skipped(stream)}, {stream.tally.tokens:,} tokens")
    print(f"{read:,} windows of {window:,}, {slices[0].all.tokens:,} tokens of {size:,} bytes predicted")
    print(f"hits: a pair seen before in the window, {rarity.words}\n")
    print(_table(sources, result["models"]), flush=True)
    line = json.dumps(result, allow_nan=False)
    print(f"\n{line}")
    if output is not None:
        output.write_text(line + "\n", encoding="utf-8")


def _shown(stream: TokenStream, doing: str) -> Iterator[Tokens]:
    """The stream with a bar of its tokens, on a terminal."""
    with tqdm(desc=doing, total=stream.limit, unit=" tok", unit_scale=True, disable=None) as bar:
        for run in stream:
            yield run
            bar.update(len(run.ids))


def _rarity(
    stream: TokenStream, vocabulary: int, counts: Path | None, most: int, tokenizer: str, source: str
) -> Rarity:
    if counts is not None:
        file = CountsFile(counts)
        file.demand(tokenizer, source)
        about = asdict(file.counted)
        return Rarity(
            file.frequent(most),
            {"from": "counts file", "file": str(counts), **about},
            f"and fewer than {most:,} times in training ({counts}: {file.counted.tokens:,} tokens)",
        )
    with BigramCounter(vocabulary) as counter:
        counter.count(run.ids for run in _shown(stream, "counting pairs"))
        frequent = counter.frequent(most)
    return Rarity(
        frequent,
        {"from": "the evaluated text itself", "tokens": stream.tally.tokens},
        f"and fewer than {most:,} times in this text itself ({stream.tally.tokens:,} tokens; no --counts were given)",
        stream.tally.sha256,
    )


def _measured(found: Slices, size: int, to_first: Gap | None) -> dict[str, Any]:
    def of(part: Slice) -> dict[str, Any]:
        return {"tokens": part.tokens, "cross_entropy": part.cross_entropy, "perplexity": part.perplexity}

    return {
        **{name: value for name, value in of(found.all).items() if name != "tokens"},
        "bits_per_byte": found.bits_per_byte(size),
        "last_half": of(found.last_half),
        "hits": of(found.hits),
        "others": of(found.others),
        "by_position": [{"first": first, "last": last, **of(part)} for first, last, part in found.by_position()],
        "gap": None if to_first is None else asdict(to_first),
    }


def _table(sources: Sequence[str], models: list[dict[str, Any]]) -> str:
    first = models[0]
    tokens = first["hits"]["tokens"] + first["others"]["tokens"]

    def row(name: str, part: str | None, n: int) -> list[str]:
        values = [(model if part is None else model[part])["perplexity"] for model in models]
        return [name, f"{n / tokens:.1%}", *(_number(value, ".2f") for value in values)]

    rows = [
        row("perplexity", None, tokens),
        row("last half of each window", "last_half", first["last_half"]["tokens"]),
        row("hits", "hits", first["hits"]["tokens"]),
        row("other tokens", "others", first["others"]["tokens"]),
    ]
    for i, bucket in enumerate(first["by_position"]):
        values = [_number(model["by_position"][i]["perplexity"], ".2f") for model in models]
        place = f"{bucket['first']:,}" + (f"-{bucket['last']:,}" if bucket["last"] > bucket["first"] else "")
        rows.append([f"after {place} tokens", f"{bucket['tokens'] / tokens:.1%}", *values])
    rows.append(["bits per byte", "", *(_number(model["bits_per_byte"], ".4f") for model in models)])
    if len(models) > 1:
        gaps = [model["gap"] for model in models[1:]]
        rows.append([f"nats above {sources[0]}", "", "", *(_number(found["difference"], ".4f") for found in gaps)])
        rows.append(["of which in hits", "", "", *(_number(found["hits"], ".1%") for found in gaps)])
    align = ("left", *["right"] * (1 + len(models)))
    return tabulate(rows, ["", "tokens", *sources], "github", disable_numparse=True, colalign=align)


def _number(x: float | None, form: str) -> str:
    return "" if x is None else format(x, form)


def _skipped(stream: TokenStream) -> str:
    return f" ({stream.tally.empty:,} empty ones skipped)" if stream.tally.empty else ""


def _empties(stream: TokenStream) -> str:
    return f"{stream.tally.documents:,} documents with text, {stream.tally.empty:,} empty ones"


def bigrams(data: Sequence[str], tokenizer: str, output: Path, field: str, split: str) -> None:
    """Count the pairs of corpora, and add up counts files made before (`.npz`); writes one counts file.

    Raises:
        ModelError, TextsError, CountsError: a tokenizer, texts or counts that can't be used.
        ValueError: an output that is no .npz, or nothing to count.
    """
    if output.suffix != ".npz" or not output.absolute().parent.is_dir():
        raise ValueError(f"--output {output} must be an .npz file in a folder that exists")
    known = load_tokenizer(None, tokenizer)
    found = tokenizer_hash(known)
    tokens = documents = empty = 0
    with BigramCounter(vocabulary_size(known), output.absolute().parent) as counter:
        for source in data:
            if Path(source).suffix == ".npz":
                made = CountsFile(Path(source))
                made.demand(found, tokenizer)
                counter.add(made.blocks())
                tokens, documents = tokens + made.counted.tokens, documents + made.counted.documents
                continue
            stream = TokenStream(Texts(source, field, split), known)
            counter.count(run.ids for run in _shown(stream, source))
            tally = stream.tally
            tokens, documents, empty = tokens + tally.tokens, documents + tally.documents, empty + tally.empty
        if tokens < 2:
            raise CountsError(f"{', '.join(data)}: {empty:,} empty documents and no pair of tokens; nothing to count")
        pairs = counter.save(output, Counted(vocabulary_size(known), found, tokens, documents, tuple(data)))
    skipped = f" ({empty:,} empty ones skipped)" if empty else ""
    print(f"{output}: {documents:,} documents{skipped}, {tokens:,} tokens, {pairs:,} pairs; tokenizer {found[:16]}")
