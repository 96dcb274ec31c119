"""lm-eval's `swde`, `fda` and `squad_completion` (version 1) over a user's own documents.

Prompts, requests and scores are inherited from lm-eval's classes, not rewritten. What differs is where the documents
come from (`documents.py`) and that scores carry standard errors: lm-eval computes the plain one, because `contains` is
aggregated here with its own `mean` and not with `np.mean`; `contains_stderr_clustered` allows for the prompts of one
document being right or wrong together.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks.fda.task import FDA
from lm_eval.tasks.squad_completion.task import SQUADCompletion
from lm_eval.tasks.swde.task import SWDE

from ..places import answers_of, characters, locate, repeats
from .documents import Documents, DocumentsError, load_documents

# lm-eval's table hides metrics whose names end in `_stderr`.
CLUSTERED = "contains_stderr_clustered"
PLACE = "answer_place"  # of a row in the samples


class LocalDocuments(ConfigurableTask):
    """What the three tasks share. Stands before lm-eval's task class among the bases, and refines it.

    `DATASET_PATH`, or `dataset_path` in YAML, is a folder under `$RECALL_EVALS_DATA`. With `without_document: true`
    under `metadata`, the model is asked only what follows the prompt's last newline.
    """

    documents_sha256: str

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        """`config`: the fields of the task's YAML. Raises as `load_documents` does."""
        fields = {name: value for name, value in (config or {}).items() if name != "class"}
        fields["metadata"] = {"version": type(self).VERSION, **(fields.get("metadata") or {})}
        # Not super(): the constructors of lm-eval's three classes drop the configuration.
        ConfigurableTask.__init__(self, config=fields)

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Reads the documents and notes which in the configuration, from where they reach the results file."""
        documents = self.load()
        self.dataset = {"validation": documents.rows}
        self.documents_sha256 = documents.sha256
        self.config.metadata |= {"documents": documents.name, "documents_sha256": documents.sha256}
        for number, text in enumerate(documents.rows["text"], start=1):
            if self.without_document and "\n" not in text.strip():
                raise DocumentsError(
                    f"{documents.name}: row {number}: `text` has no newline between the document and the question, so "
                    f"`{self.config.task}` can't leave the document out. Put one there."
                )

    def load(self) -> Documents:
        """The rows to ask about, with what identifies them."""
        return load_documents(self.DATASET_PATH)

    @property
    def without_document(self) -> bool:
        return bool(self.config.metadata.get("without_document"))

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:
        """lm-eval's prompt, or the question alone."""
        prompt: str = super().doc_to_text(doc)
        return prompt.rsplit("\n", 1)[-1] if self.without_document else prompt

    def build_all_requests(
        self, *, samples: Sequence[int] | None = None, tokenizer_name: str = "", **kwargs: Any
    ) -> None:
        """As lm-eval, but `--cache_requests` never answers with the prompts of other documents.

        lm-eval names its cache file by the task, not by the documents, `--samples` or generation arguments that went
        into it. The tokenizer's name goes into that name and nowhere else, so they travel there.
        """
        content = json.dumps([self.documents_sha256, samples, self.config.generation_kwargs], sort_keys=True)
        content_hash = hashlib.sha256(content.encode()).hexdigest()[:16]
        super().build_all_requests(samples=samples, tokenizer_name=f"{tokenizer_name}-{content_hash}", **kwargs)

    def process_results(self, doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """lm-eval's score of one document's continuation, and beside it the pair (score, cluster)."""
        scores = super().process_results(doc, results)
        self.note_place(doc)
        return {**scores, CLUSTERED: (scores["contains"], _cluster(doc))}

    def note_place(self, doc: dict[str, Any]) -> None:
        """Adds to the row where its answer stands, as `PLACE`.

        lm-eval writes this very row into its samples once it is scored. Not before: the hash of the row as it was
        asked is that of the document alone.
        """
        answers = answers_of(doc, self.doc_to_target(doc)) or []
        prompt = self.doc_to_text(doc)
        place = locate(prompt, answers, characters(prompt))
        doc[PLACE] = {
            "prompt_characters": place.length,
            "distance_characters": place.distance,
            "depth": place.depth,
            "in_prompt": place.repeats,
            "in_document": repeats(answers, self.document_of(doc)),
        }

    def document_of(self, doc: Mapping[str, Any]) -> str:
        """The whole document, without the question: the text before the last newline."""
        return str(doc["text"]).strip().rpartition("\n")[0] or str(doc["text"])

    def aggregation(self) -> dict[str, Callable[[Any], Any]]:
        return {**super().aggregation(), "contains": mean, CLUSTERED: clustered_stderr}

    def higher_is_better(self) -> dict[str, bool]:
        return {**super().higher_is_better(), CLUSTERED: False}


class LocalSWDE(LocalDocuments, SWDE):
    DATASET_PATH = "swde"


class LocalFDA(LocalDocuments, FDA):
    DATASET_PATH = "fda"


class LocalSQUAD(LocalDocuments, SQUADCompletion):
    DATASET_PATH = "squad"


def clustered_stderr(items: Sequence[tuple[float, str | None]]) -> float | str:
    """Standard error of the mean score, clustered; a sample whose cluster is None is its own.

    "N/A", as lm-eval writes an unknown standard error, when there are fewer than two clusters.
    """
    # Here, so that a task can be loaded and listed without SciPy. Absolute, since it isn't part of the tasks.
    from recall_evals.results.statistics import clustered_standard_error

    clusters = [("row", row) if cluster is None else ("doc_id", cluster) for row, (_, cluster) in enumerate(items)]
    if len(set(clusters)) < 2:
        return "N/A"
    return clustered_standard_error([score for score, _ in items], clusters)


def _cluster(doc: Mapping[str, Any]) -> str | None:
    """The `doc_id` as text; None where it is absent, null, blank or NaN (what pandas writes for a missing number)."""
    doc_id = doc.get("doc_id")
    if doc_id is None or doc_id != doc_id:
        return None
    return str(doc_id).strip() or None
