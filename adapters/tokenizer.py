"""Text to token ids and back: the checkpoint's own tokenizer, or GPT-2's, which every published checkpoint uses."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PUBLISHED_TOKENIZER = "openai-community/gpt2"
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def load_tokenizer(source: str | Path | None, pretrained: str | Path, revision: str | None = None) -> Any:
    """A Transformers tokenizer.

    Args:
        source: a folder, a tokenizer.json or a hub id; None takes the tokenizer that lies with the model, or GPT-2's
            where there is none (the published checkpoints carry none, and were all trained with it).
        pretrained, revision: the model, as given to `load_model`.

    Raises:
        ValueError: a folder without tokenizer.json.
        OSError: a hub id that can't be read.
    """
    if source is not None:
        return _read(source, None)
    if Path(pretrained).expanduser().is_dir():
        return _read(pretrained if (Path(pretrained).expanduser() / FILES[0]).is_file() else PUBLISHED_TOKENIZER, None)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        hf_hub_download(str(pretrained), FILES[0], revision=revision)
    except EntryNotFoundError:
        return _read(PUBLISHED_TOKENIZER, None)
    return _read(pretrained, revision)


def _read(source: str | Path, revision: str | None) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = Path(source).expanduser()
    if path.is_dir() and not (path / FILES[0]).is_file():
        raise ValueError(f"{path}: no {FILES[0]}; give tokenizer=<folder, tokenizer.json or hub id>")
    if path.is_file() or (path.is_dir() and not (path / FILES[1]).is_file()):
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
