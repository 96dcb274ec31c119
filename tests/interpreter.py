"""Triton kernels on a CPU: a test file run as a script, in a process of its own, under Triton's interpreter.

Triton reads TRITON_INTERPRET when it is imported, so the test process itself can't switch it on. The interpreter is
silently wrong in bfloat16: float32 alone.
"""

import importlib.util
import os
import subprocess
import sys

import numpy
import pytest

missing = importlib.util.find_spec("triton") is None
too_new = tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4)


def needs_interpreter(what: str) -> pytest.MarkDecorator:
    """Skips where the interpreter can't run; `what` says what it would have checked."""
    reason = "needs triton" if missing else "Triton's interpreter needs NumPy < 2.4"
    return pytest.mark.skipif(missing or too_new, reason=f"{reason}; would check {what}")


def run_interpreted(file: str) -> None:
    """Run a test file as a script; its failure is ours."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, file], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
