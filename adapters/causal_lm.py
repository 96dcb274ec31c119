"""The lm-eval model `recall`: any causal language model, answered by the engine as our own are."""

from typing import Any

import torch

from ..models.sequence_model import SequenceModel
from ..models.transformers_loading import load_causal_lm
from ..models.transformers_model import TransformersModel
from .lm import BasedLM
from .tokenizer import PUBLISHED_TOKENIZER


class RecallLM(BasedLM):
    """Any causal language model: of Transformers, of flash-linear-attention, or of our own formats.

    `lm_eval --model recall --model_args pretrained=<folder or hub id>,...`

    Texts become tokens as in lm-eval's own `hf`: with the start token that the tokenizer adds.

    Args:
        cache: false reads the whole prompt again for each token, for models whose kind of cache is not known.
        trust_remote_code: run Python code that comes with the checkpoint.
        options: as of `based`.

    Raises:
        ModelError: a checkpoint that can't be used; names the remedy, and a package that is missing.
        ValueError: no `pretrained`, no tokenizer, or an argument outside its range.
    """

    def __init__(self, pretrained: str | None = None, cache: bool = True, **options: Any):
        if pretrained is None:
            raise ValueError("--model recall reads any causal language model: give pretrained=<folder or hub id>")
        self._cached, self._wrapped = cache, None
        super().__init__(pretrained, **options)
        self._wrapped = self.model if isinstance(self.model, TransformersModel) else None
        if self._wrapped is None:
            return
        if options.get("tokenizer") is None and self.tokenizer.name_or_path == PUBLISHED_TOKENIZER != pretrained:
            raise ValueError(f"{pretrained} has no tokenizer of its own; give tokenizer=<folder or hub id>")
        self._ends = self._wrapped.ends
        self.engine.vocabulary = self._wrapped.embedding.num_embeddings  # `hf` chooses among all rows of the head
        if not self._wrapped.shares:
            self.engine.share, self.engine.budget = False, max(self.engine.budget, self.max_length)

    def _load(self, dtype: torch.dtype, trust_remote_code: bool) -> SequenceModel:
        return load_causal_lm(
            self.checkpoint,
            dtype=dtype,
            device=self._device,
            trust_remote_code=trust_remote_code,
            cached=self._cached,
        )

    @property
    def prefix_token_id(self) -> int:
        start = self.tokenizer.bos_token_id if self._wrapped else None
        return self.eot_token_id if start is None else start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        if not self._wrapped or add_special_tokens is not None:
            return super().tok_encode(string, add_special_tokens, **kwargs)
        start = self.tokenizer.bos_token
        return self.tokenizer.encode(string, add_special_tokens=not (start and string.startswith(start)))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [self.tok_encode(text) for text in texts] if self._wrapped else super()._encode(texts)

    def get_model_info(self) -> dict[str, Any]:
        """As of `based`, and what the model's cache can't do."""
        return super().get_model_info() | {"cache_limits": self._wrapped.limits if self._wrapped else []}
