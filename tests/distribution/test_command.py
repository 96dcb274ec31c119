"""The command `recall-evals`: it adds nothing to lm-eval's flags and takes nothing from them."""

import subprocess
import sys
from pathlib import Path

import lm_eval.__main__
import pytest
from typer.testing import CliRunner

import recall_evals
from distribution.environment import BORROWED, Environment
from recall_evals.evals.cli import app


@pytest.mark.parametrize(
    "flags",
    [
        ["--help"],
        ["-h"],
        [],
        ["--model", "based", "--model_args", "pretrained=x,dtype=float32", "--tasks", "fda", "swde", "--limit", "3"],
        ["-M", "based", "-t", "fda,swde", "-b", "16", "--gen_kwargs", 'until=["\\n"]'],
        ["--tasks=fda", "--", "--model", "--version"],
    ],
)
def test_run_hands_every_argument_on(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", lambda: seen.append(sys.argv))
    monkeypatch.setattr(sys, "argv", ["recall-evals", "run", *flags])
    result = CliRunner().invoke(app, ["run", *flags])
    assert result.exit_code == 0, result.output
    assert seen == [["lm-eval", "run", *flags]]


def test_version(installed: Environment) -> None:
    assert installed.run("recall-evals", "--version").stdout == f"recall-evals {recall_evals.__version__}\n"


def test_help_of_run_is_lm_evals(from_wheel: Environment) -> None:
    ours = from_wheel.run("recall-evals", "run", "--help", COLUMNS="100").stdout
    assert ours == from_wheel.run("lm_eval", "run", "--help", COLUMNS="100").stdout
    assert "--model_args" in ours


@pytest.mark.parametrize("flags", [["--help"], ["--version"], ["run", "--help"]])
def test_it_starts_without_torch(from_wheel: Environment, flags: list[str]) -> None:
    found = from_wheel.evaluate(
        f"import json, sys; sys.argv = {['recall-evals', *flags]}\n"
        "from recall_evals.evals.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "print(json.dumps([m for m in ('torch', 'triton') if m in sys.modules]))"
    )
    assert found == []


def test_it_finds_our_models_where_no_pth_is_read(builds: dict[str, Path], tmp_path: Path) -> None:
    """`pip install --target` puts the `.pth` file where no interpreter looks for one."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", tmp_path / "target", builds["wheel"]], check=True, timeout=120)
    code = (
        f"import sys; sys.path += {[str(tmp_path / 'target'), *BORROWED]}\n"
        "sys.argv = ['recall-evals', 'run', '--help']\n"
        "assert 'recall_evals' not in sys.modules\n"
        "from recall_evals.evals.cli import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "import recall_evals, lm_eval.models, lm_eval.tasks.manager\n"
        "from lm_eval.api.registry import get_model\n"
        "init = lm_eval.tasks.manager.TaskManager.__init__\n"
        "print(recall_evals.__file__, get_model('based').__name__, init.__code__.co_filename)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=120)
    package = tmp_path / "target" / "recall_evals"
    discovery = package / "adapters" / "lm_eval_discovery.py"
    assert done.stdout.splitlines()[-1:] == [f"{package / '__init__.py'} BasedLM {discovery}"], done.stderr
