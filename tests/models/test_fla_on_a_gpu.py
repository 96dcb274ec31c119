"""flash-linear-attention's classes through `--model recall`, on a GPU: asked as those of Transformers are in
test_transformers_models.py.

Its kernels are told to multiply float32 as it is, not in TF32. They still sum a chunk in another order than single
steps do, which came to 3e-5 of the largest score (RWKV-7's): so equality is to 1e-4 of it here, and to 1e-3 of a
log-likelihood; a choice whose two best scores lie nearer than that may be either. Mamba-3's kernel for prompts rounds
to bfloat16 whatever it is given, its steps don't: they came to 2e-2 of each other (5e-7 with the rounding taken out of
the kernel), so equality is to 5e-2 there; a state that is not gone on from differs by 0.4.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

import causal
from recall_evals.adapters.causal_lm import RecallLM
from recall_evals.models import load_model
from recall_evals.models.cache_forms import HistoryForm
from recall_evals.models.transformers_model import TransformersModel

if not (torch.cuda.is_available() and find_spec("fla")):
    pytest.skip(
        "no GPU, or no flash-linear-attention: would have checked GLA, RetNet, DeltaNet, Gated DeltaNet, RWKV-6, -7, "
        "Mamba-2 and -3: prefill + step, forks, lengths packed by cu_seqlens, and answers like lm-eval's hf",
        allow_module_level=True,
    )

os.environ["TRITON_F32_DEFAULT"] = "ieee"  # read as kernels are compiled; unset, products of float32 have 10 bits

WIDTHS: dict[str, Any] = {"vocab_size": 264, "hidden_size": 128, "num_hidden_layers": 2, "initializer_range": 0.1}
WIDTHS |= {"bos_token_id": causal.END, "eos_token_id": causal.END, "pad_token_id": None}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gla": ("GLA", {"num_heads": 2}),
    "retnet": ("RetNet", {"num_heads": 2}),
    "delta_net": ("DeltaNet", {"num_heads": 2}),
    "gated_deltanet": ("GatedDeltaNet", {"num_heads": 2, "head_dim": 32}),
    "rwkv6": ("RWKV6", {"num_heads": 2}),
    "rwkv7": ("RWKV7", {"head_dim": 64}),
    "mamba2": ("Mamba2", {"head_dim": 32, "num_heads": 8, "state_size": 32, "expand": 2}),
    "mamba3": ("Mamba3", {"head_dim": 64, "num_heads": 8, "state_size": 64, "expand": 4}),
}
PACKED = {"gla", "delta_net", "gated_deltanet"}  # variable lengths and states in one call; RWKV-7 in half precision
STEMS = ["The quick brown fox", "A page about naïve café. " * 6, "Report K12.\n\nA. Number:" * 3]
SINGLE = {"mamba2", "mamba3"}  # go on from a state by single steps only
# The library's own answers come from these kernels: DeltaNet's for chunks refuse float32, and Gated DeltaNet's multiply
# in TF32 whatever they are told (2.5e-4 of the largest score), as they do wherever gradients are on.
OWN_KERNELS = {name: {"attn_mode": "fused_recurrent"} for name in ("delta_net", "gated_deltanet")}


def build(name: str) -> Any:
    import fla.models

    if name == "mamba3" and not find_spec("mamba_ssm"):
        pytest.skip("Mamba-3 runs in kernels of mamba-ssm, which is not installed")
    kind, fields = CONFIGS[name]
    torch.manual_seed(0)
    config = getattr(fla.models, f"{kind}Config")(**WIDTHS, **fields, **OWN_KERNELS.get(name, {}))
    model = getattr(fla.models, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() >= 2 and not p.any():  # RWKV's classes begin with outputs of 0, which hide what went in
                p.normal_(std=0.1)
    return model.eval().requires_grad_(False).cuda()


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def model(request):
    wrapped = TransformersModel(build(request.param))
    print(f"\n{request.param}: {wrapped.network.abilities}, {wrapped.limits or 'no limits'}")
    return wrapped


def prompts(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 257, (n,), generator=generator).cuda() for n in lengths]


def exactness(name: str) -> float:
    return 5e-2 if name == "mamba3" else 1e-4


def near(model: TransformersModel, got: torch.Tensor, want: torch.Tensor) -> None:
    scale = want.abs().max().item()
    torch.testing.assert_close(got, want, rtol=0.0, atol=exactness(model.architecture) * scale)


def test_nothing_is_given_up(model):
    """A library's cache that stops going on exactly shows here, though answers stay right."""
    given_up = [limit for limit in model.limits if "all are read again" in limit]
    if model.architecture == "mamba3" and not find_spec("cutlass"):
        assert "Install `nvidia-cutlass-dsl`" in given_up[0], "single steps run in a kernel that is not installed"
        return
    assert not given_up
    assert any("round to bfloat16" in limit for limit in model.limits) == (model.architecture == "mamba3")
    if model.architecture in PACKED:
        assert model.network.abilities.packs and model.shares


@torch.no_grad()
def test_prefill_and_step_are_what_the_library_computes_at_once(model):
    (tokens,) = prompts(150)
    want = model.network.causal(input_ids=tokens[None], use_cache=False).logits[0]
    for split in (1, 30, 100):  # read in one kernel up to 64 tokens, in another from there on
        scores, state = model.prefill(tokens[:split], [split])
        near(model, scores[0], want[split - 1])
        scores, state = model.prefill(tokens[split : split + 40], [40], state)
        near(model, scores[0], want[split + 39])
        for i in range(split + 40, split + 46):
            near(model, model.step(tokens[i : i + 1], state)[0], want[i])


def test_sequences_of_any_lengths_are_answered_as_alone(model):
    first, rest = prompts(30, 12, 90, 30), prompts(3, 70, 1, 3)
    scores, state = model.prefill(torch.cat(first), [len(p) for p in first])
    before = [{name: t.clone() for name, t in layer.items()} for layer in state.layers]
    more, after = model.prefill(torch.cat(rest), [len(p) for p in rest], state)
    for layer, old in zip(state.layers, before, strict=True):
        assert all(torch.equal(layer[name], t) for name, t in old.items()), "the state given is left as it was"
    fork = after.select([3, 1, 1, 0])
    stepped = [model.step(torch.tensor([5, 6, 7, 8]).cuda() + i, fork) for i in range(3)]
    for i in range(4):
        one, alone = model.prefill(first[i], [len(first[i])])
        near(model, scores[i], one[0])
        near(model, more[i], model.prefill(rest[i], [len(rest[i])], alone)[0][0])
    for row, source in enumerate([3, 1, 1, 0]):
        alone = model.prefill(torch.cat([first[source], rest[source]]), [len(first[source]) + len(rest[source])])[1]
        for i, got in enumerate(stepped):
            near(model, model.step(torch.tensor([5 + row + i]).cuda(), alone)[0], got[row])


def test_a_state_does_not_grow(model):
    if isinstance(model.network.form, HistoryForm):
        pytest.skip("what is kept is the tokens; would check that a state does not grow")
    sizes = [model.prefill(p, [len(p)])[1].nbytes for p in prompts(30, 120)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_answers_are_those_of_lm_evals_hf(name, tmp_path):
    """Mamba-3's texts are those of its scores: its library's prompts leave a state that its own steps refuse."""
    from lm_eval.models.huggingface import HFLM

    folder, tie = causal.save(tmp_path / name, build(name)), 3e-2 if name == "mamba3" else 1e-3
    generate = [(stem + end, {"until": ["e"], "max_gen_toks": 8}) for stem in STEMS for end in ("", "b")]
    score = [(stem, end) for stem in STEMS for end in (" jumps", " runs off", "\nyes")]
    hf = HFLM(str(folder), batch_size=1, device="cuda", dtype="float32", max_length=256)
    sure = [choices(hf, prompt, 8, tie) for prompt, _ in generate]
    texts = [text for text, _ in sure] if name == "mamba3" else ask(hf, "generate_until", generate)
    scores = [value for value, _ in ask(hf, "loglikelihood", score)]
    assert sum(whole for _, whole in sure) >= 3, "near ties are few"
    for batch_size in (1, 4):
        lm = RecallLM(str(folder), batch_size=batch_size, device="cuda", dtype="float32", max_length=256)
        values = [value for value, _ in ask(lm, "loglikelihood", score)]
        mine = ask(lm, "generate_until", generate)
        if name != "mamba3" or find_spec("cutlass"):
            assert not any("all are read again" in limit for limit in lm.model.limits), "answered from states"
        same = sum(a == b for a, b in zip(mine, texts, strict=True))
        worst = max(abs(a - b) for a, b in zip(values, scores, strict=True))
        print(f"\n{name}: {same} of {len(texts)} texts as hf's, log-likelihoods within {worst:.1g}")
        assert values == [pytest.approx(x, abs=tie) for x in scores]
        for text, its, (certain, whole) in zip(mine, texts, sure, strict=True):
            assert text == its if whole else text.startswith(certain) and its.startswith(certain)


@torch.no_grad()
def test_mamba_2_runs_in_kernels_where_they_are_and_answers_as_without(tmp_path):
    """Its prompts and steps, in float32, against Transformers' class in PyTorch."""
    import transformers
    from fla.layers.mamba2 import is_fast_path_available

    folder, (tokens,) = causal.save(tmp_path / "mamba2", build("mamba2")), prompts(150)
    model = load_model(str(folder), device="cuda")
    assert type(model.network.causal).__module__.startswith("fla." if is_fast_path_available else "transformers.")
    plain = transformers.Mamba2ForCausalLM.from_pretrained(folder, rescale_prenorm_residual=False).cuda().eval()
    want = plain(input_ids=tokens[None], use_cache=False).logits[0]
    scores, state = model.prefill(tokens[:100], [100])
    near(model, scores[0], want[99])
    for i in range(100, 150):
        near(model, model.step(tokens[i : i + 1], state)[0], want[i])


@torch.no_grad()
def choices(hf: Any, prompt: str, most: int, tie: float) -> tuple[str, bool]:
    """The greedy text of a model that reads all again for each token, and whether no choice in it was within `tie`.

    Otherwise the text ends before the first of them.
    """
    tokens, new = torch.tensor([hf.tok_encode(prompt)]).cuda(), list[int]()
    while len(new) < most and (not new or new[-1] != causal.END):
        (first, second), (best, _) = hf.model(tokens, use_cache=False).logits[0, -1].float().topk(2)
        if first - second < tie:
            return hf.tok_decode(new).split("e")[0].rstrip("\ufffd"), False
        new.append(int(best))
        tokens = torch.cat([tokens, best[None, None]], dim=1)
    return hf.tok_decode(new).split("e")[0], True


def ask(lm: Any, kind: str, arguments: list[tuple]) -> list:
    return getattr(lm, kind)([Instance(kind, {}, args, i) for i, args in enumerate(arguments)], disable_tqdm=True)


@pytest.mark.parametrize("name", ["gla", "rwkv7", "mamba2", "mamba3"])
def test_half_precision_is_answered_in_graphs_as_without(name, tmp_path: Path):
    """Of Mamba-2, some weights are made in float32 whatever the others are."""
    folder = causal.save(tmp_path / name, build(name))
    if name == "mamba3" and not find_spec("cutlass"):
        pytest.skip("Mamba-3's single steps need nvidia-cutlass-dsl; would compare texts in graphs and without")
    lm = RecallLM(str(folder), batch_size=4, device="cuda", dtype="bfloat16", max_length=256)
    assert lm.model.dtype == torch.bfloat16 and lm.model.shares == (name not in SINGLE)
    assert lm.model.network.abilities.packs == (name not in SINGLE)
    assert lm.model.captures, "its steps are held in CUDA graphs"
    asked = [(stem, {"until": [], "max_gen_toks": 8}) for stem in STEMS]
    texts = ask(lm, "generate_until", asked)
    lm.model.captures = False
    assert ask(lm, "generate_until", asked) == texts and len(set(texts)) > 1, "as without graphs"
