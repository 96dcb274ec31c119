"""The pads of the published runs, which entered their models as context: `pads=published` and `pads=published_jrt`.

Both harnesses, the forks of lm-eval behind BASED's table (arXiv 2402.18668) and behind Just Read Twice's (arXiv
2407.05483), took the prompts of a task longest first, in batches of `batch_size`, filled each up on the left to the
longest of its batch, cut the whole batch on the left to the `room` that the answer leaves, and gave no mask:

    row = [pad] * (w - n) + tokens[-w:],    w = min(longest of the batch, room)

So their scores depend on what else is asked, and on how much of it at a time. Continuations that are scored were padded
on the right, which no causal model sees: there nothing is to reproduce.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import Collator

from ..models.jrt import PAD_TOKEN

PUBLISHED, PUBLISHED_JRT = "published", "published_jrt"
SPACE = "Ġ"  # how GPT-2's tokenizer writes token 220


@dataclass(frozen=True)
class BatchPads:
    """A way to fill prompts up: its name, the token, and the batch size, which decides how many a prompt gets."""

    name: str
    token: int
    batch_size: int

    @classmethod
    def of(
        cls, name: str, batch_size: int | str | None, architecture: str, left_pad: bool, tokenizer: Any
    ) -> "BatchPads":
        """`published` took GPT-2's end token (its unknown one), `published_jrt` token 220, a space.

        Raises:
            ValueError: neither of the two, a batch size that is no number, a tokenizer without the token, or a JRT
                model otherwise than its runs were made.
        """
        if name not in (PUBLISHED, PUBLISHED_JRT):
            raise ValueError(f"pads={name!r} is unknown; choose {PUBLISHED} or {PUBLISHED_JRT}")
        if not str(batch_size).isdecimal():
            raise ValueError(f"pads={name}: batches decide the scores; give --batch_size a number, not {batch_size!r}")
        if architecture == "jrt" and not (left_pad and name == PUBLISHED_JRT):
            raise ValueError(
                f"pads={name}: the published runs of JRT models took {PUBLISHED_JRT} with left_pad=true; give both"
            )
        token = tokenizer.eos_token_id if name == PUBLISHED else PAD_TOKEN
        if token is None:
            raise ValueError(f"pads={name} fills up with the end token; set the tokenizer's eos_token")
        if name == PUBLISHED_JRT and tokenizer.convert_ids_to_tokens(token) != SPACE:
            raise ValueError(f"pads={name} fills up with token {token}, GPT-2's space, which is none in this tokenizer")
        return cls(name, int(token), int(str(batch_size)))

    def fill(
        self,
        tokens: Sequence[list[int]],
        lengths: Sequence[int],
        requests: Sequence[tuple[str, Mapping[str, Any]]],
    ) -> list[list[int]]:
        """The prompts as rows of their batches, in the order given.

        Args:
            tokens: of each prompt, cut to the room: that keeps a row's last tokens, and pads come before them.
            lengths: tokens of each prompt before the cut, by which they are sorted; equal ones by their text.
            requests: text and generation arguments of each; those with other arguments are in other batches.
        """
        order = Collator(
            range(len(tokens)),
            sort_fn=lambda i: (-lengths[i], requests[i][0]),
            group_fn=lambda i: requests[i][1],
            group_by="gen_kwargs",
        )
        rows = list(tokens)
        for batch in order.get_batched(n=self.batch_size):
            width = max(len(tokens[i]) for i in batch)
            for i in batch:
                rows[i] = [self.token] * (width - len(tokens[i])) + tokens[i]
        return rows
