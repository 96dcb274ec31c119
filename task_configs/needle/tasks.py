"""The tasks `needle_*`: rows made as the fields under `metadata` say; scores with standard errors as in `local`."""

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import datasets

from ..local.documents import Documents
from ..local.tasks import LocalDocuments
from ..mini.documents import rows_sha256
from .fields import chosen, counted
from .haystacks import SEED
from .questions import LENGTHS, Kind, prompts, recall

DEPTHS = range(4, 102)  # four needles need as many depths; 101 are steps of 1 %
HAYSTACKS = range(1, 1001)


class Needle(LocalDocuments):
    """Needles of one kind in haystacks of one length.

    Under `metadata` stand `kind` (single, multikey, multivalue), `length` (512, 1k to 128k: about as many tokens),
    `depths` (how many, in even steps from 0 to 100 %) and `haystacks` (how many at each depth).
    """

    VERSION = 1

    def load(self) -> Documents:
        """Raises ValueError: a field is absent or out of its range."""
        kind = cast(Kind, chosen(self, "kind", get_args(Kind)))
        length = chosen(self, "length", LENGTHS)
        depths, haystacks = counted(self, "depths", DEPTHS), counted(self, "haystacks", HAYSTACKS)
        rows = prompts(kind, length, depths, haystacks)
        name = f"generated: {SEED}, {kind}, {length}, {haystacks} at each of {depths} depths"
        return Documents(datasets.Dataset.from_list(rows), name, rows_sha256(rows))


def target(doc: Mapping[str, Any]) -> str:
    return ", ".join(doc["values"])


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The share of the needle's values in the continuation: with one value, whether it is there."""
    return {"contains": recall(results[0], doc["values"])}
