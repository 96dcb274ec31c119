"""Our tasks through lm-eval, without a look through its own."""

from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

from recall_evals import task_configs


def manager(metadata: dict[str, Any] | None = None) -> TaskManager:
    return TaskManager(include_path=[*task_configs.__path__], include_defaults=False, metadata=metadata)


def load(name: str, metadata: dict[str, Any] | None = None) -> Any:
    return manager(metadata).load(name)["tasks"][name]


def evaluate(tasks: list[str], model: Any, **options: Any) -> dict[str, Any]:
    results = lm_eval.simple_evaluate(model=model, tasks=tasks, task_manager=manager(), **options)
    assert results is not None
    return results
