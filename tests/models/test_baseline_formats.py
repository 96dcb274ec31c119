"""H3, Hyena and RWKV-5: their file formats, and whole models against the papers' equations, token by token in float64.

H3 is also held against a golden model of the original code.
"""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import tiny
from recall_evals.adapters.conformance import check_conformance
from recall_evals.adapters.lm import H3LM, RWKVLM, BasedLM, HyenaLM
from recall_evals.models import load_model
from recall_evals.models.errors import CheckpointError, ConfigurationError
from recall_evals.models.h3 import H3

TOKENS = torch.arange(3, 63).reshape(2, 30)
EXACT = {"rtol": 0.0, "atol": 1e-9}


def golden():
    folder = tiny.shared("fixtures/h3_tiny", "h3_tiny: logits and greedy tokens of the original code")
    return folder, load_file(folder / "reference.safetensors")


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-5), (torch.float32, 1.5e-3)])
def test_h3_gives_the_logits_of_the_original(dtype, bound):
    folder, reference = golden()
    model = load_model(folder, dtype=dtype)
    for length in (1, 7, 64, 300):
        logits = model.forward(reference[f"len{length}.input_ids"])
        assert (logits - reference[f"len{length}.logits_f64"]).abs().max() <= bound, f"length {length}"


def test_h3_continues_as_the_original():
    folder, reference = golden()
    model = load_model(folder)
    for length, splits in ((7, (1, 3)), (40, (1, 17, 39))):
        prompt, want = reference[f"gen_len{length}.prompt"], reference[f"gen_len{length}.cached"]
        rows = len(prompt)
        for split in splits:
            _, state = model.prefill(prompt[:, :split].flatten(), [split] * rows)
            logits, state = model.prefill(prompt[:, split:].flatten(), [length - split] * rows, state)
            tokens = [prompt]
            for _ in range(64):
                tokens.append(logits.argmax(-1, keepdim=True))
                logits = model.step(tokens[-1][:, 0], state)
            assert torch.equal(torch.cat(tokens, 1), want), f"prompt {length} split at {split}"


@pytest.mark.parametrize("name", sorted(tiny.BASELINES))
def test_the_conformance_gate_passes(name, monkeypatch):
    monkeypatch.setattr("recall_evals.adapters.conformance.DRIFT", 60)
    findings = list(check_conformance(tiny.build(tiny.BASELINES[name])))
    assert not [f for f in findings if not f.passed]
    assert [f.difference for f in findings if f.unit == "logits"] == [0] * 5, "the same bits"


@pytest.mark.parametrize(("name", "kind"), [("h3", H3LM), ("hyena", HyenaLM), ("rwkv", RWKVLM)])
def test_lm_eval_has_a_model_of_each_name(name, kind, tmp_path):
    from lm_eval.api.registry import get_model

    folder = str(tiny.save(tmp_path / name, tiny.BASELINES[name]))
    assert get_model(name) is kind
    assert kind(folder, max_length=64, device="cpu").get_model_info()["architecture"] == name
    assert BasedLM(folder, max_length=64, device="cpu").model.architecture == name
    with pytest.raises(ValueError, match=f"is a based model, not {name}"):
        kind("based", device="cpu")


# -- H3's files -----------------------------------------------------------------------------------------------------


def write(folder, config, weights, name="model.pt"):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(weights, folder / name)
    return load_model(folder)


def test_model_pt_plain_from_lightning_and_with_older_names(tmp_path):
    model = tiny.build(tiny.H3)
    weights, want = tiny.tensors(model), model.forward(TOKENS)
    del weights["lm_head.weight"]  # tied
    weights["backbone.layers.1.mixer.rotary_emb.inv_freq"] = torch.ones(4)
    assert torch.equal(write(tmp_path / "plain", tiny.H3, weights).forward(TOKENS), want)

    lightning = {f"model.{name}": t for name, t in weights.items()} | {"loss.weight": torch.ones(1)}
    training = {"pytorch-lightning_version": "1.8.6", "epoch": 3, "state_dict": lightning, "optimizer_states": []}
    assert torch.equal(write(tmp_path / "lightning", tiny.H3, training).forward(TOKENS), want)

    older = {}
    for name, t in weights.items():
        name = name.replace("backbone.embeddings.word_embeddings.", "embedding.").replace(".ln_f.", ".norm.")
        older[name.replace("backbone.", "s4seq.encoder.")] = t
    assert torch.equal(write(tmp_path / "older", tiny.H3, older).forward(TOKENS), want)


def test_norms_after_their_sublayer_are_moved(tmp_path):
    model = tiny.build(tiny.H3)
    weights = tiny.tensors(model)
    order = [f"backbone.layers.{i}.norm{n}" for i in range(3) for n in (1, 2)] + ["backbone.ln_f"]
    moved = ["backbone.ln_0", *order[:-1]]
    norms = {f"{new}.{kind}": weights.pop(f"{old}.{kind}") for old, new in zip(order, moved, strict=True)
             for kind in ("weight", "bias")}  # fmt: skip
    assert torch.equal(write(tmp_path, tiny.H3, weights | norms).forward(TOKENS), model.forward(TOKENS))


def test_rates_and_phases_stay_wide_in_half_precision(tmp_path):
    folder = tiny.save(tmp_path, tiny.H3)
    for model in (load_model(folder, dtype=torch.bfloat16), tiny.build(tiny.H3).to(torch.bfloat16)):
        mixer = model.get_submodule("backbone.layers.0.mixer")
        assert isinstance(mixer, H3)
        assert {p.dtype for p in mixer.kernel.parameters()} == {torch.float32}
        assert {p.dtype for p in mixer.q_proj.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load_model(folder, dtype=torch.float64).parameters()} == {torch.float64}


def test_what_is_computed_from_weights_follows_them():
    model = tiny.build(tiny.H3)
    before = model.forward(TOKENS)
    assert torch.equal(model.forward(TOKENS), before)
    with torch.no_grad():
        model.get_submodule("backbone.layers.0.mixer.kernel.kernel").log_dt.add_(1)
    assert not torch.allclose(model.forward(TOKENS), before)


# -- the papers' equations ------------------------------------------------------------------------------------------


def norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def affine(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def rwkv_logits(w: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """One sequence, a token at a time."""
    x0 = torch.zeros(64, dtype=torch.float64)
    last = [[x0, x0] for _ in range(2)]
    states = [torch.zeros(4, 16, 16, dtype=torch.float64) for _ in range(2)]
    scores = []
    for token in tokens:
        x = norm(w["rwkv.embeddings.weight"][token], w, "rwkv.blocks.0.pre_ln")
        for i in range(2):

            def mixed(part: str, c: str, now: Tensor, before: Tensor, i: int = i) -> Tensor:
                mu = w[f"rwkv.blocks.{i}.{part}.time_mix_{c}"].flatten()
                return affine(mu * now + (1 - mu) * before, w, f"rwkv.blocks.{i}.{part}.{c}")

            a, before = norm(x, w, f"rwkv.blocks.{i}.ln1"), last[i][0]
            r, k, v, g = (mixed("attention", c, a, before) for c in ("receptance", "key", "value", "gate"))
            heads = []
            for h in range(4):
                part = slice(16 * h, 16 * h + 16)
                added = torch.outer(k[part], v[part])
                omega, u = (w[f"rwkv.blocks.{i}.attention.time_{c}"][h] for c in ("decay", "faaaa"))
                y = r[part] @ (states[i][h] + u[:, None] * added)
                states[i][h] = (-omega.exp()).exp()[:, None] * states[i][h] + added
                heads.append(F.layer_norm(y / 8, (16,)))
            ln = f"rwkv.blocks.{i}.attention.ln_x"
            y = torch.cat(heads) * w[f"{ln}.weight"] + w[f"{ln}.bias"]
            x = x + affine(y * F.silu(g), w, f"rwkv.blocks.{i}.attention.output")
            last[i][0] = a
            f, before = norm(x, w, f"rwkv.blocks.{i}.ln2"), last[i][1]
            hidden = mixed("feed_forward", "key", f, before).relu() ** 2
            gate = mixed("feed_forward", "receptance", f, before).sigmoid()
            x = x + gate * affine(hidden, w, f"rwkv.blocks.{i}.feed_forward.value")
            last[i][1] = f
        scores.append(affine(norm(x, w, "rwkv.ln_out"), w, "head"))
    return torch.stack(scores)


RWKV_NAMES = """
attention.gate.weight attention.key.weight attention.ln_x.bias attention.ln_x.weight attention.output.weight
attention.receptance.weight attention.time_decay attention.time_faaaa attention.time_mix_gate attention.time_mix_key
attention.time_mix_receptance attention.time_mix_value attention.value.weight feed_forward.key.weight
feed_forward.receptance.weight feed_forward.time_mix_key feed_forward.time_mix_receptance feed_forward.value.weight
ln1.bias ln1.weight ln2.bias ln2.weight
"""


def test_rwkv_in_its_published_layout(tmp_path):
    weights = {
        ("head.weight" if n == "lm_head.weight" else n): t for n, t in tiny.tensors(tiny.build(tiny.RWKV)).items()
    }
    names = {f"rwkv.blocks.{i}.{name}" for i in range(2) for name in RWKV_NAMES.split()}
    names |= {"rwkv.embeddings.weight", "rwkv.blocks.0.pre_ln.weight", "rwkv.blocks.0.pre_ln.bias"}
    assert set(weights) == names | {"rwkv.ln_out.weight", "rwkv.ln_out.bias", "head.weight"}
    assert weights["rwkv.blocks.0.attention.time_mix_key"].shape == (1, 1, 64)
    assert weights["rwkv.blocks.0.feed_forward.key.weight"].shape == (224, 64), "3.5 times the width"
    config = tiny.RWKV | {"architectures": ["Rwkv5ForCausalLM"], "attention_hidden_size": 64, "rescale_every": 6}
    write(tmp_path, config, weights, "pytorch_model.bin")
    model = load_model(tmp_path, dtype=torch.float64)
    exact = {name: t.double() for name, t in weights.items()}
    torch.testing.assert_close(model.forward(TOKENS)[1], rwkv_logits(exact, TOKENS[1]), **EXACT)


def hyena_logits(w: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """One sequence, every sum written out."""
    x = w["backbone.embeddings.word_embeddings.weight"][tokens]
    n = len(tokens)
    for i in range(2):
        mixer = f"backbone.layers.{i}.mixer"
        u = affine(norm(x, w, f"backbone.layers.{i}.norm1"), w, f"{mixer}.in_proj")
        padded = F.pad(u, (0, 0, 2, 0))
        taps = w[f"{mixer}.short_filter.weight"][:, 0]
        u = sum(padded[lag : lag + n] * taps[:, lag] for lag in range(3)) + w[f"{mixer}.short_filter.bias"]
        x0, x1, v = u.split(64, dim=-1)
        h = torch.zeros(n, 64, dtype=torch.float64)
        for t in range(n):
            angles = 2 * math.pi * t / 512 * torch.tensor([1e-4, 1.0], dtype=torch.float64)
            z = torch.cat([torch.tensor([t / 511], dtype=torch.float64), angles.cos(), -angles.sin()])
            for layer in range(3):
                z = (10 * affine(z, w, f"{mixer}.filter_fn.implicit_filter.{2 * layer}")).sin()
            rates = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, 64, dtype=torch.float64).abs()
            h[t] = affine(z, w, f"{mixer}.filter_fn.implicit_filter.6") * torch.exp(-t / 511 * rates)
        p = x1 * v
        y = torch.stack([(h[: t + 1].flip(0) * p[: t + 1]).sum(0) for t in range(n)])
        x = x + affine(x0 * (y + w[f"{mixer}.filter_fn.bias"] * p), w, f"{mixer}.out_proj")
        hidden = affine(norm(x, w, f"backbone.layers.{i}.norm2"), w, f"backbone.layers.{i}.mlp.fc1")
        x = x + affine(F.gelu(hidden, approximate="tanh"), w, f"backbone.layers.{i}.mlp.fc2")
    return norm(x, w, "backbone.ln_f") @ w["lm_head.weight"].T


def test_hyena_in_its_published_layout(tmp_path):
    model = tiny.build(tiny.HYENA)
    weights = tiny.tensors(model)
    filter_fn = "backbone.layers.0.mixer.filter_fn."
    assert {n.removeprefix(filter_fn): list(t.shape) for n, t in weights.items() if n.startswith(filter_fn)} == {
        "bias": [64], "pos_emb.z": [1, 512, 5], "pos_emb.t": [1, 512, 1], "modulation.deltas": [1, 1, 64],
        "implicit_filter.0.weight": [16, 5], "implicit_filter.0.bias": [16], "implicit_filter.1.freq": [1, 16],
        "implicit_filter.2.weight": [16, 16], "implicit_filter.2.bias": [16], "implicit_filter.3.freq": [1, 16],
        "implicit_filter.4.weight": [16, 16], "implicit_filter.4.bias": [16], "implicit_filter.5.freq": [1, 16],
        "implicit_filter.6.weight": [64, 16],
    }  # fmt: skip
    write(tmp_path, tiny.HYENA, {f"model.{name}": t for name, t in weights.items()})
    got = load_model(tmp_path, dtype=torch.float64).forward(TOKENS)[0]
    # The features of the positions are stored in float32.
    torch.testing.assert_close(
        got, hyena_logits({n: t.double() for n, t in weights.items()}, TOKENS[0]), rtol=0, atol=1e-3
    )


def test_hyenas_state_is_its_history():
    model = tiny.build(tiny.HYENA)
    _, state = model.prefill(torch.arange(40), [40])
    assert state.grows and state.layers[0]["cached_inputs"].shape == (1, 40, 64)
    assert state.nbytes == 2 * 4 * (2 * 192 + 40 * 64) + 8
    with pytest.raises(ValueError, match="513 tokens is longer than the filter, 512"):
        model.prefill(torch.zeros(513, dtype=torch.int64), [513])
    assert model.positions == 512


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("h3", {"ssm_cfg": {"measure": "legs"}}, "ssm_cfg: measure 'legs' is not supported, only diag-lin"),
        ("h3", {"ssm_cfg": {"head_dim": 8}}, "ssm_cfg: head_dim 8: only 1"),
        ("h3", {"ssm_cfg": {"d_state": 15}}, "ssm_cfg: d_state 15 must be even"),
        ("h3", {"attn_layer_idx": [3]}, "field 'attn_layer_idx' must list layers from 0 to 2, got [3]"),
        ("h3", {"attn_cfg": {"num_heads": 5}}, "attn_cfg: num_heads 5 must divide d_model 64"),
        ("h3", {"attn_cfg": {"num_heads": 4, "rotary_emb_dim": 32}}, "heads of at least rotary_emb_dim 32"),
        ("h3", {"d_inner": "wide"}, "field 'd_inner' must be a whole number"),
        ("hyena", {"layer": None}, "field 'layer' is missing"),
        ("hyena", {"layer": {"l_max": 512, "order": 3}}, "layer: order 3 is not supported, only 2"),
        ("hyena", {"layer": {"l_max": 512, "emb_dim": 4}}, "layer: emb_dim 4 must be odd and at least 3"),
        ("hyena", {"layer": {"emb_dim": 5}}, "layer: field 'l_max' is missing"),
        ("rwkv", {"head_size": 24}, "hidden_size 64 must be a multiple of head_size 24"),
        ("rwkv", {"attention_hidden_size": 128}, "equal attention_hidden_size 128"),
        ("rwkv", {"num_hidden_layers": 0}, "field 'num_hidden_layers' must be a whole number from 1"),
        ("rwkv", {"head_size": 32}, "wrong shape: rwkv.blocks.0.attention.time_decay is [4, 16]"),
    ],
)
def test_bad_configurations(name, changes, message, tmp_path):
    folder = tiny.save(tmp_path, tiny.BASELINES[name])
    (folder / "config.json").write_text(json.dumps(tiny.changed(tiny.BASELINES[name], **changes)))
    with pytest.raises((ConfigurationError, CheckpointError)) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value) and message in str(caught.value)
