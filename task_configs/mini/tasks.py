"""The tasks over the synthetic documents: `mini_fda` and `mini_swde` ask and score as `local_fda` and `local_swde` do,
`mini_text` takes the perplexity of the same documents' text.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from ..local.documents import Documents
from ..local.tasks import LocalDocuments, LocalFDA, LocalSWDE
from .documents import SEED, Kind, documents, prompts, rows_sha256

TEXTS = 12  # of each kind in `mini_text`


class MiniDocuments(LocalDocuments):
    """Asks about generated documents, not about a file. Stands before the local task's class among the bases."""

    KIND: Kind

    def load(self) -> Documents:
        rows = prompts(self.KIND)
        return Documents(datasets.Dataset.from_list(rows), f"generated: {SEED}, {self.KIND}", rows_sha256(rows))


class MiniFDA(MiniDocuments, LocalFDA):
    KIND = "fda"


class MiniSWDE(MiniDocuments, LocalSWDE):
    KIND = "swde"


class Texts(ConfigurableTask):
    """Perplexity of whole texts, a row each, in the column `text`."""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        """`config`: the fields of the task's YAML. Raises as `load` does."""
        super().__init__(config={name: value for name, value in (config or {}).items() if name != "class"})

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Loads the texts and notes which in the configuration, from where they reach the results file."""
        documents = self.load()
        self.dataset = {"validation": documents.rows}
        self.documents_sha256 = documents.sha256
        self.config.metadata |= {"documents": documents.name, "documents_sha256": documents.sha256}

    @abstractmethod
    def load(self) -> Documents:
        """The rows, with what identifies them."""

    def build_all_requests(
        self, *, samples: Sequence[int] | None = None, tokenizer_name: str = "", **kwargs: Any
    ) -> None:
        """As lm-eval, but `--cache_requests` never answers with other texts; see `LocalDocuments`."""
        name = f"{tokenizer_name}-{rows_sha256([{'texts': self.documents_sha256, 'samples': samples}])[:16]}"
        super().build_all_requests(samples=samples, tokenizer_name=name, **kwargs)


class MiniText(Texts):
    """The whole texts of the first validation documents of both kinds."""

    def load(self) -> Documents:
        kinds: tuple[Kind, ...] = ("fda", "swde")
        found = [document for kind in kinds for document in documents(kind, "validation", TEXTS)]
        rows = [{"doc_id": document.doc_id, "text": document.text} for document in found]
        return Documents(datasets.Dataset.from_list(rows), f"generated: {SEED}, text", rows_sha256(rows))
