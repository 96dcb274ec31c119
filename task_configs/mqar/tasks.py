"""The tasks `mqar_*`: their rows made as the fields under `metadata` say; the first word said must be right."""

from collections.abc import Callable, Sequence
from typing import Any

import datasets
from lm_eval.api.metrics import mean

from ..local.documents import Documents
from ..local.tasks import LocalDocuments, clustered_stderr
from ..mini.documents import rows_sha256
from ..needle.fields import counted
from .pairs import MOST_PAIRS, QUERIES, SEED, first_word, prompts

PAIRS = range(QUERIES, MOST_PAIRS + 1)
LISTS = range(1, 1001)

# lm-eval's table hides metrics whose names end in `_stderr`.
CLUSTERED = "exact_match_stderr_clustered"


class MQAR(LocalDocuments):
    """Lists of one length. Under `metadata` stand `pairs` (of a list) and `lists` (how many)."""

    VERSION = 1

    def load(self) -> Documents:
        """Raises ValueError: a field is absent or out of its range."""
        pairs, lists = counted(self, "pairs", PAIRS), counted(self, "lists", LISTS)
        rows = prompts(pairs, lists)
        return Documents(
            datasets.Dataset.from_list(rows), f"generated: {SEED}, {lists} lists of {pairs} pairs", rows_sha256(rows)
        )

    def process_results(self, doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """One prompt's score, and beside it the pair (score, cluster)."""
        right = float(first_word(results[0]) == doc["value"])
        self.note_place(doc)
        return {"exact_match": right, CLUSTERED: (right, doc["doc_id"])}

    def aggregation(self) -> dict[str, Callable[[Any], Any]]:
        return {"exact_match": mean, CLUSTERED: clustered_stderr}

    def higher_is_better(self) -> dict[str, bool]:
        return {"exact_match": True, CLUSTERED: False}
