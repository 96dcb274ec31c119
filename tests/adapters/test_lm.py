"""The adapter through lm-eval itself: against lm-eval's own `hf` model, over batch sizes, and its results."""

import json

import pytest
import torch
from lm_eval.api.instance import Instance

import our_tasks
import tiny
from recall_evals.adapters.lm import AttentionLM, BasedLM, MambaLM
from recall_evals.adapters.memory import sequence_bytes
from recall_evals.models.errors import ModelError

STEMS = ["The quick brown fox", "A page about Ünïcode → naïve café.", "x", "Report K12.\n\nA. Number:"]
ENDINGS = [" jumps", " runs off", "\nyes", " 510(k)", " é"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: tiny.save(root / name, config) for name, config in tiny.CONFIGS.items()}


def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def ask(lm, kind, arguments):
    return getattr(lm, kind)(requests(kind, arguments), disable_tqdm=True)


@pytest.fixture(scope="module")
def hf(folders, tmp_path_factory):
    """lm-eval's `hf` on the same Mamba weights, in Transformers' own format."""
    from lm_eval.models.huggingface import HFLM
    from transformers import MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

    ours = tiny.build(tiny.MAMBA)
    config = MambaConfig(
        vocab_size=264, hidden_size=64, num_hidden_layers=2, layer_norm_epsilon=1e-5, tie_word_embeddings=True
    )
    theirs = MambaForCausalLM(config).eval()
    theirs.load_state_dict(
        {k.replace("backbone.embedding.", "backbone.embeddings."): v for k, v in ours.state_dict().items()}
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folders["mamba"] / "tokenizer.json"))
    tokenizer.eos_token = tokenizer.pad_token = "<|endoftext|>"
    return HFLM(theirs, tokenizer=tokenizer, batch_size=1, device="cpu", max_length=64)


def test_loglikelihood_equals_lm_evals_hf(folders, hf):
    arguments = [(stem, ending) for stem in STEMS for ending in ENDINGS] + [("", "no context"), ("a" * 100, "b" * 30)]
    want = ask(hf, "loglikelihood", arguments)
    for batch in (1, 8):
        got = ask(MambaLM(str(folders["mamba"]), max_length=64, batch_size=batch), "loglikelihood", arguments)
        for (value, greedy), (theirs, theirs_greedy) in zip(got, want, strict=True):
            assert value == pytest.approx(theirs, abs=2e-3) and greedy == theirs_greedy


def test_rolling_loglikelihood_equals_lm_evals_hf(folders, hf):
    arguments = [("short",), ("x" * 64,), ("Rolling over several windows. " * 12,)]
    lm = BasedLM(str(folders["mamba"]), max_length=64, batch_size=4)
    for got, want in zip(
        ask(lm, "loglikelihood_rolling", arguments), ask(hf, "loglikelihood_rolling", arguments), strict=True
    ):
        assert got == pytest.approx(want, rel=1e-4)


def test_generation_equals_lm_evals_hf(folders, hf):
    arguments = [
        (stem * n, {"until": [stop], "max_gen_toks": 12}) for stem in STEMS for n in (1, 9) for stop in ["e", "t"]
    ]
    got = ask(MambaLM(str(folders["mamba"]), max_length=64, batch_size=5), "generate_until", arguments)
    assert got == ask(hf, "generate_until", arguments)


@pytest.mark.parametrize("name", sorted(tiny.CONFIGS))
def test_texts_and_scores_do_not_depend_on_the_batch(folders, name):
    generate = [(stem * n, {"until": ["\n", "e"], "max_gen_toks": 9}) for stem in STEMS for n in (1, 2, 3)]
    generate += [
        (s, {"until": [], "max_gen_toks": 9, "do_sample": True, "temperature": 4.0, "top_k": 60}) for s in STEMS * 2
    ]
    score = [(stem, ending) for stem in STEMS for ending in ENDINGS]
    first = None
    for batch, options in ((1, {}), (16, {}), (5, {"share_prefixes": False}), ("auto", {"prefill_tokens": 40})):
        lm = BasedLM(str(folders[name]), batch_size=batch, seed=3, **options)
        texts, scores = ask(lm, "generate_until", generate), ask(lm, "loglikelihood", score)
        first = first or (texts, scores)
        assert texts == first[0]
        assert [g for _, g in scores] == [g for _, g in first[1]]
        assert [v for v, _ in scores] == pytest.approx([v for v, _ in first[1]], abs=1e-4)
    assert len(set(first[0][-8:])) > 4, "the same prompt asked again is sampled anew"
    again = ask(BasedLM(str(folders[name]), seed=4), "generate_until", generate)
    assert again[:12] == first[0][:12] and again[12:] != first[0][12:]


def test_jrt_left_pad_mode_reads_pads_as_the_published_runs_did(folders):
    arguments = [
        ("ab", {"until": ["\n"], "max_gen_toks": 6}),
        ("longer than the encoder's window", {"until": [], "max_gen_toks": 6}),
    ]
    padded = BasedLM(str(folders["jrt"]), left_pad=True)
    texts = ask(padded, "generate_until", arguments)
    model = padded.model
    tokens, pads = model.left_pad(padded.tok_encode("ab"))
    assert len(tokens) == 24 and sum(pads) == 22
    scores, state = model.prefill(torch.tensor(tokens), [24], pads=torch.tensor(pads))
    ids = []
    for _ in range(6):
        ids.append(int(scores[0, :257].argmax()))
        scores = model.step(torch.tensor(ids[-1:]), state)
    assert texts[0] == padded.tokenizer.decode(ids).split("\n")[0]
    assert texts[1] == ask(BasedLM(str(folders["jrt"])), "generate_until", arguments)[1]


def test_long_prompts_are_cut_on_the_left_and_counted(folders):
    long = "abcdefgh" * 20
    lm = BasedLM(str(folders["based"]), max_length=64)
    got = ask(
        lm,
        "generate_until",
        [(long, {"until": [], "max_gen_toks": 14}), (long[-50:], {"until": [], "max_gen_toks": 14})],
    )
    assert got[0] == got[1], "the last 64 - 14 tokens are kept"
    assert lm.get_model_info()["truncated_prompts"] == 1
    with pytest.raises(ValueError, match="request 0: a prompt of 160 tokens does not fit the 50"):
        ask(
            BasedLM(str(folders["based"]), max_length=64, truncation="error"),
            "generate_until",
            [(long, {"max_gen_toks": 14})],
        )


def test_through_simple_evaluate_with_results_and_cache(folders, tmp_path, monkeypatch):
    data = tmp_path / "data" / "fda"
    data.mkdir(parents=True)
    page = "Device 7 is made of steel. " * 6
    rows = [
        {"doc_id": f"d{i // 4}", "key": k, "value": "steel", "text": f"{page}{i // 4}\n{k}:"}
        for i, k in enumerate(["Material", "Maker", "Year", "Type"] * 3)
    ]
    (data / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("RECALL_EVALS_DATA", str(data.parent))

    def evaluate(**options):
        model = BasedLM(str(folders["based"]), batch_size=options.pop("batch", 1))
        return our_tasks.evaluate(["local_fda"], model, random_seed=0, bootstrap_iters=10, **options)

    one, many = evaluate(), evaluate(batch=16)

    def texts(results):
        return [sample["resps"] for sample in results["samples"]["local_fda"]]

    assert texts(one) == texts(many)
    config = many["config"]
    assert config["architecture"] == "based" and config["dtype"] == "float32"
    assert config["parameters"] == sum(p.numel() for p in tiny.build(tiny.BASED).parameters())
    assert 0 < config["prompt_tokens_computed"] < config["prompt_tokens"] / 2
    assert config["state_bytes"] == sequence_bytes(tiny.build(tiny.BASED), 50)
    assert config["prefill_tokens_per_second"] > 0 and config["decode_tokens_per_second"] > 0
    assert len(config["content_hash"]) == len(config["tokenizer_hash"]) == 64
    json.dumps(config, default=str)

    cache = str(tmp_path / "cache")
    assert texts(evaluate(use_cache=cache)) == texts(one)
    cached = evaluate(use_cache=cache)
    assert texts(cached) == texts(one)
    assert cached["config"]["prompt_tokens"] == 0 and cached["config"]["state_bytes"] is None


def test_sums_of_linear_attention_are_stored_in_half_the_bytes(folders):
    requests = [("abcdefgh" * 5 + letter, {"until": [], "max_gen_toks": 40}) for letter in "abc"]
    exact, half = (BasedLM(str(folders["based"]), state_dtype=dtype, batch_size=2) for dtype in (None, "bfloat16"))
    texts = [ask(lm, "generate_until", requests) for lm in (exact, half)]
    kinds = [lm.get_model_info() for lm in (exact, half)]
    assert [kind["state_dtype"] for kind in kinds] == ["float32", "bfloat16"]
    sums = 4 * 153 * 16  # one layer of 4 heads; the normaliser stays in float32
    assert kinds[0]["state_bytes"] - kinds[1]["state_bytes"] == 2 * sums
    assert any(a[:8] == b[:8] for a, b in zip(*texts, strict=True)), "rounded, not wrong"
    with pytest.raises(ValueError, match="state_dtype=bfloat16: a mamba model has no linear attention"):
        BasedLM(str(folders["mamba"]), state_dtype="bfloat16")
    with pytest.raises(ValueError, match="state_dtype='half' is unknown; choose float32 or bfloat16"):
        BasedLM(str(folders["based"]), state_dtype="half")


def test_architecture_is_demanded_by_name(folders):
    assert AttentionLM(str(folders["attention"])).model.architecture == "attention"
    assert BasedLM(str(folders["jrt"])).model.architecture == "jrt"
    with pytest.raises(ValueError, match="is a based model, not mamba"):
        MambaLM(str(folders["based"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype='int8' is unknown"),
        ({"truncation": "right"}, "truncation='right' is unknown"),
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"batch_size": "many"}, "batch_size='many' must be"),
        ({"max_length": 1}, "max_length must be >= 2"),
        ({"left_pad": True}, "only JRT has this mode"),
    ],
)
def test_arguments_are_refused_by_name(folders, options, message):
    with pytest.raises(ValueError, match=message):
        BasedLM(str(folders["based"]), **options)


def test_edges_of_requests(folders):
    lm = BasedLM(str(folders["based"]), max_length=64)
    nothing, moved, plain = ask(lm, "loglikelihood", [("a", ""), (" ", "abc"), ("", " abc")])
    assert nothing == (0.0, True)
    assert moved == plain, "lm-eval moves the space to the continuation; the empty context becomes the end token"
    until = {"until": ["<|endoftext|>"], "max_gen_toks": 5}
    assert ask(lm, "generate_until", [("abc", until)]) == ask(lm, "generate_until", [("abc", until | {"until": []})])
    sampled = [("abc", {"until": [], "max_gen_toks": 9, "do_sample": True, "top_p": 2.0})] * 6
    assert len(set(ask(lm, "generate_until", sampled))) > 1, "temperature 1 where none is named"


def test_learned_positions_bound_the_context(tmp_path):
    folder = tiny.save(tmp_path, tiny.changed(tiny.ATTENTION, n_positions=64))
    with pytest.raises(ValueError, match="give max_length=64"):
        BasedLM(str(folder))
    assert BasedLM(str(folder), max_length=64).max_length == 64


def test_bad_requests_name_the_remedy(folders, tmp_path):
    lm = BasedLM(str(folders["based"]), max_length=16)
    with pytest.raises(ValueError, match="max_gen_toks=16 leaves no room"):
        ask(lm, "generate_until", [("x", {"max_gen_toks": 16})])
    with pytest.raises(ValueError, match="a continuation of 30 tokens does not fit"):
        ask(lm, "loglikelihood", [("x", "y" * 30)])
    narrow = tiny.save(tmp_path / "narrow", tiny.changed(tiny.BASED, vocab_size=100))
    with pytest.raises(ValueError, match="the tokenizer has 257 tokens, the embedding"):
        BasedLM(str(narrow))
    with pytest.raises(ModelError, match="no such folder"):
        BasedLM(str(tmp_path / "nothing"))
