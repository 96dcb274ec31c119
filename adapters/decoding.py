"""Choosing tokens and knowing when to stop, for one request, whatever else is being decoded."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

HALF = "\ufffd"  # what part of a character decodes to
NEAR_TIE = 1e-4  # DESIGN: below this a float32 text may depend on the batch, and is counted


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: then keep the fewest most likely tokens whose probabilities sum to top_p or more; 1 keeps all.

    Raises:
        ValueError: a value outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ValueError(f"need temperature >= 0, top_k >= 0 and 0 < top_p <= 1, got {self}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def draw(self, scores: Tensor, uniform: float) -> int:
        """The token that `uniform` in [0, 1) falls on. Shapes: scores `[V]`."""
        kept, ids = scores.double().sort(descending=True, stable=True)
        if self.top_k:
            kept, ids = kept[: self.top_k], ids[: self.top_k]
        p = ((kept - kept[0]) / self.temperature).softmax(-1)
        cumulative = p.cumsum(-1)
        if self.top_p < 1:
            n = int((cumulative - p < self.top_p).sum())
            cumulative = cumulative[:n]
        place = int(torch.searchsorted(cumulative, uniform * float(cumulative[-1]), right=True))
        return int(ids[min(place, len(cumulative) - 1)])


@dataclass
class Generation:
    """One request being answered.

    Attributes:
        prompt: the ids it starts from.
        stops: texts that end the answer; what comes before the first of them is the answer.
        limit: most tokens to generate.
        seed: of the request's own random numbers: the run's seed, the prompt and how often it was asked before, so
            that a sample depends on nothing but the request.
        pads: leading tokens of the prompt that are pads (JRT's left-pad mode).
        ends: ids that end the answer, as `end` of the engine does: stop texts that are special tokens.
    """

    prompt: Sequence[int]
    stops: Sequence[str]
    limit: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: Sequence[int | str] = (0,)
    pads: int = 0
    ends: frozenset[int] = frozenset()
    tokens: list[int] = field(default_factory=list)
    text: str | None = None  # the answer, once finished
    near_ties: int = 0

    def __post_init__(self) -> None:
        self.stops = [s for s in self.stops if s]
        self._longest = max((len(s) for s in self.stops), default=0)
        self._settled = 0  # tokens that no stop still to come can begin in
        self._random: np.random.Generator | None = None

    def draw(self, scores: Tensor) -> int:
        """The next token from scores `[V]`, by the request's own random numbers."""
        if self._random is None:
            digest = hashlib.sha256(json.dumps([list(self.seed), list(self.prompt)]).encode()).digest()
            self._random = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "big")))
        return self.sampling.draw(scores, self._random.random())

    def extend(
        self, tokens: Sequence[int], leads: Sequence[float], end: int | None, decode: Callable[[Sequence[int]], str]
    ) -> int:
        """Take greedily chosen tokens until the answer is complete; how many were taken.

        Args:
            leads: of each token over the second best.
        """
        taken = len(tokens) if self._goes_on(tokens, end, decode) else 0
        if taken:
            self.tokens += tokens
            if len(self.tokens) - self._settled >= 2 * (self._longest + 8):
                self._settle(decode)
        else:
            for token in tokens:
                taken += 1
                if self.append(token, end, decode):
                    break
        self.near_ties += sum(lead < NEAR_TIE for lead in leads[:taken])
        return taken

    def _goes_on(self, tokens: Sequence[int], end: int | None, decode: Callable[[Sequence[int]], str]) -> bool:
        """Whether the answer is still open after all these tokens, seen at one look; False where that is unsure."""
        if len(tokens) < 2 or len(self.tokens) + len(tokens) >= self.limit:
            return False
        if end in tokens or not self.ends.isdisjoint(tokens):
            return False
        if not self.stops:
            return True
        newest = decode([*self.tokens[self._settled :], *tokens])
        return HALF not in newest and not any(s in newest for s in self.stops)  # a part may hide what came before it

    def append(self, token: int, end: int | None, decode: Callable[[Sequence[int]], str]) -> bool:
        """Take a token; True when the answer is complete, and then `text` holds it.

        A stop text may straddle tokens, so the text of the newest tokens is looked at as a whole: all from a place
        where the text can be cut, and the longest stop could still end after it. A token may hold part of a character:
        while tokens may follow, U+FFFD at the end of the text may be such a part, and is no text yet.
        """
        if token == end or token in self.ends:
            self.text = self._cut(decode(self.tokens))
            return True
        self.tokens.append(token)
        if len(self.tokens) >= self.limit:
            self.text = self._cut(decode(self.tokens))
        elif self.stops:
            newest = decode(self.tokens[self._settled :]).rstrip(HALF)
            if any(s in newest for s in self.stops):
                # Read alone, the newest tokens may have another text (a leading space): the whole decides.
                text = decode(self.tokens).rstrip(HALF)
                self.text = self._cut(text) if any(s in text for s in self.stops) else None
            elif len(self.tokens) - self._settled >= 2 * (self._longest + 8):
                self._settle(decode)
        return self.text is not None

    def _settle(self, decode: Callable[[Sequence[int]], str]) -> None:
        """Look only at the later tokens from now on, if the text can be cut there and enough of it is left."""
        place = len(self.tokens) - self._longest - 8
        before, after = decode(self.tokens[self._settled : place]), decode(self.tokens[place:])
        whole = decode(self.tokens[self._settled :])
        if before + after == whole and len(after.rstrip(HALF)) >= self._longest:
            self._settled = place

    def _cut(self, text: str) -> str:
        places = [text.find(s) for s in self.stops if s in text]
        return text[: min(places)] if places else text
