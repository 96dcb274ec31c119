"""lm-eval's writer of results, which reads back what it wrote: lm-eval alone warns where that fails, and goes on."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from lm_eval.loggers import EvaluationTracker


class CheckedTracker(EvaluationTracker):
    """What can't be saved whole where it was to be is saved in a temporary folder; failing that, results are printed.

    Attributes:
        problems: one line for each file of which that was so, over all trackers of this process.
    """

    problems: ClassVar[list[str]] = []
    output_path: Any
    api: Any

    def save_results_aggregated(self, results: dict[str, Any], samples: dict[str, Any] | None = None) -> None:
        def save() -> None:
            EvaluationTracker.save_results_aggregated(self, results, samples)

        if not self._saved(save, "results_", 1):
            print(json.dumps(results, default=str, ensure_ascii=False))

    def save_results_samples(self, task_name: str, samples: list[dict[str, Any]]) -> None:
        def save() -> None:
            # Copied, because they are changed while they are written, and could not be written a second time.
            EvaluationTracker.save_results_samples(self, task_name, [dict(sample) for sample in samples])

        self._saved(save, f"samples_{task_name}_", len(samples))

    def _saved(self, save: Callable[[], None], prefix: str, records: int) -> bool:
        """Save, and say so if it went wrong; False if what was to be saved is nowhere."""
        wanted = self.output_path
        save()
        if not wanted or _is_whole(file := self._file(prefix), records):
            return True
        api, self.api = self.api, None  # nothing is pushed to the hub a second time
        self.output_path = tempfile.mkdtemp(prefix="recall-evals-results-")
        try:
            save()
            second = self._file(prefix)
        finally:
            self.output_path, self.api = wanted, api
        if file.is_file():  # half of it
            file.unlink()
        file = self._file(prefix)  # of a later second, as `second` is
        if not _is_whole(second, records):
            self.problems.append(
                f"{file} could not be written, nor {second}: make room and run again (answers kept by --use_cache are "
                "not computed again)"
            )
            return False
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(second, file)
        except OSError as error:
            self.problems.append(f"{file} could not be written ({error.strerror}); it is at {second} instead")
        return True

    def _file(self, prefix: str) -> Path:
        """Where lm-eval writes: in a folder of the model's name, or beside a .json file."""
        path, date = Path(self.output_path), getattr(self, "date_id", "")
        if path.suffix != ".json":
            path = path / str(self.general_config_tracker.model_name_sanitized)
        elif prefix == "results_":
            return path.with_name(f"{path.stem}_{date}.json")
        else:
            path = path.parent
        return path / f"{prefix}{date}.{'json' if prefix == 'results_' else 'jsonl'}"


def _is_whole(file: Path, records: int) -> bool:
    """Whether a file holds so many JSON records: a line each, or one in all."""
    try:
        text = file.read_text(encoding="utf-8")
        # Not splitlines: an answer may hold other ends of a line (U+2028), which lm-eval writes as they are.
        lines = [text] if file.suffix == ".json" else text.split("\n")
        found = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError):
        return False
    return len(found) == records
