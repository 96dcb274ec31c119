"""Real runs of lm-eval, made once a session."""

import json

import pytest

import runs


@pytest.fixture(scope="session")
def real_runs(tmp_path_factory):
    """Folder of three runs: the bundled `attention` and `based` on `mini_fda`, a GPT-2 of `hf` on `local_fda`."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("attention", "based"):
        runs.evaluate(folder / name, name, {}, ["mini_fda"], limit=8)
    data = folder / "data" / "fda" / "validation.jsonl"
    data.parent.mkdir(parents=True)
    rows = [{"doc_id": f"d{i // 2}", "key": "Lot", "value": f"{i}", "text": f"Lot: {i}. Dry.\nLot:"} for i in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECALL_EVALS_DATA", str(folder / "data"))
        model = {"pretrained": str(runs.transformer(folder / "gpt")), "max_length": 100}
        runs.evaluate(folder / "hf", "hf", model, ["local_fda"])
    return folder
