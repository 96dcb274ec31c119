"""The tasks over the synthetic documents: `mini_fda` and `mini_swde` ask and score as `local_fda` and `local_swde` do,
`mini_fda_choice` lets the answers of `mini_fda` be chosen from four, `mini_text` takes the perplexity of the same
documents' text.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from ..local.documents import Documents
from ..local.tasks import LocalDocuments, LocalFDA, LocalSWDE, clustered_stderr
from .choices import choice_rows
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


class MiniFDAChoice(MiniDocuments):
    """The questions of `mini_fda`, each with four values, scored as lm-eval scores a multiple choice."""

    KIND = "fda"
    VERSION = 1
    CLUSTERED = {metric: f"{metric}_stderr_clustered" for metric in ("acc", "acc_norm")}

    def load(self) -> Documents:
        rows = choice_rows(self.KIND)
        name = f"generated: {SEED}, {self.KIND}, four choices"
        return Documents(datasets.Dataset.from_list(rows), name, rows_sha256(rows))

    # Not super(), as in the constructor: the local tasks score a text by `contains`.
    def process_results(self, doc: dict[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """lm-eval's scores of one question's four (log-likelihood, is greedy), and beside each (score, cluster)."""
        scores: dict[str, Any] = ConfigurableTask.process_results(self, doc, results)
        self.note_place(doc)
        return scores | {error: (scores[metric], doc["doc_id"]) for metric, error in self.CLUSTERED.items()}

    def aggregation(self) -> dict[str, Callable[[Any], Any]]:
        return ConfigurableTask.aggregation(self) | dict.fromkeys(self.CLUSTERED.values(), clustered_stderr)

    def higher_is_better(self) -> dict[str, bool]:
        return ConfigurableTask.higher_is_better(self) | dict.fromkeys(self.CLUSTERED.values(), False)


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
