"""The row: one score of one model on one task, and what it may be compared with.

A row has a value, its standard error and n, and a fingerprint of the protocol in two parts:

    must_match   what two rows must share to be compared: task, its version, the prompt protocol and its settings,
                 metric, filter, shots, generation, limit and number of prompts, truncation, and the hash of the
                 documents, prompts and answers asked for
    reported     what is only told: the model's identity, tokenizer, dtype, versions, hardware, and what it cost

A field that is absent is unknown, and contradicts nothing; a field that is None says so (`limit: None`, all prompts).
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

# Of `reported`, what makes a model another one. Where the weights' hash is known, it stands for where they came from.
IDENTITY = ("backend", "arguments", "content_hash", "model_sha", "dtype", "state_dtype", "tokenizer_hash")
# Of --model_args, those that don't change an answer (`max_length` is part of the truncation).
NEUTRAL_ARGUMENTS = frozenset(
    ("batch_size", "check", "device", "max_batch_size", "max_length", "prefill_tokens", "share_prefixes")
    + ("state_memory", "trust_remote_code")
)

# Which of a task's metrics stands for it, the first it has; those of SHARES are shares of 1, shown in percent.
MAIN_METRICS = ("contains", "exact_match", "acc_norm", "acc", "exact", "f1", "word_perplexity", "perplexity")
SHARES = frozenset(MAIN_METRICS[:6]) | {"em", "string_match"}

STEP = re.compile(r"[-_/@]?(?:step|checkpoint|global_step)[-_]?(\d+)")


@dataclass(frozen=True)
class Row:
    """One score.

    Attributes:
        model: checkpoint as it was named: hub id (with `@revision` where one was asked for), folder, bundled name.
        value: in the metric's own unit (a fraction for `contains` and `acc`); NaN where there is no number.
        error: standard error of the value; NaN where it is unknown (a published row, a single document).
        n: prompts; of perplexities tokens; None where it is unknown.
        clustered: whether the error is clustered by document.
        published: taken from a publication, not from a run.
        failure: the last lines of a run that failed (the value is NaN), else None.
        source: the file it was read from, or the publication; no part of what the row says.
        samples: the file of its prompts, where lm-eval wrote one; no part of what the row says.
    """

    model: str
    task: str
    metric: str
    value: float
    error: float = math.nan
    n: int | None = None
    filter: str = "none"
    higher_is_better: bool = True
    clustered: bool = False
    must_match: Mapping[str, Any] = field(default_factory=dict)
    reported: Mapping[str, Any] = field(default_factory=dict)
    published: bool = False
    failure: str | None = None
    source: str = ""
    samples: str | None = None

    @cached_property
    def key(self) -> str:
        """A hash of all that the row says; where its files lie is no part of it."""
        said = {name: value for name, value in self.to_json().items() if name not in ("source", "samples")}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @cached_property
    def system(self) -> str:
        """A hash of the model: its name and the fields of IDENTITY. Rows of one system are one line of a table."""
        said = [self.model, self.published, *(self.reported.get(name) for name in IDENTITY)]
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def percent(self) -> bool:
        """Whether the value is a share of 1, which is shown in percent."""
        return self.metric in SHARES

    @property
    def date(self) -> float:
        """When the run began, in seconds since 1970; 0: unknown."""
        found = self.reported.get("date")
        return float(found) if isinstance(found, int | float) else 0.0

    @property
    def step(self) -> int | None:
        """The training step that the model's name or revision says (`step-1000`); None: it says none."""
        found = STEP.findall(self.model)
        return int(found[-1]) if found else None

    def to_json(self) -> dict[str, Any]:
        """As one JSON object, NaN as null."""
        said = asdict(self)
        for name in ("value", "error"):
            if not math.isfinite(said[name]):
                said[name] = None
        return said

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Row":
        """The row of `to_json`. ValueError: a field that isn't a row's, is missing or of another kind."""
        kinds = {
            "model": str, "task": str, "metric": str, "filter": str, "must_match": dict, "reported": dict,
            "higher_is_better": bool, "clustered": bool, "published": bool, "source": str,
        }  # fmt: skip
        if unknown := set(said) - set(cls.__dataclass_fields__):
            raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
        for name, kind in kinds.items():
            if not isinstance(said.get(name), kind):
                raise ValueError(f"field {name!r} must be {kind.__name__}, got {said.get(name)!r}")
        for name, kind in (("n", int), ("failure", str), ("samples", str)):
            if not isinstance(said.get(name), kind | None):
                raise ValueError(f"field {name!r} must be {kind.__name__} or null, got {said[name]!r}")
        numbers = {name: math.nan if said.get(name) is None else float(said[name]) for name in ("value", "error")}
        return cls(**{**said, **numbers})


def main_rows(rows: Iterable[Row]) -> list[Row]:
    """Of each model and task under one protocol, the row of its main metric and first filter."""
    chosen: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        shared = {name: value for name, value in row.must_match.items() if name not in ("metric", "filter")}
        place = (row.system, row.task, json.dumps(shared, sort_keys=True, default=str))
        if place not in chosen or _preference(row) < _preference(chosen[place]):
            chosen[place] = row
    return list(chosen.values())


def _preference(row: Row) -> int:
    return MAIN_METRICS.index(row.metric) if row.metric in MAIN_METRICS else len(MAIN_METRICS)


def mismatches(a: Row, b: Row) -> list[str]:
    """What keeps two rows from being compared, a line a field of `must_match`, with both values; empty: nothing.

    Prompts cut to another length are no mismatch where neither run cut any.
    """
    found = []
    for name in sorted(a.must_match.keys() & b.must_match.keys()):
        one, other = a.must_match[name], b.must_match[name]
        if one == other:
            continue
        if name == "truncation" and isinstance(one, Mapping) and isinstance(other, Mapping):
            if one.get("cut_prompts") == other.get("cut_prompts") == 0:
                continue
            if one.get("max_length") == other.get("max_length"):
                continue
        found.append(f"{name}: {_shown(one)} and {_shown(other)}")
    return found


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    text = "none" if value is None else str(value)
    return f"{text[:12]}..." if re.fullmatch(r"[0-9a-f]{40,}", text) else text


def short_names(rows: Mapping[str, Row]) -> dict[str, str]:
    """A name to show for each system (of which one row is given), the shortest that tell all apart.

    The last part of the checkpoint's name, or as many as are needed; where the whole name is the same, what else
    differs: `based (dtype bfloat16)`.
    """
    full = {system: row.model.removeprefix("bundled:") for system, row in rows.items()}
    names: dict[str, str] = {}
    for system, name in full.items():
        # Publications write `BASED 1.35B/10B`, which is no path.
        parts = (name,) if rows[system].published and " " in name else Path(name).parts or (name,)
        for count in range(1, len(parts) + 1):
            short = "/".join(parts[-count:])
            others = [other for other in full.values() if other != name]
            if count == len(parts) or not any(f"/{other}".endswith(f"/{short}") for other in others):
                break
        names[system] = short
    for system, row in rows.items():
        same = [other for other, name in full.items() if name == full[system] and other != system]
        fields = [name for name in IDENTITY if any(rows[o].reported.get(name) != row.reported.get(name) for o in same)]
        if row.published and same:
            names[system] += " (published)"
        elif fields and not all(rows[o].published for o in same):
            # Arguments have names of their own, and a model without any needs none.
            told = [f"{'' if f == 'arguments' else f} {_shown(row.reported.get(f))}".strip() for f in fields]
            names[system] += f" ({'; '.join(filter(None, told))})" if any(told) else ""
    for system, name in names.items():
        if list(names.values()).count(name) > 1:  # a copy of a bundled checkpoint, in a folder of its name
            names[system] = f"{name} ({rows[system].model})"
    return names
