"""`recall-evals demo` with small models in the place of the bundled ones: its table, and what it can't do."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import tiny
from recall_evals.evals.cli import app
from recall_evals.evals.demo import rows_of_documents
from recall_evals.models import bundled

NAMES = ["attention", "based", "mamba"]
# Of few layers, and a context of as many bytes as a document has, and its prompt.
CONFIGS = {
    name: tiny.changed(tiny.CONFIGS[name], n_layer=layers, train_length=8000)
    for name, layers in zip(NAMES, (1, 3, 1), strict=True)
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in NAMES:
        tiny.save_sums(tiny.save(folder / name, CONFIGS[name]))
    return folder


@pytest.fixture
def checkpoints(models, monkeypatch, tmp_path):
    monkeypatch.setattr(bundled, "FOLDER", models)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.chdir(tmp_path)
    return models


def demo(*arguments: str):
    return CliRunner().invoke(app, ["demo", *arguments])


def test_the_table_of_two_documents(checkpoints, monkeypatch):
    from recall_evals.adapters.lm import BasedLM

    original, seen = BasedLM.generate_until, []

    def short(self, requests, disable_tqdm=False):
        seen.append({request.doc["doc_id"] for request in requests})
        for request in requests:
            request.arguments = (request.args[0], {**request.args[1], "max_gen_toks": 2})
        return original(self, requests, disable_tqdm)

    monkeypatch.setattr(BasedLM, "generate_until", short)
    done = demo("--documents", "2")
    assert done.exit_code == 0, (done.output, done.exception)
    for task, rest in (("mini_fda", "80"), ("mini_swde", "80")):
        assert f"{task}: 2 of {rest} generated documents, 12 prompts\n" in done.stdout
    assert "mini_text: 2 of 24 generated documents, their text\n" in done.stdout
    assert [len(documents) for documents in seen] == [4] * 3, "two of each task, for each model"
    lines = done.stdout.splitlines()
    (top,) = [i for i, line in enumerate(lines) if line.startswith("model ")]
    assert lines[top + 1].split() == ["%", "%", "word_perplexity", "bytes", "tokens/s", "tokens/s"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[top + 3 : top + 6]}
    assert sorted(rows) == NAMES
    for name, (parameters, fda, plus, error, swde, _, other, perplexity, state, prefill, decode) in rows.items():
        assert parameters == f"{tiny.build(CONFIGS[name]).n_parameters:,}"
        assert plus == "±" and all(0 <= float(x) <= 100 for x in (fda, error, swde, other))
        assert float(perplexity.replace(",", "")) > 1
        assert all(int(x.replace(",", "")) > 0 for x in (state, prefill, decode))
    assert int(rows["attention"][8].replace(",", "")) > 10 * int(rows["mamba"][8].replace(",", ""))
    assert "clustered by document" in done.stdout and "on the CPU with" in done.stdout


@pytest.mark.skipif(bundled.bundled_names() != NAMES, reason="no bundled checkpoints: would have looked for the gap")
def test_the_bundled_checkpoints_show_the_gap(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    done = demo("--documents", "2")
    assert done.exit_code == 0, (done.output, done.exception)
    cells = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.startswith(tuple(NAMES))}
    attention, based, mamba = (float(cells[name][2]) for name in NAMES)  # mini_fda, of 12 prompts
    assert attention > 90 and attention > based > mamba > 5
    perplexities = [float(cells[name][8]) for name in NAMES]
    assert max(perplexities) < 1.15 * min(perplexities) < 5


def test_one_document_of_one_model_has_no_error(checkpoints, monkeypatch):
    from recall_evals.adapters.lm import BasedLM

    monkeypatch.setattr(BasedLM, "generate_until", lambda self, requests, **_: [r.doc["value"] for r in requests])
    done = demo("--documents", "1", "--models", "mamba")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "100.0 ± N/A" in done.stdout and "attention" not in done.stdout


def test_documents_are_whole_and_spread():
    ids = [f"d{i // 6}" for i in range(60)]
    assert rows_of_documents(ids, 1) == [0, 1, 2, 3, 4, 5]
    assert {ids[row] for row in rows_of_documents(ids, 4)} == {"d0", "d2", "d5", "d7"}
    assert len(rows_of_documents(ids, 4)) == 24
    assert rows_of_documents(ids, 10) == rows_of_documents(ids, 999) == list(range(60))
    assert rows_of_documents(["b", "a", "b"], 1) == [0, 2]


def test_without_checkpoints_it_is_one_line_and_exit_1(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "checkpoints")
    done = demo()
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr == (
        f"recall-evals demo: no bundled checkpoint to show: this installation has none, {tmp_path / 'checkpoints'} "
        "is empty or missing; `recall-evals train` makes them\n"
    )


def test_an_unknown_model_is_one_line_and_exit_1(checkpoints):
    done = demo("--models", "based,hyena")
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr == ("recall-evals demo: no bundled checkpoint 'hyena': there are attention, based, mamba\n")


def test_a_damaged_model_is_found_before_anything_is_evaluated(checkpoints, tmp_path, monkeypatch):
    folder = tmp_path / "damaged"
    for name in NAMES:
        tiny.save_sums(tiny.save(folder / name, tiny.CONFIGS[name]))
    (folder / "mamba" / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(bundled, "FOLDER", folder)
    done = demo()
    assert done.exit_code == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert f"recall-evals demo: {folder / 'mamba' / 'tokenizer.json'}: its SHA-256 is" in done.stderr


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_a_number_of_documents_that_is_none(number):
    done = demo("--documents", number)
    assert done.exit_code == 2 and "--documents" in done.stderr


def test_torch_is_imported_after_its_threads_are_set():
    code = "import sys, recall_evals.evals.cli, recall_evals.evals.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
