"""Clean environments that hold one build of this project and borrow everything else from the running interpreter's.

The borrowed folder stands on the path through a `.pth` file that names it: the interpreter then reads no `.pth` file
of that folder itself, so an editable install of this project there stays out of sight. `lm_eval` is the console
script that pip would write from lm-eval's own entry point.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BORROWED = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
TASKS = sorted(
    name
    for file in (ROOT / "task_configs").rglob("*.yaml")
    for name in re.findall(r"^task:\s*(\w+)", file.read_text(), re.MULTILINE)
)

_CONSOLE_SCRIPT = """\
#!{python}
import sys
from {module} import {attribute}
sys.exit({attribute}())
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment at `folder`; commands run in `home`, an empty folder."""

    folder: Path
    home: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return next((self.folder / "lib").glob("python*/site-packages"))

    @property
    def package(self) -> Path:
        """Where this project must be imported from."""
        editable = (self.site_packages / "_recall_evals.pth").exists()
        return (ROOT / "src" if editable else self.site_packages) / "recall_evals"

    def run(self, *command: str | Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the environment (or "python") offline in `home`, with `variables` in its environment."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RECALL_EVALS", "HF_"))}
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder / "hf"), "CUDA_VISIBLE_DEVICES": ""}
        # Two OpenMP threads that share their cores with another process wait for each other most of the time.
        threads = {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]],
            cwd=self.home,
            env=inherited | offline | threads | variables,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def evaluate(self, code: str, **variables: str) -> object:
        """What `code`, run by a fresh interpreter, prints last, as JSON."""
        return json.loads(self.run("python", "-c", code, **variables).stdout.splitlines()[-1])


def build(folder: Path, hook: str, project: Path = ROOT) -> Path:
    """Call a PEP 517/660 hook of the build backend, as pip does, in `project`; returns what it put into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    code = f"import hatchling.build as backend; print(backend.{hook}({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def create(folder: Path, wheel: Path) -> Environment:
    """A new environment with `wheel` installed by pip, without its dependencies, which are borrowed."""
    environment = Environment(folder / "venv", folder / "home")
    environment.home.mkdir(parents=True)
    venv.create(environment.folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", environment.python, "--disable-pip-version-check"]
    options = ["--quiet", "--no-index", "--no-deps"]
    done = subprocess.run([*pip, "install", *options, wheel], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # Only now: pip would take a copy among the borrowed for the installed one.
    (environment.site_packages / "borrowed.pth").write_text("\n".join(BORROWED) + "\n")
    (script,) = importlib.metadata.distribution("lm_eval").entry_points.select(group="console_scripts", name="lm_eval")
    file = environment.folder / "bin" / "lm_eval"
    file.write_text(_CONSOLE_SCRIPT.format(python=environment.python, module=script.module, attribute=script.attr))
    file.chmod(0o755)
    return environment
