"""The task `recall_ppl`: perplexity of one's own texts, as lm-eval's rolling log-likelihood takes it."""

from ..local.documents import Documents, load_documents
from ..mini.tasks import Texts


class LocalTexts(Texts):
    """The texts in a file of `$RECALL_EVALS_DATA`.

    Under `metadata` stand `data` (a folder there, as of the local tasks) and `field` (the column that holds the text).
    """

    def load(self) -> Documents:
        """Raises ValueError: a setting is no name; otherwise as `load_documents`."""
        folder, field = self._name("data"), self._name("field")
        documents = load_documents(folder, {field: "text"})
        kept = [column for column in ("doc_id", field) if column in documents.rows.column_names]
        rows = documents.rows.select_columns(kept)
        rows = rows if field == "text" else rows.rename_column(field, "text")
        return Documents(rows, f"{documents.name}: {field}", documents.sha256)

    def _name(self, setting: str) -> str:
        given = self.config.metadata.get(setting)
        if not isinstance(given, str) or not given:
            raise ValueError(
                f"{self.config.task}: metadata: `{setting}` is {given!r}: give a name, in the YAML or with --metadata"
            )
        return given
