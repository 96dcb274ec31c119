"""A suite: which models answer which tasks, as one YAML file.

    name: recall                      # default: the file's name
    models:
      - based                         # a folder, bundled checkpoint or hub id, for `--model based`
      - {name: pythia, backend: hf, args: {pretrained: EleutherAI/pythia-410m, dtype: bfloat16}}
      - {checkpoints: out/training/step-*}                          # a model for each folder
      - {pretrained: org/model, revisions: [step-1000, step-2000]}  # a model for each revision
    tasks:
      - mini_fda                      # plain names are asked in one job a model
      - {tasks: [fda, swde], protocol: based, limit: 200}           # each mapping is a job a model

| key | of | |
|---|---|---|
| `batch_size` | suite, model | as lm-eval's flag; a model's replaces the suite's, here and below |
| `gpus`, `timeout` | suite, model | GPUs of a job, where it runs on any (1); time of a job, such as `90s` or `2h` |
| `limit` | suite, tasks | documents of each task, or their share |
| `num_fewshot`, `gen_kwargs`, `metadata` | tasks | as lm-eval's flags |
| `protocol`, `documents` | tasks | `fda` becomes `recall_based_fda`; with `documents: local`, `local_based_fda` |
| `device` | suite | `cpu`, or `cuda` (default where there is a GPU) |
| `shard_prompts` | suite | a job of more documents may be split, into shards of at least so many |
| `published` | suite | true: the report shows the difference to published numbers |
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode

from ...adapters.lm_eval_discovery import MODELS
from ...models.bundled import PREFIX, bundled_here
from ...models.checkpoint import find_folder
from .yaml_lines import Fields, Problems, SuiteError, line_of, nearest, read_mapping

OURS = tuple(MODELS)
PROTOCOLS = {"lm-eval-v1": "", "based": "based_", "jrt": "jrt_", "jrt-twice": "jrt_twice_"}
BUNDLED = Path(__file__).parents[2] / "suites"
SHARD_PROMPTS = 500

RUNNING_KEYS = ("batch_size", "gpus", "timeout")
SUITE_KEYS = ("name", "models", "tasks", "limit", "device", "shard_prompts", "published", *RUNNING_KEYS)
MODEL_KEYS = ("name", "backend", "args", "pretrained", "checkpoints", "revisions", *RUNNING_KEYS)
TASKS_KEYS = ("tasks", "protocol", "documents", "limit", "num_fewshot", "gen_kwargs", "metadata")


@dataclass(frozen=True)
class Model:
    """A backend of lm-eval with its arguments; `gpus` and `timeout` (seconds) None: as the suite or machine has it."""

    name: str
    backend: str
    args: dict[str, Any]
    line: int
    batch_size: str | None = None
    gpus: int | None = None
    timeout: float | None = None

    @property
    def is_ours(self) -> bool:
        return self.backend in OURS

    @property
    def in_batches(self) -> bool:
        """Whether an answer depends on its batch (`pads`), so that a job is asked whole, with no cache of answers."""
        return bool(self.args.get("pads"))

    @property
    def pretrained(self) -> str | None:
        found = self.args.get("pretrained")
        return self.backend if found is None and self.is_ours else found


@dataclass(frozen=True)
class Questions:
    """Tasks that one job asks, with lm-eval's flags about them; `lines` of the names."""

    tasks: tuple[str, ...]
    lines: tuple[int, ...]
    limit: float | int | None = None
    num_fewshot: int | None = None
    gen_kwargs: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True)
class Suite:
    file: Path
    name: str
    models: list[Model]
    questions: list[Questions]
    device: str | None
    shard_prompts: int
    published: bool


def find_suite(given: str) -> Path:
    """A file, or the bundled suite of that name (`demo`, `demo.yaml`). SuiteError: neither."""
    path = Path(given)
    if path.is_file():
        return path
    bundled = {file.stem: file for file in BUNDLED.glob("*.yaml")}
    if path.name == given and path.stem in bundled:
        return bundled[path.stem]
    raise SuiteError(f"{given}: no such file, nor a bundled suite: there are {', '.join(sorted(bundled))}")


def read_suite(file: Path, backends: Collection[str], tasks: Collection[str]) -> Suite:
    """Parse and check a suite against the names of lm-eval's backends and tasks (groups and tags included).

    Raises:
        SuiteError: everything that is wrong with it, a line each.
    """
    problems = Problems(file)
    fields = Fields(read_mapping(file), SUITE_KEYS, problems)
    reader = _Reader(fields, problems, backends)
    models = [model for node in fields.items("models") for model in reader.models(node)]
    questions = reader.questions(fields.items("tasks"))
    for names in questions:
        for name, line in zip(names.tasks, names.lines, strict=True):
            if name not in tasks:
                problems.add(line, f"unknown task {name!r}{nearest(name, tasks)}; `lm-eval ls tasks` lists them")
    first: dict[str, Model] = {}
    for model in models:
        if (other := first.setdefault(model.name, model)) is not model:
            problems.add(model.line, f"a second model named {model.name!r}, as in line {other.line}; give a `name`")
    suite = Suite(
        file=file,
        name=fields.text("name") or file.stem,
        models=models,
        questions=questions,
        device=fields.text("device"),
        shard_prompts=fields.count("shard_prompts") or SHARD_PROMPTS,
        published=fields.flag("published") or False,
    )
    if not re.fullmatch(r"[\w.+-]+", suite.name):
        problems.add(fields.line("name"), f"'name' {suite.name!r} names a folder: use letters, digits, ., _, + and -")
    problems.raise_any()
    return suite


class _Reader:
    def __init__(self, suite: Fields, problems: Problems, backends: Collection[str]) -> None:
        self.problems, self.backends = problems, sorted({*backends, *OURS})
        self.limit = suite.limit("limit")
        self.batch_size, self.gpus, self.timeout = self._running(suite)

    def _running(self, fields: Fields) -> tuple[str | None, int | None, float | None]:
        batch_size = fields.text("batch_size")
        if batch_size and not re.fullmatch(r"[1-9]\d*|auto(:\d+)?", batch_size):
            self.problems.add(fields.line("batch_size"), f"'batch_size' must be a number or auto, got {batch_size!r}")
        return batch_size, fields.count("gpus", 0), fields.seconds("timeout")

    # -- models -------------------------------------------------------------------------------------------------------

    def models(self, node: Node) -> list[Model]:
        """The models of one item; none where something is wrong with it."""
        before = len(self.problems.found)
        if isinstance(node, ScalarNode):
            source = str(node.value)
            found = [self._model(None, "based", {"pretrained": source}, line_of(node), ())]
        elif isinstance(node, MappingNode):
            found = self._described(Fields(node, MODEL_KEYS, self.problems))
        else:
            self.problems.add(node, "a model is a name, or a mapping with `pretrained` or `backend` and `args`")
            return []
        for model in found:
            self._check_source(model)
        return found if len(self.problems.found) == before else []

    def _described(self, fields: Fields) -> list[Model]:
        backend = fields.text("backend", self.backends) or "based"
        args = dict(fields.mapping("args") or {})
        name, pattern, revisions = fields.text("name"), fields.text("checkpoints"), fields.texts("revisions")
        running, line = self._running(fields), line_of(fields.node)
        if (pretrained := fields.text("pretrained")) is not None:
            if "pretrained" in args:
                self.problems.add(fields.line("args"), "'pretrained' stands here and in 'args': leave one out")
            args["pretrained"] = pretrained
        if pattern is None and revisions is None:
            return [self._model(name, backend, args, line, running)]
        if pattern is not None and ("pretrained" in args or revisions is not None):
            self.problems.add(fields.line("checkpoints"), "'checkpoints' can't go with 'pretrained' or 'revisions'")
        if name is not None:
            self.problems.add(fields.line("name"), "'name' can't name several: they get the names of their folders")
        if pattern is not None:
            root = Path(Path(pattern).anchor)
            files = root.glob(f"{Path(pattern).relative_to(root)}/config.json")
            folders = sorted((file.parent for file in files), key=_natural)
            if not folders:
                self.problems.add(fields.line("checkpoints"), f"no folder {pattern!r} holds a config.json")
            return [self._model(None, backend, args | {"pretrained": str(folder)}, line, running) for folder in folders]
        if "pretrained" not in args or "revision" in args:
            self.problems.add(fields.line("revisions"), "'revisions' are those of a 'pretrained', without a 'revision'")
        return [
            self._model(None, backend, args | {"revision": revision}, at, running) for revision, at in revisions or ()
        ]

    def _model(self, name: str | None, backend: str, args: dict[str, Any], line: int, running: Sequence[Any]) -> Model:
        batch_size, gpus, timeout = running or (None, None, None)
        if name is None:
            source = str(args.get("pretrained") or args.get("model") or backend).removeprefix(PREFIX)
            name = Path(source).name or source
            name += f"@{args['revision']}" if "revision" in args else ""
        return Model(
            name,
            backend,
            args,
            line,
            batch_size or self.batch_size,
            self.gpus if gpus is None else gpus,
            timeout or self.timeout,
        )

    def _check_source(self, model: Model) -> None:
        """What our own backends would refuse: neither a folder, nor bundled, nor the form of a hub id."""
        source = model.pretrained
        if not model.is_ours or (isinstance(source, str) and find_folder(source) is not None):
            return
        if not isinstance(source, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
            self.problems.add(
                model.line,
                f"unknown model {source!r}: no such folder or bundled checkpoint ({bundled_here()}), nor a hub id, "
                "which has the form owner/name",
            )

    # -- tasks --------------------------------------------------------------------------------------------------------

    def questions(self, nodes: Sequence[Node]) -> list[Questions]:
        plain = [(str(node.value), line_of(node)) for node in nodes if isinstance(node, ScalarNode)]
        found = []
        if plain:
            found.append(Questions(tuple(name for name, _ in plain), tuple(at for _, at in plain), self.limit))
        for node in nodes:
            if isinstance(node, MappingNode):
                found += self._asked(Fields(node, TASKS_KEYS, self.problems))
            elif not isinstance(node, ScalarNode):
                self.problems.add(node, "an item of 'tasks' is a name, or a mapping with `tasks`")
        for some in found:
            for number, (name, line) in enumerate(zip(some.tasks, some.lines, strict=True)):
                if name in some.tasks[:number]:
                    self.problems.add(line, f"task {name!r} stands in this job a second time")
        return found

    def _asked(self, fields: Fields) -> list[Questions]:
        names = fields.texts("tasks")
        protocol = fields.text("protocol", PROTOCOLS)
        documents = fields.text("documents", ("hub", "local"))
        if names is None:
            if "tasks" not in fields.values:
                self.problems.add(fields.node, "'tasks' is missing: name at least one")
            return []
        if protocol is None and documents is not None:
            self.problems.add(fields.line("documents"), "'documents' needs a 'protocol'")
        if protocol is not None:
            prefix = f"{'local' if documents == 'local' else 'recall'}_{PROTOCOLS[protocol]}"
            names = [(prefix + name, line) for name, line in names]
        own = fields.limit("limit")
        return [
            Questions(
                tuple(name for name, _ in names),
                tuple(line for _, line in names),
                self.limit if own is None else own,
                fields.count("num_fewshot", 0),
                fields.mapping("gen_kwargs"),
                fields.mapping("metadata"),
            )
        ]


def _natural(path: Path) -> list[Any]:
    """A key that puts step-200 before step-1000."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", str(path)) if part]
