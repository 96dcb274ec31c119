"""What tests of several folders share."""

import os
import shutil
from pathlib import Path

import lm_eval
import pytest

# lm-eval's own tasks that ours are made of, or that tests name.
FEW = {"arc", "fda", "hellaswag", "lambada", "piqa", "squad_completion", "swde", "winogrande"}


@pytest.fixture(scope="session")
def few_tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for a process that is to find a copy of lm-eval with few of its own tasks.

    A process that runs lm-eval looks through all its tasks, 14,000 files, which takes it nine seconds.
    """
    installed, folder = Path(lm_eval.__file__).parent, tmp_path_factory.mktemp("few-tasks")

    def left_out(parent: str, names: list[str]) -> set[str]:
        return {n for n in names if Path(parent, n).is_dir()} - FEW if Path(parent) == installed / "tasks" else set()

    shutil.copytree(installed, folder / "lm_eval", ignore=left_out)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}
