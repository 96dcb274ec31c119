"""`recall-evals sweep`: jobs beside each other, failures among them, and kill -9 at any moment."""

import io
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, CachingLM
from lm_eval.tasks import TaskManager
from rich.console import Console

import tiny
from evals.sweeping import PROMPTS, answers, found, kill_when, log_of, run, start, workers_of, workplace, write_suite
from recall_evals.adapters.lm import BasedLM
from recall_evals.evals.sweep import worker
from recall_evals.evals.sweep.attempt import Outcome, halve
from recall_evals.evals.sweep.jobs import Job, make_jobs
from recall_evals.evals.sweep.ledger import Ledger
from recall_evals.evals.sweep.live import Done, Watch, look
from recall_evals.evals.sweep.names import TaskNames, backends
from recall_evals.evals.sweep.schedule import Progress, run_jobs
from recall_evals.evals.sweep.suite import read_suite
from recall_evals.evals.sweep.yaml_lines import SuiteError
from recall_evals.results.rows import read_runs

pytestmark = pytest.mark.xdist_group("sweep")  # one worker, or the fixtures are made by each

SLOTS = 2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("sweep")
    workplace(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECALL_EVALS_DATA", str(root / "documents"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield root


def suite(place: Path, name: str, **fields: Any) -> str:
    models = [{"name": "tiny", "pretrained": str(place / "model")}]
    fields = {"models": models, "tasks": ["local_fda"], "batch_size": SLOTS, **fields}
    return write_suite(place / f"{name}.yaml", **fields)


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> Path:
    """One job that is finished, one whose weights are spoilt, one that has no time."""
    tiny.save(place / "spoilt", tiny.BASED)
    weights = place / "spoilt" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    models = [
        {"name": "spoilt", "pretrained": str(place / "spoilt")},
        {"name": "tiny", "pretrained": str(place / "model")},
        {"name": "late", "pretrained": str(place / "model"), "args": {"max_length": 1000}, "timeout": 0.2},
    ]
    assert not run(suite(place, "three", models=models), place / "three", workers=2)
    return place / "three"


def ledger(output: Path) -> dict[str, dict[str, Any]]:
    lines = (output / ".sweep" / "ledger.jsonl").read_text().splitlines()
    return {record["model"]: record for record in map(json.loads, lines)}


def test_failures_leave_the_others_alone(undisturbed: Path) -> None:
    said = ledger(undisturbed)
    assert said["tiny"]["status"] == "finished" and said["tiny"]["reason"] is None
    assert said["late"]["reason"] == "time-out: not finished after 0.2 s"
    assert said["spoilt"]["reason"] == "crash: exit code 1"
    assert said["spoilt"]["last_lines"][-1].startswith("recall-evals run: ")
    assert "model.safetensors" in said["spoilt"]["last_lines"][-1]
    (row,) = [row for row in read_runs([undisturbed]).rows if row.metric == "contains" and not row.failure]
    assert (row.task, row.n) == ("local_fda", PROMPTS)


def test_a_finished_job_is_not_run_again(place: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {file: file.stat().st_mtime_ns for file in undisturbed.rglob("*_*.json*")}
    # How it runs is no part of what is asked, nor is what the model is called.
    models = [{"name": "other", "pretrained": str(place / "model"), "args": {"state_memory": "2GB"}}]
    assert run(suite(place, "again", models=models, batch_size=8), undisturbed)
    assert "again: 1 jobs, 1 finished before" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in undisturbed.rglob("*_*.json*")} == files
    assert run(suite(place, "again", models=models), undisturbed, plan=True)
    planned = capsys.readouterr().out
    assert re.search(r"other.*local_fda.*finished.*48", planned) and "1 finished" in planned


def test_what_is_seen_while_it_runs(place: Path, undisturbed: Path) -> None:
    """A table in a terminal, from the logs and answers of the jobs that have run here."""
    (tiny_job,) = make_jobs(read_suite(Path(suite(place, "seen")), backends(), TaskNames().ours), undisturbed)
    assert look(tiny_job.folder, None) == Done(answered=PROMPTS, asked=PROMPTS, own=PROMPTS)
    (spoilt,) = [path for path in undisturbed.glob(".sweep/*") if ledger(undisturbed)["spoilt"]["job"] == path.name]
    assert look(spoilt, None) == Done()  # it came to no prompt
    console = Console(force_terminal=True, width=120, file=io.StringIO(), record=True)
    progress = [Progress(tiny_job, "running", running=[None]), Progress(tiny_job, "waiting")]
    with Watch("a [suite]", console) as watch:
        watch(progress, tiny_job)
        assert watch.live is not None
        progress[1] = Progress(tiny_job, "failed", outcome=Outcome("out of memory", (), 150.0))
        watch(progress, tiny_job)
    text = console.export_text()
    assert re.search(r"│ tiny +│ local_fda +│ running +│ 48 / 48 │", text) and "1 waiting" in text
    assert re.search(r"│ tiny +│ local_fda +│ failed +│ +│ +│ 2 min taken │", text)
    assert "0 of 2 jobs, 0 failed" in text and "1 of 2 jobs, 1 failed" in text


def test_one_sweep_at_a_time(place: Path, undisturbed: Path) -> None:
    with FileLock(undisturbed / ".sweep" / "lock"), pytest.raises(SuiteError, match="another sweep is at work in"):
        run(suite(place, "one"), undisturbed)


def test_kill_9_and_go_on(place: Path, undisturbed: Path, tmp_path: Path) -> None:
    """First a job's process, as the system does that is out of memory, then the sweep; the rows are the same."""
    output, draw, one = tmp_path / "killed", random.Random(0), suite(place, "one")
    aims = sorted(draw.sample(range(1, PROMPTS - 4), 2))
    pid = start(one, output, tmp_path / "log")
    wait_for(lambda: answers(output) >= aims[0])
    (process,) = workers_of(pid)
    os.kill(process, signal.SIGKILL)
    # Its job is tried again at half the memory, from the answers that are there.
    assert kill_when(pid, lambda: answers(output) >= aims[1])
    (folder,) = output.glob(".sweep/*/answers")
    with FileLock(folder / "whole.lock", timeout=10):
        kept = answers(output)  # the job's process is gone with its sweep
    assert kept >= aims[1] and not list(output.glob("*-*"))
    assert os.waitpid(start(one, output, tmp_path / "log"), 0)[1] == 0, (tmp_path / "log").read_text()
    assert found(output) == wanted(undisturbed)
    log = log_of(output)
    asked = [int(cached) for cached in re.findall(r"Cached requests: (\d+), Requests remaining", log)]
    # What was measured is that of all processes, though the last had only the rest to read.
    whole, again = figures_of(undisturbed / next(iter(wanted(undisturbed)))), figures_of(next(output.glob("*-*")))
    for name in ("state_bytes", "longest_prompt", "prompt_tokens", "truncated_prompts"):
        assert again[name] == whole[name], name
    assert again["prefill_tokens_per_second"] > 0
    assert asked[0] == 0 and aims[0] <= asked[1] < aims[1] and asked[2:] == [kept]


def test_ctrl_c(place: Path, tmp_path: Path) -> None:
    """It doesn't wait for its jobs: they are killed, and what they answered is there when it goes on."""
    output = tmp_path / "stopped"
    pid = start(suite(place, "one"), output, tmp_path / "log")
    wait_for(lambda: bool(workers_of(pid)))
    (process,) = workers_of(pid)
    os.kill(pid, signal.SIGINT)
    began = time.monotonic()
    os.waitpid(pid, 0)
    assert time.monotonic() - began < 20
    said = (tmp_path / "log").read_text()
    assert "interrupted: 0 of 1 jobs are finished; the answers of the others are kept, the same command goes on" in said
    wait_for(lambda: not Path(f"/proc/{process}").exists())


def figures_of(results: Path) -> dict[str, Any]:
    (file,) = results.rglob("results_*.json")
    return dict(json.loads(file.read_text())["config"])


def wanted(undisturbed: Path) -> dict[str, Any]:
    return {name: said for name, said in found(undisturbed).items() if name.startswith("tiny-")}


def wait_for(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_kill_9_at_many_points(place: Path, undisturbed: Path, tmp_path: Path, seed: int) -> None:
    """From its start to its end, not only while prompts are answered."""
    output, draw, one = tmp_path / "killed", random.Random(seed), suite(place, "one")
    whole = 10.0
    for _ in range(3):
        end = time.monotonic() + draw.uniform(0, whole)
        if not kill_when(start(one, output, tmp_path / "log"), lambda end=end: time.monotonic() > end):
            break
    assert os.waitpid(start(one, output, tmp_path / "log"), 0)[1] == 0, (tmp_path / "log").read_text()
    assert found(output) == wanted(undisturbed)
    print(f"seed {seed}: {len(re.findall('answers are here', log_of(output)))} processes came to their answers")


def test_only_prompts_in_flight_can_be_lost(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the engine says that a prompt is finished, another process can read its answer."""
    monkeypatch.setattr(CacheHook, "add_partial", CacheHook.add_partial)  # restored after
    monkeypatch.setattr(CachingLM, "get_cache_hook", CachingLM.get_cache_hook)
    worker.write_answers_at_once()
    lm, file = BasedLM(str(place / "model"), batch_size=4), tmp_path / "cache_rank0.db"
    behind, add = [], lm._kept.add

    def added(*arguments: Any) -> None:
        add(*arguments)
        with sqlite3.connect(file) as db:
            behind.append(len(behind) + 1 - db.execute("SELECT COUNT(*) FROM unnamed").fetchone()[0])

    monkeypatch.setattr(lm._kept, "add", added)
    texts = [Instance("generate_until", {}, (f"page {i}", {"until": [], "max_gen_toks": 3}), i) for i in range(20)]
    CachingLM(lm, str(file)).generate_until(texts)
    assert behind == [0] * 20


def test_answers_of_other_processes_are_taken_over(tmp_path: Path) -> None:
    for name, keys in (("shard-1-of-2", "ab"), ("shard-2-of-2", "bc")):
        with sqlite3.connect(tmp_path / f"{name}_rank0.db") as db:
            db.execute(worker.TABLE)
            db.executemany("INSERT INTO unnamed VALUES (?, ?)", [(key, key.encode()) for key in keys])
    (tmp_path / "shard-3-of-3_rank0.db").touch()  # it was killed before it had made its table
    for _ in range(2):
        assert worker.take_over_answers(tmp_path / "whole_rank0.db") == 3


def test_a_job_is_named_by_what_its_answers_depend_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, documents = tmp_path / "copy", tmp_path / "documents"
    shutil.copytree(place / "model", copy)
    shutil.copytree(place / "documents", documents)
    monkeypatch.setenv("RECALL_EVALS_DATA", str(documents))

    def name(pretrained: Path = copy, args: dict[str, Any] | None = None, **fields: Any) -> str:
        models = [{"pretrained": str(pretrained), "args": args or {}}]
        read = read_suite(Path(suite(tmp_path, "named", models=models, **fields)), backends(), TaskNames().ours)
        (job,) = make_jobs(read, tmp_path / "out")
        return job.id

    first = name()
    assert first == name(place / "model") == name(batch_size=7, timeout=9) == name(args={"state_memory": "1GB"})
    padded = [name(args={"pads": "published"}, batch_size=size) for size in (2, 3)]  # which decides these answers
    others = [
        *padded,
        name(args={"dtype": "float64"}),
        name(limit=3),
        name(tasks=["local_swde"]),
        name(tasks=["mini_fda"]),
    ]
    weights, offline = copy / "model.safetensors", name(tasks=["mini_fda"])
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    others += [name(), name(tasks=["mini_fda"])]
    with (documents / "fda" / "validation.jsonl").open("a") as file:
        file.write("\n")
    others.append(name())
    assert len({first, *others}) == len(others) + 1
    assert name(place / "model", tasks=["mini_fda"]) == offline  # which reads no documents of one's own


def test_shards_keep_documents_together() -> None:
    ids = [f"form-{number // 4}" for number in range(48)]
    for shards in (1, 2, 4, 20):
        picked = [worker.rows_of_shard(ids, number, shards) for number in range(shards)]
        assert sorted(row for rows in picked for row in rows) == list(range(48))
        homes = [{ids[row] for row in rows} for rows in picked]
        assert sum(map(len, homes)) == 12 and max(map(len, homes)) - min(map(len, homes)) <= 1
    mixed = random.Random(0).sample(ids, len(ids))
    same = {mixed[row] for row in worker.rows_of_shard(mixed, 1, 4)}
    assert same == {ids[row] for row in worker.rows_of_shard(ids, 1, 4)}


def test_a_shard_is_asked_its_documents(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks are loaded for real: of 12 forms and their 48 prompts, each of 2 shards has 6 and 24."""
    monkeypatch.setattr(TaskManager, "__init__", TaskManager.__init__)  # restored after
    worker.leave_out_lm_evals_tasks()
    for limit, shards, sizes in ((None, 2, [24, 24]), (40, 2, [20, 20]), (None, 9, [12, 12, 12, 12, 0])):
        asked = []
        for number in range(len(sizes)):
            told = work(tasks=["local_fda"], limit=limit, metadata=None, shard=[number, shards], shard_prompts=12)
            rows = worker.samples_of_shard(told).get("local_fda", [])
            assert rows == sorted(rows) and len({row // 4 for row in rows}) * 4 == len(rows)
            asked.append(rows)
        assert [len(rows) for rows in asked] == sizes
        assert sorted(row for rows in asked for row in rows) == list(range(limit or PROMPTS))


def test_shards_come_before_the_whole(place: Path, tmp_path: Path) -> None:
    models = [{"name": name, "pretrained": str(place / "model"), "args": {"seed": name}} for name in ("one", "two")]
    models += [{"name": "padded", "pretrained": str(place / "model"), "args": {"pads": "published"}}]
    read = read_suite(Path(suite(place, "order", models=models)), backends(), TaskNames().ours)
    one, two, padded = make_jobs(read, tmp_path)
    ran: list[tuple[str, Any]] = []

    def run_it(job: Job, shard: Any) -> Outcome:
        ran.append((job.model.name, shard and tuple(shard)))
        return Outcome("crash: exit code 1" if job is two and shard == [1, 2] else None, ("x",), 1.0)

    shown = run_jobs(
        [one, two, padded], 5, run_it, Ledger(tmp_path / "ledger.jsonl"), lambda shown, ended: None, lambda: None
    )
    shards = [(name, (number, 2)) for name in ("one", "two") for number in (0, 1)]
    # Nothing incomplete is put together; and what depends on its batches is asked whole.
    assert sorted(ran, key=str) == sorted([*shards, ("one", None), ("padded", None)], key=str)
    assert ran.index(("one", None)) > max(ran.index(("one", (number, 2))) for number in (0, 1))
    assert [(end.state, end.outcome and end.outcome.reason) for end in shown] == [
        ("finished", None),
        ("failed", "crash: exit code 1"),
        ("finished", None),
    ]
    with (tmp_path / "ledger.jsonl").open("a") as cut:
        cut.write('{"cut": ')  # as kill -9 may leave it
    Ledger(tmp_path / "ledger.jsonl").add(one, None, Outcome(None, (), 1.0))
    kept = [(record["model"], record["part"]) for record in Ledger(tmp_path / "ledger.jsonl")]
    assert len(kept) == 7 and kept.count(("one", "whole")) == 2


def work(**fields: Any) -> worker.Work:
    base: dict[str, Any] = {"backend": "based", "args": {}, "batch_size": None, "max_batch_size": None}
    base["in_batches"] = False
    return base | fields  # type: ignore[return-value]


def test_half_the_memory() -> None:
    half, what = halve(work(args={"state_memory": "2GB"}, batch_size="16")) or (None, "")
    assert half and half["args"]["state_memory"] == 10**9 and half["batch_size"] == "16" and what
    half, what = halve(work(batch_size="16")) or (None, "")
    assert half and (half["batch_size"], half["args"]) == ("8", {"prefill_tokens": 4096})
    assert what == "batch_size=8, prefill_tokens=4096"
    half, _ = halve(work(backend="hf", batch_size="auto")) or (None, "")
    assert half and (half["batch_size"], half["max_batch_size"]) == ("auto", 32)
    assert halve(work(backend="hf", batch_size="1")) is None and halve(work(backend="hf")) is None
    _, what = halve(work(args={"pads": "published"}, batch_size="16", in_batches=True)) or (None, "")
    assert what == "prefill_tokens=4096"  # another batch size would give other answers


@pytest.mark.long
def test_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes whose address space ends where prompts read together need more, and half as many don't."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a second thread's stack would count
    models = [{"pretrained": "attention", "args": {"prefill_tokens": 65536}}]
    tasks = [{"tasks": ["mini_fda"], "limit": 96}]
    one = write_suite(tmp_path / "wide.yaml", models=models, tasks=tasks, batch_size=64, device="cpu")
    for gigabytes in (5.4, 5.0, 4.6, 4.2):  # how much is needed before the first prompt differs between machines
        output = tmp_path / str(gigabytes)
        program = [str(Path(sys.executable).with_name("recall-evals")), "sweep", one, "--output", str(output)]
        limit = f'ulimit -v {int(gigabytes * 1e6)}; exec "$@"'
        done = subprocess.run(["bash", "-c", limit, "bash", *program], capture_output=True, text=True, check=False)
        (record,) = ledger(output).values()
        if record["halved"]:
            break
    assert record["halved"] == "batch_size=32, prefill_tokens=32768", record
    assert done.returncode == 0 and record["status"] == "finished", done.stdout
    assert "finished after" in done.stdout and "the second time with batch_size=32" in done.stdout
