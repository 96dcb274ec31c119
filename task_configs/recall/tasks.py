"""The recall tasks under each named protocol, over published data sets (`Published`) and one's own (`Local`).

What a task asks stands in its YAML: under `metadata` the `protocol` and whose `questions`, as in `FORMS`, and for the
`jrt` protocols `context_length`, `answer_length` and, if wanted, `cut_tokenizer` and `clean_up_spaces` (`cutting.py`).
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from lm_eval.api.metrics import mean
from lm_eval.tasks.squad_completion.task import SQUADCompletion

from ..local.documents import Documents, DocumentsError, load_documents
from ..local.tasks import CLUSTERED, LocalDocuments
from .answers import contains, exact, f1
from .cutting import Cut, cut_document, load_gpt2
from .protocols import FORMS, Form, document_of
from .rows import load_published, prepare

CONTEXT_LENGTH, ANSWER_LENGTH = 1000, 50  # tokens

log = logging.getLogger(__name__)


class Recall(LocalDocuments, SQUADCompletion):
    """What all have in common. Of lm-eval's three classes, SQuAD's sends the YAML's `generation_kwargs` as they are."""

    DATASET_NAME = None
    cut: Cut | None = None
    cut_hash = ""

    @cached_property
    def form(self) -> Form:
        """How the protocol asks. Raises DocumentsError for a protocol or questions that there are none of."""
        metadata = self.config.metadata
        protocol, questions = metadata.get("protocol"), metadata.get("questions")
        known = {f"{name}/{asked}": form for name, forms in FORMS.items() for asked, form in forms.items()}
        if (form := known.get(f"{protocol}/{questions}")) is None:
            raise DocumentsError(
                f"{self.config.task}: no protocol {protocol!r} with questions {questions!r}. Under `metadata`, give "
                f"`protocol` and `questions` as one of {', '.join(known)}."
            )
        return form

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Reads and checks the rows, and notes in the configuration which, and how many are out of the ordinary."""
        metadata = self.config.metadata
        if self.form.anchors is not None:
            self.cut, tokenizer_sha256 = self.make_cut(metadata)
            metadata["cut_tokenizer_sha256"] = tokenizer_sha256
            settings = f"{self.cut.budget} {self.cut.clean_up_spaces} {tokenizer_sha256}"
            self.cut_hash = hashlib.sha256(settings.encode()).hexdigest()[:8]
        documents = self.load()
        prepared = prepare(documents, self.form)
        if prepared.dropped:
            log.warning(
                "%s: the protocol leaves out %d of %d rows, whose key or answer has at most one character",
                self.config.task,
                prepared.dropped,
                len(documents.rows),
            )
        self.dataset = {"validation": prepared.rows}
        self.documents_sha256 = documents.sha256
        metadata |= {
            "documents": documents.name,
            "documents_sha256": documents.sha256,
            "rows_dropped": prepared.dropped,
            "answers_absent": prepared.answers_absent,
            "answers_empty": prepared.answers_empty,
            "documents_empty": prepared.documents_empty,
        }

    def make_cut(self, metadata: Mapping[str, Any]) -> tuple[Cut, str]:
        """The cut that the YAML asks for, and the SHA-256 of its tokenizer's file."""
        context, answer = metadata.get("context_length", CONTEXT_LENGTH), metadata.get("answer_length", ANSWER_LENGTH)
        if not (type(context) is type(answer) is int and 0 <= answer < context):
            raise DocumentsError(
                f"{self.config.task}: `context_length` {context!r} and `answer_length` {answer!r} leave no tokens to "
                f"the document. Give whole numbers, such as {CONTEXT_LENGTH} and {ANSWER_LENGTH}."
            )
        tokenizer, sha256 = load_gpt2(metadata.get("cut_tokenizer"))
        return Cut(tokenizer, context - answer, bool(metadata.get("clean_up_spaces", True))), sha256

    def build_all_requests(self, *, tokenizer_name: str = "", **kwargs: Any) -> None:
        """As `LocalDocuments`; `--cache_requests` doesn't answer with prompts that were cut in another way either."""
        super().build_all_requests(tokenizer_name=f"{tokenizer_name}-{self.cut_hash}", **kwargs)

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:
        """The protocol's prompt."""
        return self.form.prompt(cut_document(doc, self.form, self.cut) if self.cut else doc)

    def doc_to_target(self, doc: Mapping[str, Any]) -> str:
        """The first label: of several, the one that the cut looks for."""
        return self.form.labels(doc)[0]

    def document_of(self, doc: Mapping[str, Any]) -> str:
        """The whole document, whatever the cut leaves of it."""
        return document_of(doc, self.form)

    def process_results(self, doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """The scores of one continuation, and with `contains` the document that its standard error clusters by."""
        labels = self.form.labels(doc)
        scores: dict[str, Any] = {"contains": contains(results[0], labels)}
        if self.form.overlap:
            scores |= {"exact": exact(results[0], labels), "f1": f1(results[0], labels)}
        _, cluster = super().process_results(doc, results)[CLUSTERED]
        if cluster is None:  # no `doc_id`
            cluster = hashlib.sha256(document_of(doc, self.form).strip().encode()).hexdigest()[:16]
        return {**scores, CLUSTERED: (scores["contains"], cluster)}

    def aggregation(self) -> dict[str, Callable[[Any], Any]]:
        overlap = {"exact": mean, "f1": mean} if self.form.overlap else {}
        return {**super().aggregation(), **overlap}

    def higher_is_better(self) -> dict[str, bool]:
        overlap = {"exact": True, "f1": True} if self.form.overlap else {}
        return {**super().higher_is_better(), **overlap}


class Published(Recall):
    """Asks about a data set on the hub: `dataset_path`, `dataset_name`, and `revision` under `dataset_kwargs`."""

    def load(self) -> Documents:
        revision = (self.config.dataset_kwargs or {}).get("revision")
        return load_published(self.DATASET_PATH, self.DATASET_NAME, revision)


class Local(Recall):
    """Asks about one's own documents: `dataset_path` is a folder under `$RECALL_EVALS_DATA`."""

    def load(self) -> Documents:
        """The rows; where a `context` is read and there is none, it is the text before the last newline."""
        documents = load_documents(self.DATASET_PATH)
        rows = documents.rows
        if "context" in self.form.columns and "context" not in rows.column_names:
            contexts = [text.strip().rpartition("\n")[0] for text in rows["text"]]
            return Documents(rows.add_column("context", contexts), documents.name, documents.sha256)
        return documents
