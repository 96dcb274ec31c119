"""Reads what a task's YAML says under `metadata` about the documents to make."""

from collections.abc import Collection
from typing import Any

from lm_eval.api.task import ConfigurableTask


def chosen(task: ConfigurableTask, field: str, options: Collection[str]) -> str:
    """The field as text, for YAML reads `512` as a number. Raises ValueError: it is none of the options."""
    given = str(task.config.metadata.get(field))
    if given not in options:
        raise ValueError(_error(task, field, given, f"one of {', '.join(options)}"))
    return given


def counted(task: ConfigurableTask, field: str, allowed: range) -> int:
    """The field as a whole number. Raises ValueError: it is none, or outside the range."""
    given = task.config.metadata.get(field)
    if type(given) is not int or given not in allowed:
        raise ValueError(_error(task, field, given, f"a whole number from {allowed[0]} to {allowed[-1]}"))
    return given


def _error(task: ConfigurableTask, field: str, given: Any, remedy: str) -> str:
    source = task.config.metadata.get("config_source", task.config.task)
    return f"{source}: metadata: field `{field}` is {given!r}: give {remedy}, there or with --metadata"
