"""The back-port `adapters/lm_eval_discovery.py`: its cost, what it leaves alone, and that it can't break lm-eval."""

import shutil
import statistics
from pathlib import Path

import pytest

from distribution.environment import BORROWED, ROOT, TASKS, Environment

OPT_OUT = {"RECALL_EVALS_NO_DISCOVERY": "1"}
HEAVY = ("torch", "triton", "transformers", "numpy", "typer", "lm_eval")
DUMMY = ("--model", "dummy", "--tasks", "users_own", "--include_path")

# lm-eval's own folder, for tests that do not look at its 14,000 tasks: they take seconds to scan.
SHORT = "import lm_eval.tasks.manager as manager; manager.__file__ = '/nowhere/manager.py'\n"

STARTUP = """\
import os, site, sys, time
sys.path += {path}
line = open({pth!r}).read()
start = time.process_time()
exec(line)
took = time.process_time() - start
assert type(sys.meta_path[0]).__module__ == "recall_evals"
print(took * 1e3)
"""


def test_startup_costs_less_than_a_millisecond(installed: Environment) -> None:
    """The median of fresh interpreters, in CPU time, for another process may be using the core; the `.pth` line finds
    the package last on the path, behind the listing of a site-packages folder with everything in it."""
    path = [*BORROWED, str(installed.package.parent)]
    code = STARTUP.format(path=path, pth=str(installed.site_packages / "recall_evals.pth"))
    took = [float(installed.run("python", "-I", "-S", "-c", code).stdout) for _ in range(16)][1:]  # the first compiles
    assert statistics.median(took) < 1.0, sorted(took)


@pytest.mark.parametrize("code", ["", "import recall_evals", "import recall_evals.models, recall_evals.adapters"])
def test_importing_the_package_imports_nothing_heavy(installed: Environment, code: str) -> None:
    found = installed.evaluate(f"{code}\nimport sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))")
    assert found == []


def test_help_of_lm_eval_imports_neither_torch_nor_triton(from_wheel: Environment) -> None:
    run = "from lm_eval.__main__ import cli_evaluate\ntry: cli_evaluate()\nexcept SystemExit: pass\n"
    for flags in ([], ["run"]):
        found = from_wheel.evaluate(
            f"import sys, json; sys.argv = {['lm_eval', *flags, '--help']}\n{run}"
            "print(json.dumps([m for m in ('torch', 'triton') if m in sys.modules]))"
        )
        assert found == []


def test_opting_out(from_wheel: Environment) -> None:
    code = (
        f"{SHORT}import json, sys, lm_eval.models\n"
        "from lm_eval.api.registry import model_registry as r\n"
        "found = manager.TaskManager().all_tasks\n"
        f"print(json.dumps(['recall_evals' in sys.modules, 'based' in r, [t for t in {TASKS} if t in found]]))"
    )
    assert from_wheel.evaluate(code) == [True, True, TASKS]
    assert from_wheel.evaluate(code, **OPT_OUT) == [False, False, []]


def test_a_broken_adapter_leaves_lm_eval_working(
    to_break: Environment, own_tasks: Path, few_tasks: dict[str, str]
) -> None:
    (to_break.package / "adapters" / "lm.py").write_text("raise ImportError('no such baseline')\n")
    done = to_break.run("lm_eval", *DUMMY, own_tasks, **few_tasks)
    assert "|users_own|" in done.stdout
    assert "no such baseline" not in done.stderr
    code = "from lm_eval.api.registry import get_model; get_model({!r})"
    assert "ImportError: no such baseline" in to_break.run("python", "-c", code.format("based"), check=False).stderr
    to_break.run("python", "-c", code.format("hf"))


def test_hooks_that_fail_are_logged_and_leave_lm_eval_working(
    to_break: Environment, own_tasks: Path, few_tasks: dict[str, str]
) -> None:
    with (to_break.package / "adapters" / "lm_eval_discovery.py").open("a") as source:
        source.write("def fail(module): raise RuntimeError(17)\nFinder.waiting = dict.fromkeys(Finder.waiting, fail)\n")
    done = to_break.run("lm_eval", *DUMMY, own_tasks, **few_tasks)
    assert "|users_own|" in done.stdout
    for module in ("lm_eval.models", "lm_eval.tasks.manager"):
        assert f"recall-evals is not part of {module}: RuntimeError(17)" in done.stderr


def test_a_half_removed_package_is_passed_over_in_silence(to_break: Environment) -> None:
    """Its `.pth` file is all that a broken uninstallation left, or almost."""
    for left in ("no adapters", "an empty folder", "nothing"):
        shutil.rmtree(to_break.package / "adapters" if left == "no adapters" else to_break.package)
        if left == "an empty folder":
            to_break.package.mkdir()
        done = to_break.run("python", "-c", "print('well')")
        assert (done.stdout, done.stderr) == ("well\n", ""), left


def test_the_users_include_path_wins_and_is_kept(from_wheel: Environment, own_tasks: Path) -> None:
    found = from_wheel.evaluate(
        f"{SHORT}import json\n"
        "def look(**kwargs):\n"
        "    tasks = manager.TaskManager(**kwargs)\n"
        "    entry = tasks.task_index.get('local_fda')\n"
        "    return [tasks.include_path, entry and str(entry.yaml_path), 'local_swde' in tasks.all_tasks]\n"
        f"user = {str(own_tasks)!r}\n"
        "print(json.dumps([look(), look(include_path=user), look(include_path=[user]),"
        " look(include_path=user, include_defaults=False), look(include_defaults=False)]))"
    )
    ours = str(from_wheel.package / "task_configs" / "local" / "local_fda.yaml")
    theirs = str(own_tasks / "local_fda.yaml")
    assert found == [
        [None, ours, True],
        [str(own_tasks), theirs, True],
        [[str(own_tasks)], theirs, True],
        [str(own_tasks), theirs, False],
        [None, None, False],
    ]


def test_names_already_taken_are_left(from_wheel: Environment) -> None:
    """By upstream's own discovery, which registers entry points, or by anyone."""
    found = from_wheel.evaluate(
        "import json, importlib.metadata as md\n"
        "from lm_eval.api.registry import model_registry as r\n"
        "(entry,) = md.entry_points(group='lm_eval.models', name='based')\n"
        "r.register('based', target=entry)\n"
        "r.register('mamba', target='elsewhere:Mamba')\n"
        "import lm_eval.models\n"
        "print(json.dumps([r._objs['based'] == entry, r._objs['mamba'], r._objs['attention'], len(r) > 30]))"
    )
    assert found == [True, "elsewhere:Mamba", "recall_evals.adapters.lm:AttentionLM", True]


def test_installing_late_or_twice(from_wheel: Environment) -> None:
    found = from_wheel.evaluate(
        f"{SHORT}import json, sys, lm_eval.models\n"
        "from lm_eval.api.registry import model_registry as r\n"
        "def look(): return ['based' in r, bool(manager.TaskManager().all_tasks)]\n"
        "before = look()\n"
        "from recall_evals.adapters import lm_eval_discovery as discovery\n"
        "discovery.install(); init = manager.TaskManager.__init__; discovery.install()\n"
        "once = init is manager.TaskManager.__init__ and discovery.FINDER not in sys.meta_path\n"
        "print(json.dumps([before, look(), once]))",
        **OPT_OUT,
    )
    assert found == [[False, False], [True, True], True]


def test_it_lives_with_other_import_hooks_and_leaves(from_wheel: Environment) -> None:
    """With a finder that asks the import system for the spec it wraps, as tracers do, and with a look at a spec."""
    found = from_wheel.evaluate(
        "import importlib.util, json, sys\n"
        "def ours(): return [f for f in sys.meta_path if type(f).__module__.startswith('recall_evals')]\n"
        "class Tracer:\n"
        "    asked = []\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in self.asked or not name.startswith('lm_eval.'): return None\n"
        "        self.asked.append(name)\n"
        "        return importlib.util.find_spec(name)\n"
        "waiting = len(ours())\n"
        "sys.meta_path.insert(1, Tracer())\n"
        "looked = type(importlib.util.find_spec('lm_eval.models').loader).__name__\n"
        "import lm_eval.models, lm_eval.tasks.manager as manager\n"
        "from lm_eval.api.registry import model_registry as r\n"
        f"{SHORT}tasks = manager.TaskManager()\n"
        "print(json.dumps([waiting, looked, 'based' in r, 'local_fda' in tasks.all_tasks, ours(),"
        " hasattr(manager.TaskManager.__init__.__wrapped__, '__wrapped__')]))"
    )
    assert found == [1, "SourceFileLoader", True, True, [], False]


def test_it_is_small() -> None:
    assert len((ROOT / "adapters" / "lm_eval_discovery.py").read_text().splitlines()) <= 80
