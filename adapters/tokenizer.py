"""Text to token ids and back: the checkpoint's own tokenizer, or GPT-2's, which every published checkpoint uses."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..models.checkpoint import fetch_from_hub

PUBLISHED_TOKENIZER = "openai-community/gpt2"
FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")

log = logging.getLogger("lm_eval.models.recall_evals")


def load_tokenizer(source: str | Path | None, pretrained: str | Path, revision: str | None = None) -> Any:
    """A Transformers tokenizer.

    Args:
        source: a folder, a tokenizer.json or a hub id; None takes the tokenizer that lies with the model, or GPT-2's
            where there is none (the published checkpoints carry none, and were all trained with it).
        pretrained, revision: the model, as given to `load_model`.

    Raises:
        ValueError: a folder without a tokenizer.
        OSError: a hub id that can't be read.
    """
    if source is not None:
        return _read(source, None)
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        own = [name for name in FILES if (folder / name).is_file()]
    else:
        own = [name for name in FILES if fetch_from_hub(str(pretrained), name, revision) is not None]
    if own:
        return _read(pretrained, revision)
    log.info("%s has no tokenizer of its own: taking GPT-2's, as the published checkpoints do", pretrained)
    return _read(PUBLISHED_TOKENIZER, None)


def _read(source: str | Path, revision: str | None) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = Path(source).expanduser()
    if path.is_dir() and not any((path / name).is_file() for name in FILES):
        raise ValueError(f"{path}: no tokenizer; give tokenizer=<folder, tokenizer.json or hub id>")
    if path.is_file() or ((path / FILES[0]).is_file() and not (path / FILES[1]).is_file()):
        file = path if path.is_file() else path / FILES[0]
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
        if tokenizer.eos_token is None and "<|endoftext|>" in tokenizer.get_vocab():
            tokenizer.eos_token = "<|endoftext|>"
        return tokenizer
    return AutoTokenizer.from_pretrained(str(source), revision=revision)


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


def save_byte_tokenizer(file: str | Path) -> None:
    """Write a tokenizer.json of the 256 bytes and <|endoftext|>: 257 tokens, for trying things without a download."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(file))
