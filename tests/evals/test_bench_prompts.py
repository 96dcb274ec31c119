"""The parts of `bench prefill` and `bench eval` that need no GPU, on small models."""

from importlib.util import find_spec

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tiny
from recall_evals.adapters.tokenizer import load_tokenizer
from recall_evals.evals.bench import evaluation, prefill, shapes
from recall_evals.evals.bench.peers import MissingPeerError
from recall_evals.evals.perplexity.measure import cross_entropies
from recall_evals.kernels.taylor_linear_attention import reference as taylor

LLAMA = {
    "vocab_size": 264,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
}


def test_the_products_of_a_model_are_counted():
    model = tiny.build(tiny.BASED)
    shapes_ = prefill.products_of(prefill.our_prompts(model, 16, 3))
    linear = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    macs = sum(m * k * n * count for (m, k, n), count in shapes_.items())
    assert macs == 48 * sum(m.weight.numel() for m in linear) + 16 * model.get_parameter("lm_head.weight").numel()
    peer = prefill.products_of(prefill.llama_prompts(LLAMA, 2, 5, "cpu"))
    assert peer == {(10, 64, 64): 8, (10, 64, 96): 4, (10, 96, 64): 2, (2, 64, 264): 1}


def test_the_rows_of_taylor_prefill_are_those_of_the_peers():
    cases = list(prefill.taylor_cases())
    ours = [case for case in cases if not case.name.startswith("peer")]
    assert len(cases) == 5 * len(prefill.TAYLOR_SHAPES) and len(ours) == len(prefill.TAYLOR_SHAPES)
    # q, k, v and y in bf16 once, and the packed state: the floor of 16 x 2,048 at copy rate is 39 us.
    assert ours[0].nbytes == 16 * 16 * (2048 * 2 * 160 + taylor.n_features(16) * 65 * 4)
    assert [case.graph for case in ours] == [shape[0] == 1 for shape in prefill.TAYLOR_SHAPES]


@pytest.mark.skipif(
    find_spec("fla") is not None, reason="there is flash-linear-attention; without it, a message is checked"
)
def test_a_missing_peer_is_named():
    with pytest.raises(MissingPeerError, match="flash-linear-attention"):
        prefill.fla_taylor("parallel_based", 1, 16, 64)


def test_both_models_of_an_evaluation_have_equal_size():
    based = shapes.random_model(evaluation.BASED, "meta").n_parameters
    with torch.device("meta"):
        llama = LlamaForCausalLM(LlamaConfig(**evaluation.LLAMA))
    assert sum(p.numel() for p in llama.parameters()) == pytest.approx(based, rel=0.002)


@pytest.fixture
def documents(monkeypatch):
    folder = tiny.shared("data/fda", "`bench eval` on documents of local_fda").parent
    monkeypatch.setenv("RECALL_EVALS_DATA", str(folder))
    return folder


def test_prompts_of_a_task_through_both(documents, tmp_path):
    tiny.save_byte_tokenizer(tmp_path / "byte.json")
    tokenizer = load_tokenizer(tmp_path / "byte.json", "")
    requests = evaluation.task_requests(3)
    folder = tmp_path / "based"
    folder.mkdir()
    evaluation.save_random(folder, tiny.BASED, "cpu", tokenizer)
    ours = evaluation.our_answers(requests, folder, "cpu", 128)
    assert ours["prompts"] == 3 and ours["seconds"] > ours["prefill_seconds"] > 0
    assert 0 < ours["generated_tokens"] <= 3 * 48 and ours["prompt_tokens"] == 3 * (128 - 48)  # of one run, not two
    peer = evaluation.hf_answers(requests, tokenizer, LLAMA, "cpu", 128, (1, 2))
    assert peer["batch"] in (1, 2) and peer["seconds"] > 0 and peer["tokenise_seconds"] < peer["seconds"]
    assert len(evaluation.find_tokenizer()) == 50257


def test_without_documents_or_with_a_broken_peer_it_says_so(monkeypatch):
    monkeypatch.delenv("RECALL_EVALS_DATA", raising=False)
    (row,) = evaluation.rows({"fda"})
    assert row["what"] == "local_fda" and "RECALL_EVALS_DATA" in row["skipped"]
    row = evaluation._peer("peer: x", lambda: evaluation.hf_answers([], None, {"hidden_size": 7}))
    assert row["what"] == "peer: x" and row["skipped"]


def test_the_transformer_is_read_as_transformers_reads_it():
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()
    windows = torch.randint(264, (2, 9))
    got = cross_entropies(evaluation.LlamaReader(network), windows, 16, 3)
    with torch.inference_mode():
        want = torch.stack([network(row[None], labels=row[None]).loss for row in windows])
    torch.testing.assert_close(got.mean(1), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["ours", "llama"])
def test_a_perplexity_is_timed(kind):
    model = tiny.build(tiny.BASED) if kind == "ours" else evaluation.LlamaReader(evaluation.llama(LLAMA, "cpu"))
    row = evaluation.perplexity_row(kind, model, "cpu", windows=4, batch=2, context=16, vocabulary=257)
    assert row["tokens_per_ms"] * row["seconds_for_10_million"] == pytest.approx(1e4)
