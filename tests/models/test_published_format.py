"""The published formats: golden models of the original code, and every trap of their files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from recall_evals.models import load_model

FLOAT32 = {"attn_tiny": 2e-4, "based_tiny": 2e-4, "jrt_tiny": 2e-4, "mamba_tiny": 1.5e-3}


def golden(name):
    folder = tiny.shared(f"fixtures/{name}", f"{name}: logits and greedy tokens of the original code")
    return folder, load_file(folder / "reference.safetensors")


@pytest.mark.parametrize("name", tiny.FIXTURES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-5), (torch.float32, None)])
def test_logits_of_the_original(name, dtype, bound):
    folder, reference = golden(name)
    model = load_model(folder, dtype=dtype)
    for length in (1, 7, 64, 300):
        logits = model.forward(reference[f"len{length}.input_ids"])
        error = (logits - reference[f"len{length}.logits_f64"]).abs().max().item()
        assert error <= (bound or FLOAT32[name]), f"length {length}"


@pytest.mark.parametrize("name", tiny.FIXTURES)
def test_64_greedy_tokens_for_every_split(name):
    """All splits at once, as the rows of one batch; what is not split is a batch of its own."""
    folder, reference = golden(name)
    model = load_model(folder)
    for length in (7, 40):
        prompts, want = reference[f"gen_len{length}.prompt"], reference[f"gen_len{length}.cached"]
        splits = [s for s in range(1, length) if s >= model.shortest_split]
        for parts in filter(None, ([length], splits)):
            rows = [(i, split) for split in parts for i in range(len(prompts))]
            sizes = [split for _, split in rows]
            logits, state = model.prefill(torch.cat([prompts[i, :split] for i, split in rows]), sizes)
            if parts == splits:
                rest = torch.cat([prompts[i, split:] for i, split in rows])
                logits, state = model.prefill(rest, [length - size for size in sizes], state)
            tokens = [prompts[[i for i, _ in rows]]]
            for _ in range(64):
                tokens.append(logits.argmax(-1, keepdim=True))
                logits = model.step(tokens[-1][:, 0], state)
            for (i, split), got in zip(rows, torch.cat(tokens, 1), strict=True):
                assert torch.equal(got, want[i]), f"prompt {length}, row {i}, split at {split}"


@pytest.mark.parametrize("name", ["attn_tiny", "based_tiny", "mamba_tiny"])
def test_64_greedy_tokens_by_full_recompute(name):
    folder, reference = golden(name)
    model = load_model(folder)
    tokens = reference["gen_len7.prompt"]
    for _ in range(64):
        tokens = torch.cat([tokens, model.forward(tokens)[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(tokens, reference["gen_len7.naive_full"])


def test_jrt_left_pad_mode():
    folder, reference = golden("jrt_tiny")
    model = load_model(folder)
    mask = reference["len7_leftpad.mask"].bool()
    logits = model.forward(reference["len7_leftpad.input_ids"], ~mask)
    assert (logits - reference["len7_leftpad.logits_f32"]).abs().max() < 2e-4

    for length in (7, 40):
        prompts = [model.left_pad(p) for p in reference[f"gen_len{length}.prompt"].tolist()]
        tokens, pads = (torch.tensor([row[i] for row in prompts]) for i in (0, 1))
        scores, state = model.prefill(tokens.flatten(), [tokens.shape[1]] * len(tokens), pads=pads.flatten())
        assert (scores - reference[f"gen_len{length}.left_pad_scores_step0"]).abs().max() < 2e-4
        for step in range(64):
            tokens = torch.cat([tokens, scores.argmax(-1, keepdim=True)], 1)
            if step == 63:
                assert (scores - reference[f"gen_len{length}.left_pad_scores_step63"]).abs().max() < 2e-4
            scores = model.step(tokens[:, -1], state)
        assert torch.equal(tokens, reference[f"gen_len{length}.left_pad_sequences"])


def test_mamba_agrees_with_transformers(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    ours = tiny.build(tiny.MAMBA)
    config = MambaConfig(
        vocab_size=264, hidden_size=64, num_hidden_layers=2, layer_norm_epsilon=1e-5, tie_word_embeddings=True
    )
    theirs = MambaForCausalLM(config).eval()
    renamed = {k.replace("backbone.embedding.", "backbone.embeddings."): v for k, v in ours.state_dict().items()}
    theirs.load_state_dict(renamed)
    tokens = torch.randint(0, 257, (3, 50), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (theirs(tokens).logits - ours.forward(tokens)).abs().max() < 1e-4


def test_state_holds_what_the_design_says():
    model = tiny.build(tiny.BASED)
    _, state = model.prefill(torch.arange(40), [40])
    kv, ring, conv = state.layers[1]["kv"], state.layers[2]["ring_keys"], state.layers[0]["inputs"]
    assert kv.shape == (1, 4, 153, 16), "packed symmetric features"
    assert state.layers[1]["recent_keys"].shape == (1, 16, 4, 16), "the tokens since the last fold"
    assert ring.shape == (1, 4, 16 // 2 + 1, 16), "exactly the keys of the window"
    assert conv.shape == (1, 2, 128), "the last inputs of a convolution of three taps"
    assert state.nbytes == sum(t.nbytes for layer in state.layers for t in layer.values()) + 8


# -- the traps of the files; what is refused: test_bad_checkpoints.py -----------------------------------------------

TOKENS = torch.arange(30)[None]


def same(folder, model):
    """The folder loads to a model with the same logits."""
    torch.testing.assert_close(load_model(folder).forward(TOKENS), model.forward(TOKENS), rtol=0, atol=1e-6)


def test_prefix_junk_and_a_pickle(tmp_path):
    model = tiny.build(tiny.BASED)
    weights = {f"model.{name}": t for name, t in tiny.tensors(model).items()}
    weights["val_metrics.num-tokens.count"] = torch.tensor(3)
    weights["model.transformer.decay.decay"] = torch.zeros(4)
    (tmp_path / "config.json").write_text(json.dumps(tiny.changed(tiny.BASED, fixed_decay=True)))
    torch.save(weights, tmp_path / "pytorch_model.bin")
    same(tmp_path, model)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_and_either_tied_matrix(tmp_path, kind):
    model = tiny.build(tiny.BASED)
    weights = tiny.tensors(model)
    del weights["lm_head.weight" if kind == "bin" else "transformer.embeddings.word_embeddings.weight"]
    names = sorted(weights)
    stem = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    parts = {f"part-{i}.{kind}": names[i::2] for i in range(2)}
    for file, part in parts.items():
        (save_file if kind == "safetensors" else torch.save)({n: weights[n] for n in part}, tmp_path / file)
    index = {"weight_map": {n: file for file, part in parts.items() for n in part}}
    (tmp_path / f"{stem}.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(tiny.BASED))
    same(tmp_path, model)


def test_safetensors_is_preferred(tmp_path):
    tiny.save(tmp_path, tiny.BASED)
    torch.save({"nonsense": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    same(tmp_path, tiny.build(tiny.BASED))


def test_legacy_names(tmp_path):
    model = tiny.build(tiny.BASED)
    config = tiny.changed(tiny.BASED)
    config["mixer"]["_target_"] = "src.models.mixers.base_conv.BaseConvWithSiLU4"
    config["alt_mixer"]["_target_"] = "src.models.mixers.linear_attention.LinearAttention"
    config["alt_mixer"]["feature_map"]["_target_"] = "src.models.mixers.linear_attention.TaylorExp"
    config["alt_mixer_2"] |= {"_target_": "src.models.mixers.slide_fa2.SlidingsMHA", "do_update": True}
    weights = {n.replace("mixer.conv.conv", "mixer.conv1.conv1"): t for n, t in tiny.tensors(model).items()}
    same(tiny.save(tmp_path, config, weights), model)


def test_norms_after_their_sublayer_are_shifted(tmp_path):
    model = tiny.build(tiny.BASED)
    weights = tiny.tensors(model)
    last = tiny.BASED["n_layer"] - 1
    moved = {"transformer.ln_0.weight": weights.pop("transformer.layers.0.norm1.weight")}
    for layer in range(last + 1):
        following = f"transformer.layers.{layer + 1}.norm1.weight" if layer < last else "transformer.ln_f.weight"
        moved[f"transformer.layers.{layer}.norm1.weight"] = weights.pop(f"transformer.layers.{layer}.norm2.weight")
        moved[f"transformer.layers.{layer}.norm2.weight"] = weights.pop(following)
    same(tiny.save(tmp_path, tiny.BASED, weights | moved), model)


def test_alt_mixer_2_heads_are_ignored_and_linear_heads_are_not(tmp_path):
    model = tiny.build(tiny.BASED)
    config = tiny.changed(tiny.BASED)
    config["alt_mixer_2"]["num_heads"] = 16
    same(tiny.save(tmp_path / "a", config, tiny.tensors(model)), model)
    config["alt_mixer"]["num_heads"] = 8
    config["alt_mixer"]["feature_dim"] = 8
    other = load_model(tiny.save(tmp_path / "b", config, tiny.tensors(model)))
    assert other.transformer.layers[1].mixer.head_dim == 8
    assert not torch.allclose(other.forward(TOKENS), model.forward(TOKENS))


def test_mlp_width_comes_from_the_weights(tmp_path):
    narrow = tiny.build(tiny.changed(tiny.ATTENTION, n_inner=256))
    same(tiny.save(tmp_path, tiny.changed(tiny.ATTENTION, n_inner=700), tiny.tensors(narrow)), narrow)


def test_bias_flags_default_to_true():
    config = {k: v for k, v in tiny.BASED.items() if not k.endswith("_bias")}
    names = tiny.build(config).state_dict()
    for name in ("mlp.fc1", "mlp.fc2", "mixer.Wqkv", "mixer.out_proj"):
        assert f"transformer.layers.2.{name}.bias" in names
    assert "transformer.layers.1.mixer.out_proj.bias" not in names, "linear attention has none"
    assert "transformer.layers.0.mixer.conv.conv.bias" not in names


def test_a_convolution_bias_in_the_file_is_used(tmp_path):
    weights = tiny.tensors(tiny.build(tiny.BASED))
    for layer in (0, 3):
        weights[f"transformer.layers.{layer}.mixer.conv.conv.bias"] = torch.ones(128)
    model = load_model(tiny.save(tmp_path, tiny.BASED, weights))
    assert not torch.allclose(model.forward(TOKENS), tiny.build(tiny.BASED).forward(TOKENS))


def test_missing_mixer_is_plain_attention_and_layer_lists_have_their_order(tmp_path):
    config = tiny.changed(tiny.BASED, alt_mixer=None, alt_mixer_layers=[1, 2])
    model = load_model(tiny.save(tmp_path, config))
    kinds = [type(block.mixer).__name__ for block in model.transformer.layers]
    assert kinds == ["BaseConv", "MHA", "SlidingAttention", "BaseConv"]


def test_odd_rotary_dimension():
    model = tiny.build(tiny.changed(tiny.ATTENTION, n_embd=40, n_head=4, rotary_emb_fraction=0.5))
    assert model.settings.rotary_dim == 5
    scores, state = model.prefill(TOKENS[0], [30])
    torch.testing.assert_close(scores, model.forward(TOKENS)[:, -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["swiglu", "geglu", "glu"])
@pytest.mark.parametrize("mlp_type", ["base", "alt"])
def test_gated_mlps(activation, mlp_type):
    model = tiny.build(tiny.changed(tiny.ATTENTION, activation_function=activation, mlp_type=mlp_type, ff_mult=4))
    mlp, x = model.transformer.layers[0].mlp, torch.randn(3, 64)
    act = {
        "swiglu": lambda t: t * torch.sigmoid(t),
        "geglu": lambda t: t * 0.5 * (1 + torch.erf(t / 2**0.5)),
        "glu": torch.sigmoid,
    }[activation]
    if mlp_type == "alt":
        want = (act(x @ mlp.fc1.weight.T) * (x @ mlp.fc3.weight.T)) @ mlp.fc2.weight.T
        assert mlp.fc1.weight.shape[0] == 256  # int(2 * 64 * 4 / 3) rounded up
    else:
        first, second = (x @ mlp.fc1.weight.T).chunk(2, -1)
        want = (first * act(second)) @ mlp.fc2.weight.T
    torch.testing.assert_close(mlp(x), want, rtol=1e-5, atol=1e-5)


def test_attention_scale_flags():
    config = tiny.changed(tiny.ATTENTION, scale_attn_weights=False, scale_attn_by_inverse_layer_idx=True)
    assert [block.mixer.scale for block in tiny.build(config).transformer.layers] == [1.0, 0.5]


def test_rows_of_the_embedding_come_from_the_weights(tmp_path):
    for config in (tiny.BASED, tiny.MAMBA):
        model = tiny.build(tiny.changed(config, pad_vocab_size_multiple=16))
        assert model.embedding.num_embeddings == 272
        unpadded = tiny.changed(config, pad_vocab_size_multiple=1)
        same(tiny.save(tmp_path / model.architecture, unpadded, tiny.tensors(model)), model)


def test_learned_positions_and_layer_norm():
    model = tiny.build(tiny.changed(tiny.ATTENTION, n_positions=64, rms_norm=False, rotary_emb_fraction=0))
    assert "transformer.ln_f.bias" in model.state_dict()
    scores, state = model.prefill(TOKENS[0, :20], [20])
    scores = model.step(TOKENS[0, 20:21], state)
    torch.testing.assert_close(scores[0], model.forward(TOKENS)[0, 20], rtol=0, atol=1e-5)


def test_decay_is_used_only_with_its_projection():
    config = tiny.changed(tiny.BASED, fixed_decay=True, decay_const=-2)
    assert torch.equal(tiny.build(config).forward(TOKENS), tiny.build(tiny.BASED).forward(TOKENS))
    config["alt_mixer"]["use_decay_proj"] = True
    model = tiny.build(config)
    assert model.transformer.layers[1].mixer.gamma == [1 - 2.0 ** (-2 - h) for h in range(4)]
    scores, state = model.prefill(TOKENS[0, :20], [20])
    torch.testing.assert_close(model.step(TOKENS[0, 20:21], state)[0], model.forward(TOKENS)[0, 20], rtol=0, atol=1e-5)


def test_only_jrt_narrows_its_two_wide_windows():
    for base, window in ((tiny.JRT, 129), (tiny.BASED, 2049)):
        config = tiny.changed(base, n_layer=8, alt_mixer_2_layers=[6, 7])
        config["alt_mixer_2"]["window_size"] = 4096
        layers = tiny.build(config).transformer.layers
        assert (layers[6].mixer.window, layers[7].mixer.window) == (2049, window)
