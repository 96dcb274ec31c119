"""The tokenizer of the small checkpoints: a byte-level BPE, trained on the corpora that the models are trained on."""

from collections.abc import Iterator
from pathlib import Path

from .corpus import GENERATED, REAL, generated_documents
from .decontaminate import training_documents

VOCABULARY = 7936
END = "<|endoftext|>"
GENERATED_DOCUMENTS = 1000  # of each kind: enough for the words of their templates
PIECE = 20_000  # characters: the trainer counts words, so a text may come in parts


def train_tokenizer(folder: Path, held_out: Path, file: Path, vocabulary: int = VOCABULARY) -> None:
    """Write tokenizer.json: GPT-2's splitting into words, merges learned from the corpora, `<|endoftext|>` as token 0.

    Args:
        folder: of the corpora.
        held_out: of the validation sets, which are kept out (decontaminate.py).
        vocabulary: tokens, the 256 bytes and the end of text included.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(folder, held_out), trainer)
    file.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(file))


def _texts(folder: Path, held_out: Path) -> Iterator[str]:
    for name in REAL:
        for document in training_documents(folder, name, held_out):
            for start in range(0, len(document.text), PIECE):
                yield document.text[start : start + PIECE]
            yield from (f"\n{key}: {value}" for key, value in document.attributes)
    for name in GENERATED:
        for document in generated_documents(name, GENERATED_DOCUMENTS):
            yield document.text
