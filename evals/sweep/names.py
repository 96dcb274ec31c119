"""The names that a suite may use: lm-eval's backends and tasks, ours among them."""

from collections.abc import Collection, Iterator
from functools import cached_property

from ... import await_lm_eval, task_configs


def backends() -> list[str]:
    """What `--model` takes."""
    await_lm_eval()  # no interpreter reads the .pth of a `pip install --target`
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    return sorted(model_registry.keys())


class TaskNames(Collection[str]):
    """Tasks, groups and tags. To look through lm-eval's own 14,000 takes seconds, and waits until one is asked for."""

    @cached_property
    def ours(self) -> frozenset[str]:
        from lm_eval.tasks import TaskManager

        return frozenset(TaskManager(include_path=list(task_configs.__path__), include_defaults=False).all_tasks)

    @cached_property
    def all(self) -> frozenset[str]:
        await_lm_eval()
        from lm_eval.tasks import TaskManager

        return frozenset(TaskManager().all_tasks)

    def __contains__(self, name: object) -> bool:
        return name in self.ours or name in self.all

    def __iter__(self) -> Iterator[str]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)
