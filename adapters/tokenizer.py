"""Text to token ids and back: the checkpoint's own tokenizer, or GPT-2's, which every published checkpoint uses."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..models.checkpoint import find_folder
from ..models.checksums import Checksums
from ..models.errors import CheckpointError
from ..models.hub import fetch_from_hub

PUBLISHED_TOKENIZER = "openai-community/gpt2"
FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")
COMPANIONS = ("merges.txt", "special_tokens_map.json", "added_tokens.json", "config.json")
REMEDY = "give tokenizer=<folder, tokenizer.json or hub id>"

log = logging.getLogger("lm_eval.models.recall_evals")


def load_tokenizer(source: str | Path | None, pretrained: str | Path, revision: str | None = None) -> Any:
    """A Transformers tokenizer.

    Args:
        source: a folder, a tokenizer.json, a bundled checkpoint or a hub id; None takes the tokenizer that lies with
            the model, or GPT-2's where there is none (the published ones carry none, and were all trained with it).
        pretrained, revision: the model, as given to `load_model`.

    Raises:
        CheckpointError: nothing there, nothing that can be read, a file that is not as the folder's SHA256SUMS lists
            it, or a hub that can't be asked; names the remedy.
    """
    if source is not None:
        return _read(str(source), None)
    if _find(str(pretrained), revision) is not None:
        return _read(str(pretrained), revision)
    log.info("%s has no tokenizer of its own: taking GPT-2's, as the published checkpoints do", pretrained)
    try:
        return _read(PUBLISHED_TOKENIZER, None)
    except CheckpointError as error:
        raise CheckpointError(f"{pretrained} has no tokenizer of its own, and GPT-2's can't be had: {error}") from error


def _find(source: str, revision: str | None) -> Path | None:
    """The file or folder that holds a tokenizer: for a hub id the cache's, with all that belongs to it."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if (local := find_folder(source)) is not None:
        return local if any((local / name).is_file() for name in FILES) else None
    folder = None
    for name in FILES + COMPANIONS:
        if name == COMPANIONS[0] and folder is None:
            return None
        try:
            file = fetch_from_hub(source, name, revision)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {REMEDY}") from error
        if file is not None:
            folder = file.parent
            revision = folder.name  # the commit: all files from the same one, and no questions that were answered
    return folder


def _read(source: str, revision: str | None) -> Any:
    from huggingface_hub import is_offline_mode
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = _find(source, revision)
    if path is None:
        offline = " in the hub's cache, and the hub must not be asked (HF_HUB_OFFLINE)" if is_offline_mode() else ""
        raise CheckpointError(f"{source}: no tokenizer{offline}; looked for {', '.join(FILES)}; {REMEDY}")
    file = path if path.is_file() else path / FILES[0]
    whole = path.is_dir() and ((path / FILES[1]).is_file() or not file.is_file())
    if path.is_dir():
        sums = Checksums(path)
        for name in FILES + COMPANIONS if whole else FILES[:1]:
            if (path / name).is_file():
                sums.check(name)
    try:
        if whole:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            tokenizer.name_or_path = source
            return tokenizer
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), name_or_path=source)
    except Exception as error:  # the tokenizers library raises no narrower one for a file that it can't read
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{source}: its tokenizer can't be read ({reason}); {REMEDY}") from error
    if tokenizer.eos_token is None and "<|endoftext|>" in tokenizer.get_vocab():
        tokenizer.eos_token = "<|endoftext|>"
    return tokenizer


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of the tokenizer's whole definition (of its vocabulary, where it has no fast form)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text; nothing is prepended or appended."""
    return tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"] if texts else []


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of the ids; special tokens are left out, as in lm-eval's own models."""
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
