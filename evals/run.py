"""`recall-evals run`: lm-eval's own command; an error of ours is one line, and results that were not saved are one."""

import sys
import traceback
from collections.abc import Sequence

from ..adapters.lm_eval_discovery import install


def run(flags: Sequence[str]) -> int:
    """`lm-eval run FLAGS`; returns the exit code: 1 for an error of ours or results not saved in their place, 130 for
    Ctrl-C. Other errors go on as they are."""
    import lm_eval.loggers
    from lm_eval.__main__ import cli_evaluate

    from .checked_tracker import CheckedTracker

    install()  # no interpreter reads the .pth of a `pip install --target`
    sys.argv = ["lm-eval", "run", *flags]
    CheckedTracker.problems.clear()
    original, lm_eval.loggers.EvaluationTracker = lm_eval.loggers.EvaluationTracker, CheckedTracker
    try:
        cli_evaluate()
        code, messages = int(bool(CheckedTracker.problems)), CheckedTracker.problems
    except KeyboardInterrupt as stopped:
        code, messages = 130, [str(stopped) or "interrupted"]
    except (ValueError, OSError) as error:
        if not _is_ours(error):
            raise
        code, messages = 1, [str(error)]
    finally:
        lm_eval.loggers.EvaluationTracker = original
    for message in messages:
        print(f"recall-evals run: {message}", file=sys.stderr)
    return code


def _is_ours(error: BaseException) -> bool:
    """Whether a `raise` of this package made it, and so wrote it for its users."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("recall_evals.")
