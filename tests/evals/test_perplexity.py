"""Perplexity against a token at a time, lm-eval's rolling log-likelihood and Transformers; the command."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from typer.testing import CliRunner

import tiny
from recall_evals.adapters.lm import BasedLM
from recall_evals.evals.cli import app
from recall_evals.evals.perplexity.bigrams import BigramCounter, Counted
from recall_evals.evals.perplexity.measure import Slices, cross_entropies, gap

TEXT = "The quick brown fox jumps over the lazy dog; the quick brown fox → naïve café. "


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: tiny.save(root / name, config) for name, config in tiny.CONFIGS.items()}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "pages.jsonl"
    texts = [TEXT * 2, "", "Seven pages on the quick brown fox. " * 5, TEXT[:20]]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def run(*arguments) -> tuple[dict, str]:
    result = CliRunner().invoke(app, ["ppl", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1]), result.stdout


def refused(*arguments) -> str:
    result = CliRunner().invoke(app, ["ppl", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    return result.output


def token_by_token(model, window: list[int]) -> list[float]:
    """-ln p of each token but the first, from steps of the model."""
    scores, state = model.prefill(torch.tensor(window[:1]), [1])
    losses = []
    for token in window[1:]:
        losses.append(-float(scores[0].double().log_softmax(-1)[token]))
        scores = model.step(torch.tensor([token]), state)
    return losses


@pytest.mark.parametrize("name", sorted(tiny.CONFIGS))
def test_cross_entropies_equal_a_token_at_a_time(name):
    model = tiny.build(tiny.CONFIGS[name])
    windows = torch.randint(0, 257, (2, 51), generator=torch.Generator().manual_seed(0))
    want = np.array([token_by_token(model, row) for row in windows.tolist()])
    # In one call, in pieces of a window, and with fewer rows of scores than tokens.
    for budget, rows in ((8192, 256), (40, 256), (2, 7), (1, 1000)):
        got = cross_entropies(model, windows, budget, rows)
        assert got.shape == (2, 50) and got.dtype == torch.float32
        np.testing.assert_allclose(got.double().numpy(), want, atol=1e-5)
    assert cross_entropies(model, windows[:, :2]).shape == (2, 1)


@pytest.mark.parametrize("name", sorted(tiny.CONFIGS))
def test_it_equals_lm_evals_rolling_log_likelihood(folders, tmp_path, name):
    for text in (TEXT, TEXT * 3):
        (tmp_path / "page.txt").write_text(text)
        result, _ = run(folders[name], "--data", tmp_path / "page.txt", "--length", 300)
        lm = BasedLM(str(folders[name]), max_length=300)
        (want,) = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)
        (model,) = result["models"]
        n = len(text.encode())  # a token a byte
        assert (result["predicted_tokens"], result["predicted_bytes"], result["windows"]) == (n, n, 1)
        assert -model["cross_entropy"] * n == pytest.approx(want, rel=1e-4)
        assert model["perplexity"] == pytest.approx(math.exp(-want / n), rel=1e-4)
        assert model["bits_per_byte"] == pytest.approx(-want / n / math.log(2), rel=1e-4)


def test_it_equals_transformers(folders, tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=264, hidden_size=64, num_hidden_layers=2, layer_norm_epsilon=1e-5, tie_word_embeddings=True
    )
    theirs = MambaForCausalLM(config).eval()
    ours = tiny.build(tiny.MAMBA)
    theirs.load_state_dict(
        {k.replace("backbone.embedding.", "backbone.embeddings."): v for k, v in ours.state_dict().items()}
    )
    (tmp_path / "page.txt").write_text(TEXT * 9)
    result, _ = run(folders["mamba"], "--data", tmp_path / "page.txt", "--length", 63)
    lm = BasedLM(str(folders["mamba"]))
    ids = [256, *lm.tok_encode(TEXT * 9)]
    losses = []
    for start in range(0, len(ids) - 1, 64):
        window = torch.tensor(ids[start : start + 64])
        with torch.no_grad():
            scores = theirs(window[None]).logits[0].log_softmax(-1)
        losses += [-float(scores[i, token]) for i, token in enumerate(window[1:].tolist())]
    assert result["predicted_tokens"] == len(losses) and result["windows"] == -(-len(ids) // 64)
    assert result["models"][0]["cross_entropy"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_slices_equal_loops():
    rng = np.random.default_rng(0)
    slices = Slices(40)
    parts = [(rng.random((3, 40)), rng.random((3, 40)) < 0.3), (rng.random((1, 13)), rng.random((1, 13)) < 0.3)]
    cells: dict[object, list[float]] = {}
    for losses, hits in parts:
        slices.add(losses, slices.cells(hits))
        length = losses.shape[1]
        for (_, t), loss in np.ndenumerate(losses):
            bucket = next(p for p in range(10) if 2**p <= t + 1 < 2 ** (p + 1))
            last = "last" if t >= length - length // 2 else "first"
            for name in ("all", last, "hit" if hits[_, t] else "other", bucket):
                cells.setdefault(name, []).append(loss)
    found = {"all": slices.all, "last": slices.last_half, "hit": slices.hits, "other": slices.others}
    positions = slices.by_position()
    assert [(first, last) for first, last, _ in positions] == [(1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 40)]
    found |= {p: part for p, (_, _, part) in enumerate(positions)}
    for name, part in found.items():
        assert part.tokens == len(cells[name])
        assert part.cross_entropy == pytest.approx(np.mean(cells[name]))
        assert part.perplexity == pytest.approx(math.exp(np.mean(cells[name])))
    assert slices.bits_per_byte(100) == pytest.approx(sum(cells["all"]) / math.log(2) / 100)
    empty = Slices(4)
    assert empty.all.perplexity is None and empty.bits_per_byte(0) is None and empty.by_position() == []


def test_the_gap_is_split_between_hits_and_others():
    rng = np.random.default_rng(1)
    hits = rng.random((4, 32)) < 0.25
    worse, better = Slices(32), Slices(32)
    base, more = rng.random((4, 32)), rng.random((4, 32))
    better.add(base, better.cells(hits))
    worse.add(base + more, worse.cells(hits))
    found = gap(worse, better)
    assert found.difference == pytest.approx(more.mean())
    assert found.hits == pytest.approx(more[hits].sum() / more.sum())
    in_others = (worse.others.loss - better.others.loss) / more.sum()
    assert found.hits + in_others == pytest.approx(1)
    assert gap(better, better).hits is None
    other = Slices(32)
    other.add(base, other.cells(~hits))
    with pytest.raises(ValueError, match="predicted other tokens"):
        gap(other, better)


def test_the_command_compares_models(folders, pages, tmp_path):
    output = tmp_path / "result.json"
    sources = [folders["attention"], folders["based"]]
    result, printed = run(*sources, "--data", pages, "--length", 50, "--output", output)
    assert json.loads(output.read_text()) == result
    # By hand: the stream, its windows, hits among them, losses of one token after another.
    lms = [BasedLM(str(source)) for source in sources]
    texts = [json.loads(line)["text"] for line in pages.read_text().splitlines()]
    ids = [i for text in texts if text for i in (256, *lms[0].tok_encode(text))]
    windows = [ids[i : i + 51] for i in range(0, len(ids), 51)]
    assert len(windows[-1]) not in (1, 51), "a short last window"
    hit = [pair in list(pairwise(w))[:t] for w in windows for t, pair in enumerate(pairwise(w))]
    losses = [np.array([x for w in windows for x in token_by_token(lm.model, w)]) for lm in lms]
    assert result["hits"] == pytest.approx(np.mean(hit)) and 0.1 < np.mean(hit) < 0.9
    for model, loss in zip(result["models"], losses, strict=True):
        assert model["perplexity"] == pytest.approx(math.exp(loss.mean()), rel=1e-4)
        assert model["hits"]["perplexity"] == pytest.approx(math.exp(loss[hit].mean()), rel=1e-4)
        assert model["others"]["perplexity"] == pytest.approx(math.exp(loss[~np.array(hit)].mean()), rel=1e-4)
        assert model["bits_per_byte"] == pytest.approx(loss.sum() / math.log(2) / result["predicted_bytes"], rel=1e-4)
    difference = losses[1] - losses[0]
    assert result["models"][0]["gap"] is None
    assert result["models"][1]["gap"]["difference"] == pytest.approx(difference.mean(), abs=1e-4)
    assert result["models"][1]["gap"]["hits"] == pytest.approx(difference[hit].sum() / difference.sum(), rel=1e-2)
    # What identifies it.
    assert result["data"] | {"sha256": ""} == {
        "source": str(pages),
        "field": "text",
        "documents": 3,
        "empty": 1,
        "tokens": len(ids),
        "sha256": "",
    }
    assert result["train_counts"] == {"from": "the evaluated text itself", "tokens": len(ids)}
    for model, lm in zip(result["models"], lms, strict=True):
        info = lm.get_model_info()
        for name in ("content_hash", "tokenizer_hash", "architecture", "dtype", "revision", "parameters"):
            assert model[name] == info[name]
    assert "3 documents (1 empty ones skipped)" in printed and "in this text itself" in printed
    header = next(line for line in printed.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["", "tokens", *map(str, sources)]


def test_hits_are_rare_in_training(folders, pages, tmp_path):
    source = folders["attention"]
    free, _ = run(source, "--data", pages, "--length", 50)
    counts = tmp_path / "counts.npz"
    made = CliRunner().invoke(
        app, ["bigrams", str(pages), "--tokenizer", str(source), "--output", str(counts)], catch_exceptions=False
    )
    assert made.exit_code == 0, made.output
    shares = []
    for most in (1, 6, 1000):
        from_file, printed = run(source, "--data", pages, "--length", 50, "--counts", counts, "--max-train-count", most)
        itself, _ = run(source, "--data", pages, "--length", 50, "--max-train-count", most)
        assert from_file["models"][0]["hits"] == itself["models"][0]["hits"], "the same text was counted"
        assert from_file["train_counts"]["from"] == "counts file" and "in training (" in printed
        shares.append(from_file["hits"])
    assert shares[0] == 0 < shares[1] < shares[2] == free["hits"]
    with BigramCounter(257) as counter:
        counter.count([np.array([1, 2])])
        counter.save(counts, Counted(257, "0" * 64, 2, 1))
    message = refused(source, "--data", pages, "--counts", counts)
    assert "counts the tokens of another tokenizer (hash 0000000000000000)" in message
    assert f"make one with `recall-evals bigrams`, --tokenizer {source}" in message
    assert "no such counts file" in refused(source, "--data", pages, "--counts", tmp_path / "absent.npz")


def test_it_reads_no_more_than_it_is_asked_to(folders, pages):
    result, _ = run(folders["attention"], "--data", pages, "--length", 50, "--tokens", 120)
    assert (result["data"]["tokens"], result["windows"], result["predicted_tokens"]) == (120, 3, 50 + 50 + 17)
    whole, _ = run(folders["attention"], "--data", pages)
    assert whole["window"] == 2048 and whole["windows"] == 1


def test_what_can_not_be_measured_is_refused(folders, pages, tmp_path):
    source = folders["attention"]
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n\n{"text": null}\n')
    assert "0 documents with text, 2 empty ones, nothing to predict" in refused(
        source, "--data", tmp_path / "empty.jsonl"
    )
    assert "no field `body` in row 1; there is `text`" in refused(source, "--data", pages, "--field", "body")
    assert "no such file or folder" in refused(source, "--data", tmp_path / "absent.jsonl")
    assert "there is no folder" in refused(source, "--data", pages, "--output", tmp_path / "absent" / "x.json")
    assert "Give one model with it" in refused(source, folders["based"], "--data", pages, "--revision", "main")
    other = tiny.save(tmp_path / "other", tiny.MAMBA)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["use_regex"] = True
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    message = refused(source, other, "--data", pages)
    assert "has another tokenizer than" in message and "compare bits per byte" in message
    weights = tiny.tensors(tiny.build(tiny.ATTENTION))
    weights["transformer.ln_f.weight"].fill_(3e38)
    broken = tiny.save(tmp_path / "broken", tiny.ATTENTION, weights)
    assert "gives scores that are no numbers in float32" in refused(broken, "--data", pages)
