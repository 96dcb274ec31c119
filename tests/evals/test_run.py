"""`recall-evals run` as a process: errors of one line, results that can't be saved, Ctrl-C."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from recall_evals.evals.checked_tracker import _is_whole


def write_forms(file: Path) -> None:
    """Forms of four fields with filler between, and a prompt for each field, in the schema of the published sets."""
    draw = random.Random(0)
    rows = []
    for number in range(12):
        fields = {
            "Device name": f"{draw.choice(['Alba', 'Corvo', 'Lumen', 'Pico'])} {draw.randint(100, 999)}",
            "Manufacturer": f"{draw.choice(['North', 'Harbour', 'Quarry'])} {draw.choice(['Works', 'Instruments'])}",
            "Material": draw.choice(["steel", "glass", "nylon", "titanium"]),
            "Lot": f"L{draw.randint(10_000, 99_999)}",
        }
        filler = "It was inspected at receipt and stored dry. "
        text = " ".join(f"{key}: {value}. {filler * draw.randint(1, 4)}" for key, value in fields.items())
        rows += [
            {"doc_id": f"form-{number}", "key": key, "value": value, "text": f"{text}\n{key}:"}
            for key, value in fields.items()
        ]
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A model and documents; commands run in a folder beside them."""
    root = tmp_path_factory.mktemp("run")
    tiny.save(root / "model", tiny.BASED)
    write_forms(root / "documents" / "fda" / "validation.jsonl")
    return root


@pytest.fixture
def command(workplace, few_tasks, tmp_path):
    """Starts `recall-evals run` on the model and documents, in an empty folder."""

    def start(*flags, shell="", **model_args):
        (tmp_path / "tmp").mkdir(exist_ok=True)
        (tmp_path / "cwd").mkdir(exist_ok=True)
        arguments = ",".join(f"{k}={v}" for k, v in {"pretrained": workplace / "model", **model_args}.items())
        program = [str(Path(sys.executable).with_name("recall-evals")), "run", "--model", "based"]
        words = [*program, "--model_args", arguments, "--tasks", "local_fda", *map(str, flags)]
        environment = (
            os.environ
            | few_tasks
            | {
                "RECALL_EVALS_DATA": str(workplace / "documents"),
                "HF_HUB_OFFLINE": "1",
                "HF_HOME": str(tmp_path / "hf"),
                "TMPDIR": str(tmp_path / "tmp"),
                "OMP_NUM_THREADS": "1",
            }
        )
        return subprocess.Popen(
            ["bash", "-c", f'{shell} exec "$@"', "bash", *words],
            cwd=tmp_path / "cwd",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Tests that run in the background have an ignored SIGINT to hand down.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


def last_line(errors: str) -> str:
    return errors.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("model_args", "message"),
    [
        ({"dtype": "int8"}, "dtype='int8' is unknown"),
        ({"pretrained": "nowhere"}, "nowhere"),
        ({"max_length": 48}, "max_gen_toks=48 leaves no room for a prompt in max_length=48"),
    ],
)
def test_an_error_of_ours_is_one_line(command, model_args, message):
    done = command("--limit", 2, **model_args)
    _, errors = done.communicate(timeout=120)
    assert done.returncode == 1 and "Traceback" not in errors
    assert last_line(errors).startswith("recall-evals run: ") and message in last_line(errors)


def test_results_that_cannot_be_written_are_kept_elsewhere(command, tmp_path):
    (tmp_path / "file").touch()
    flags = [
        "--limit",
        2,
        "--log_samples",
        "--output_path",
        tmp_path / "file" / "out",
    ]
    done = command(*flags)
    output, errors = done.communicate(timeout=120)
    assert done.returncode == 1 and "|local_fda|" in output, errors
    lines = [line for line in errors.splitlines() if line.startswith("recall-evals run: ")]
    assert len(lines) == 2
    for line, kind in zip(lines, ("results", "samples"), strict=True):
        wanted, kept = re.fullmatch(
            r"recall-evals run: (.+) could not be written \(.+\); it is at (.+) instead", line
        ).groups()
        assert wanted.startswith(str(tmp_path / "file" / "out")) and Path(wanted).name == Path(kept).name
        assert Path(kept).name.startswith(kind)
        records = [json.loads(text) for text in Path(kept).read_text().splitlines()] if kind == "samples" else []
        assert [list(record["arguments"]) for record in records] == [["gen_args_0"]] * len(records)
        assert len(records) == 2 or "local_fda" in json.loads(Path(kept).read_text())["results"]


def test_a_full_disk_loses_no_score(command, tmp_path):
    """No file may grow beyond 4 KiB, wherever it is: as on a disk that is full."""
    flags = ["--limit", 40, "--log_samples", "--output_path", tmp_path / "out"]
    done = command(*flags, shell="ulimit -f 4;")
    output, errors = done.communicate(timeout=120)
    assert done.returncode == 1, errors
    lines = [line for line in errors.splitlines() if line.startswith("recall-evals run: ")]
    assert len(lines) == 2 and all("could not be written, nor " in line and "make room" in line for line in lines)
    printed = next(json.loads(line) for line in output.splitlines() if line.startswith("{"))
    assert printed["n-samples"]["local_fda"]["effective"] == 40


def test_ctrl_c_keeps_what_is_finished(command, tmp_path):
    flags = ["--batch_size", 2, "--output_path", tmp_path / "out"]
    running = command(*flags)
    seen = ""
    while (shown := re.findall(r"generated tokens: (\d+)", seen)) == [] or int(shown[-1]) < 400:
        part = os.read(running.stderr.fileno(), 4096).decode()
        assert part, f"it ended by itself: {seen}"
        seen += part
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in errors
    kept, name = re.search(r"run: interrupted: (\d+) answers are kept in \S+; .*--use_cache (\S+) to", errors).groups()
    assert 5 <= int(kept) < 48
    again = command(*flags, "--use_cache", name)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0 and f"Cached requests: {kept}, Requests remaining: {48 - int(kept)}" in errors
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["n-samples"]["local_fda"]["effective"] == 48


def test_answers_may_hold_any_end_of_a_line(tmp_path):
    file = tmp_path / "samples_x.jsonl"
    file.write_text('{"resps": "a\u2028b\x85c"}\n{"resps": ""}\n', encoding="utf-8")
    assert _is_whole(file, 2) and not _is_whole(file, 1)
    file.write_text('{"resps": "a"}\n{"resps": "', encoding="utf-8")
    assert not _is_whole(file, 2) and not _is_whole(file, 1)
