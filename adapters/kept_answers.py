"""What was answered survives an interrupted run, in lm-eval's own cache of answers (`--use_cache`)."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lm_eval.api.model import CacheHook, hash_args


class KeptAnswers:
    """A block around work whose answers are given to `add` as they come; they survive Ctrl-C inside it.

    With `--use_cache` they go to its file at once. Without, they stay in memory, and an interrupt writes those of all
    blocks so far to a new file of the same kind in the current folder. Either way the KeyboardInterrupt that goes on
    says how many there are and how to go on from them. Answers that no other run may use are never given to `add`.
    """

    def __init__(self) -> None:
        self.hook = CacheHook(None)
        self._answers: list[tuple[str, Sequence[Any], Any]] = []
        self._cached = 0

    def add(self, method: str, arguments: Sequence[Any], answer: Any) -> None:
        """Keep one finished answer of `generate_until`, `loglikelihood` or `loglikelihood_rolling`.

        Raises:
            OSError: the cache can't be written (a full disk); names it.
        """
        if self.hook.dbdict is None:
            self._answers.append((method, arguments, answer))
            return
        try:
            self.hook.add_partial(method, arguments, answer)
        except Exception as error:  # of sqlite, by way of its own thread
            raise OSError(
                f"--use_cache: {self.hook.dbdict.filename} can't be written ({error}); make room there and run the "
                f"same command again: it goes on from the answers that are in it (about {self._cached:,} of this run)"
            ) from error
        self._cached += 1

    def __enter__(self) -> "KeptAnswers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(self._interrupted()) from None

    def _interrupted(self) -> str:
        again = "run the same command again"
        if self.hook.dbdict is not None:
            self.hook.dbdict.commit()  # its thread may be behind, and dies with the process
            return f"interrupted: {self._cached:,} answers are kept in {self.hook.dbdict.filename}; {again} to go on"
        if not self._answers:
            return (
                "interrupted: no answer is kept, since none was finished or none may be used again (sampled ones, and "
                f"those of pads=, are no good to another run); {again} to begin anew"
            )
        name = f"interrupted-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6:06}"
        try:
            file = _write(name, self._answers)
        except Exception as problem:
            return f"interrupted: {len(self._answers):,} answers are lost, they could not be written here ({problem})"
        return (
            f"interrupted: {len(self._answers):,} answers are kept in {file}; {again} with --use_cache {name} to go on"
        )


def _write(name: str, answers: Sequence[tuple[str, Sequence[Any], Any]]) -> Path:
    """A file that `--use_cache NAME` finds, in the current folder."""
    from sqlitedict import SqliteDict

    file = Path(f"{name}_rank0.db")  # lm-eval adds the rank of the process
    file.touch()  # raises here, not in sqlitedict's thread
    with SqliteDict(str(file)) as cache:
        for method, arguments, answer in answers:
            cache[hash_args(method, arguments)] = answer
        cache.commit()
    return file
