"""What our models measure of a job that several processes answered: a killed one and the next, or shards.

lm-eval's results file has the figures of the process that wrote it, which may have read a few prompts or none. So each
process keeps its own beside its answers as they come, and the results get those of all: of counts the largest that the
processes of one part saw (one that goes on from another's answers counts the rest of its prompts), summed over the
parts; of sizes the largest; of speeds those of the process that read most.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COUNTS = ("prompt_tokens", "prompt_tokens_computed", "generated_tokens", "truncated_prompts", "near_ties")
SIZES = ("state_bytes", "longest_prompt", "peak_states", "peak_state_bytes")
SPEEDS = ("prefill_tokens_per_second", "decode_tokens_per_second")
ENDING = ".figures.jsonl"
SECONDS_BETWEEN = 2.0


class Figures:
    """Those of this process, in `<answers>/<part>.figures.jsonl`, a line now and then."""

    def __init__(self, answers: Path, part: str) -> None:
        self.file = answers / f"{part}{ENDING}"
        self.model: Any = None  # as soon as there is one
        self.kept = 0.0

    def keep(self, last: bool = False) -> None:
        """Write the model's figures, if it has any and those written before are old."""
        engine = getattr(self.model, "engine", None)
        if engine is None or (not last and time.monotonic() - self.kept < SECONDS_BETWEEN):
            return
        self.kept = time.monotonic()
        meter = engine.meter
        said = {name: getattr(meter, name, None) for name in (*COUNTS, *SIZES)}
        said |= {"truncated_prompts": meter.truncated, "peak_state_bytes": meter.peak_bytes}
        said |= dict(zip(SPEEDS, (meter.prefill_rate, meter.decode_rate), strict=True))
        with self.file.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(said) + "\n")  # a line that was cut short ends here


def together(answers: Path) -> dict[str, Any]:
    """The figures of all processes of a job; nothing where none kept any."""
    parts = {file: _lines(file) for file in sorted(answers.glob(f"*{ENDING}"))}
    lines = [line for of_part in parts.values() for line in of_part]
    if not lines:
        return {}
    found: dict[str, Any] = {
        name: sum(max((line[name] or 0 for line in of_part), default=0) for of_part in parts.values())
        for name in COUNTS
    }
    found |= {name: max(line[name] or 0 for line in lines) or None for name in SIZES}
    most = max(lines, key=lambda line: line["prompt_tokens_computed"])
    return found | {name: most[name] for name in SPEEDS}


def complete(folder: Path, figures: Mapping[str, Any]) -> None:
    """Put figures into the results files below a folder, where they have them."""
    for file in folder.rglob("results_*.json"):
        results = json.loads(file.read_text(encoding="utf-8"))
        if "state_bytes" in results.get("config", {}):
            results["config"] |= figures
            file.write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")


def _lines(file: Path) -> list[dict[str, Any]]:
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            found.append(json.loads(line))
        except ValueError:  # empty, or cut short
            continue
    return found
