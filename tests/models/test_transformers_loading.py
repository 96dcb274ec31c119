"""What `--model recall` refuses, and the remedy it names; and which checkpoints it takes for whose."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MambaForCausalLM, PreTrainedConfig

import causal
import tiny
from recall_evals.models import cache_forms, load_model
from recall_evals.models.checkpoint import find_checkpoint
from recall_evals.models.errors import CheckpointError, ConfigurationError
from recall_evals.models.transformers_loading import load_causal_lm, mended, own_settings
from recall_evals.models.transformers_model import TransformersModel


def written(folder: Path, **config: object) -> Path:
    """A folder of which only the configuration will be read."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return causal.save(tmp_path_factory.mktemp("llama"), causal.build("llama"))


def load(folder: Path, **options):
    return load_causal_lm(find_checkpoint(folder), **options)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "a t5 model is a sequence-to-sequence model.*--model hf"),
        ({"model_type": "vit"}, "no causal language model of model_type 'vit'.*trained to predict the next token"),
        ({"model_type": "brand_new"}, r"knows no model_type 'brand_new'.*pip install -U transformers"),
        ({"model_type": "brand_new", "auto_map": {"AutoConfig": "code.C"}}, "not run unless.*trust_remote_code=true"),
        ({"hidden_size": 3}, "field 'model_type' must name a kind of model, got None"),
        ({"model_type": "rwkv7"}, r"RWKV-7 needs flash-linear-attention: pip install 'recall-evals\[fla\]'"),
        ({"model_type": "llama", "hidden_size": "wide"}, "Transformers can't load it"),
    ],
)
def test_what_can_not_be_read_names_the_remedy(tmp_path, config, message, monkeypatch):
    monkeypatch.setattr("recall_evals.models.transformers_loading.find_spec", lambda name: None)
    with pytest.raises((ConfigurationError, CheckpointError), match=message) as raised:
        load(written(tmp_path / "model", **config))
    assert str(raised.value).startswith(str(tmp_path / "model")), "names the checkpoint"


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "t5", "is_encoder_decoder": True},
        {"model_type": "vit"},
        {"model_type": "brand_new"},
        {"model_type": "brand_new", "auto_map": {"AutoConfig": "code.C"}},
        {"model_type": "rwkv7"},
    ],
)
def test_load_model_refuses_them_in_the_same_words(tmp_path, config, monkeypatch):
    monkeypatch.setattr("recall_evals.models.transformers_loading.find_spec", lambda name: None)
    folder = written(tmp_path / "model", **config, architectures=["AClass"])
    messages = []
    for read in (load, load_model):
        with pytest.raises(ConfigurationError) as raised:
            read(folder)
        messages.append(str(raised.value))
    assert messages[0] == messages[1] and "no architecture known here" not in messages[0]


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_load_model_reads_what_transformers_wrote(tmp_path, name):
    theirs = causal.build(name)
    model = load_model(causal.save(tmp_path, theirs))
    tokens = torch.arange(20)
    want = theirs(input_ids=tokens[None]).logits[0]
    torch.testing.assert_close(model.forward(tokens[None])[0], want, rtol=0, atol=1e-5)
    scores, state = model.prefill(tokens[:19], [19])
    torch.testing.assert_close(model.step(tokens[19:], state)[0], want[-1], rtol=0, atol=1e-5)
    assert model.architecture == name and not any(p.requires_grad for p in model.parameters())


def test_mamba_3_without_its_kernels_names_their_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "recall_evals.models.transformers_loading.find_spec", lambda name: None if name == "mamba_ssm" else name
    )
    with pytest.raises(
        ConfigurationError, match="pip install mamba-ssm, and for single steps nvidia-cutlass-dsl and quack-kernels$"
    ):
        load(written(tmp_path / "mamba3", model_type="mamba3"), device="cuda")


@pytest.mark.parametrize("name", ["mamba", "mamba2", "falcon_mamba"])
def test_weights_are_those_of_the_file_whatever_its_class_does_at_first(name, tmp_path):
    """`rescale_prenorm_residual` says how weights begin, and has loaded ones divided by the root of the layers."""
    network = causal.build(name)
    network.config.rescale_prenorm_residual = True
    folder = causal.save(tmp_path / name, network)
    loaded = load_causal_lm(find_checkpoint(folder)).network.causal.state_dict()
    assert network.config.num_hidden_layers > 1
    assert all(torch.equal(loaded[name], weight) for name, weight in network.state_dict().items())


def test_a_mamba_2_that_flash_linear_attention_wrote_is_read_by_its_names(tmp_path):
    folder = causal.save(tmp_path / "mamba2", causal.build("mamba2"))
    config = json.loads((folder / "config.json").read_text())
    limit = config.pop("time_step_limit")
    del config["layer_norm_epsilon"], config["architectures"]

    def read(**more):
        (folder / "config.json").write_text(json.dumps(config | more))
        return load_causal_lm(find_checkpoint(folder)).network.causal

    network = read(norm_eps=0.5, dt_limit=limit, norm_before_gate=False)
    assert network.backbone.norm_f.variance_epsilon == 0.5
    assert list(network.backbone.layers[0].mixer.time_step_limit) == [0.0, math.inf]
    with pytest.raises(ConfigurationError, match="'layer_norm_epsilon' and 'norm_eps' say the same thing"):
        read(norm_eps=0.5, layer_norm_epsilon=0.25)
    with pytest.raises(ConfigurationError, match="norm_before_gate=True: .*; pip install .* mamba-ssm"):
        read(norm_before_gate=True)


def test_a_mamba_2_of_transformers_is_read_into_the_other_class(tmp_path):
    class Theirs(PreTrainedConfig):
        model_type = "mamba2"

        def __init__(self, norm_eps=1e-5, dt_limit=(0.0, math.inf), rmsnorm=True, norm_before_gate=False, **more):
            super().__init__(**more)
            self.norm_eps, self.dt_limit = norm_eps, dt_limit
            self.rmsnorm, self.norm_before_gate = rmsnorm, norm_before_gate

    def read(**config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return own_settings(Theirs, tmp_path, config)

    settings = read(layer_norm_epsilon=0.5, time_step_limit=[0.01, 0.5])
    assert (settings.norm_eps, settings.dt_limit) == (0.5, [0.01, 0.5])
    assert read(norm_eps=0.25, norm_before_gate=True).norm_eps == 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_time_step_that_is_limited_in_prompts_alone_is_answered_from_prompts(dtype, tmp_path):
    """What a step passes over goes under in bfloat16's rounding at load, and grows from token to token."""
    network = causal.build("mamba2")
    network.config.time_step_limit = (0.01, 0.02)
    model = load_causal_lm(find_checkpoint(causal.save(tmp_path / "limited", network)), dtype=dtype)
    assert "time_step_limit=[0.01, 0.02] is kept to by prompts, not by single steps" in model.limits[-1]
    tokens = torch.arange(60) % 200
    _, state = model.prefill(tokens[:30], [30])
    stepped = torch.cat([model.step(tokens[i : i + 1], state) for i in range(30, 60)])
    torch.testing.assert_close(stepped, model.forward(tokens[None])[0, 30:], rtol=0.0, atol=1e-5)


def test_kinds_of_two_libraries_are_read_by_the_class_that_is_meant(tmp_path, monkeypatch):
    """`AutoModelForCausalLM` takes flash-linear-attention's Mamba as soon as that is imported."""
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    folder = causal.save(tmp_path / "mamba", causal.build("mamba"))
    assert type(load_causal_lm(find_checkpoint(folder)).network.causal) is MambaForCausalLM


def test_a_buffer_of_mamba_3_that_no_checkpoint_holds_is_made_again():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    network[0].register_buffer("_siso_proj", torch.full((1, 2, 3), math.nan), persistent=False)
    assert mended(network, torch.float32)[0]._siso_proj.tolist() == [[[1.0] * 3] * 2]


def test_kernels_that_need_a_gpu_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr("recall_evals.models.transformers_loading.find_spec", lambda name: object())
    with pytest.raises(
        ConfigurationError, match="GLA runs in .* need a GPU; here it would run on cpu: give device=cuda"
    ):
        load(written(tmp_path / "gla", model_type="gla"))


def test_an_encoder_is_known_by_what_it_does(tmp_path):
    """Transformers has a causal class for BERT too, which reads both ways unless its configuration says otherwise."""
    from transformers import BertConfig, BertLMHeadModel

    small = {"vocab_size": 264, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for decoder in (False, True):
        config = BertConfig(
            **small, intermediate_size=32, is_decoder=decoder, max_position_embeddings=64, initializer_range=0.5
        )
        folder = causal.save(tmp_path / str(decoder), BertLMHeadModel(config))
        if decoder:
            model = load(folder)
            assert model.positions == 64 and model.shares
        else:
            for dtype in (torch.float32, torch.bfloat16):
                with pytest.raises(ConfigurationError, match="depend on the tokens after it, so it is an encoder"):
                    load(folder, dtype=dtype)


def test_a_network_that_computes_no_numbers_is_no_encoder():
    network = causal.build("llama")
    network.get_parameter("model.norm.weight").data.fill_(float("nan"))
    with pytest.raises(ConfigurationError, match=r"hold NaN or infinity in torch\.float32; see that its weights"):
        TransformersModel(network)


def test_an_unknown_kind_of_cache_is_refused_unless_done_without(tmp_path):
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    config = MiniMaxConfig(**causal.WIDTHS | {"head_dim": 8, "num_local_experts": 2, "block_size": 16})
    folder = causal.save(tmp_path / "minimax", MiniMaxForCausalLM(config))
    with pytest.raises(ConfigurationError, match="in a MiniMaxCache, a kind of cache that is not known.*cache=false"):
        load(folder)
    model = load(folder, cached=False)
    tokens = torch.arange(20)
    _, state = model.prefill(tokens[:19], [19])
    torch.testing.assert_close(model.step(tokens[19:], state)[0], model.forward(tokens[None])[0, -1], rtol=0, atol=1e-5)


def test_a_layer_of_an_unknown_kind_is_refused():
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class Other(DynamicLayer):
        pass

    cache = DynamicCache()
    cache.layers = [Other()]
    with pytest.raises(ConfigurationError, match="a DynamicCache of Other, a kind of cache"):
        cache_forms.LayeredForm("past_key_values", cache)


def test_a_cache_that_goes_on_otherwise_than_the_prompt_is_not_used(monkeypatch, caplog, llama):
    """As a broken release's would: keys that are turned a little when they are taken up."""
    from transformers import DynamicCache

    original = DynamicCache.update
    monkeypatch.setattr(DynamicCache, "update", lambda self, k, v, *a, **b: original(self, k.roll(1, -1), v, *a, **b))
    model = load(llama)
    (limit,) = model.limits
    assert limit.startswith("its cache does not go on as the whole prompt would") and not model.shares
    assert f"{llama} (llama): {limit}" in caplog.text
    tokens = torch.arange(20)
    _, state = model.prefill(tokens[:19], [19])
    torch.testing.assert_close(model.step(tokens[19:], state)[0], model.forward(tokens[None])[0, -1], rtol=0, atol=1e-5)


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_checkpoint_runs_when_asked_for_and_never_else(llama, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder = tmp_path / "own"
    folder.mkdir()
    for file in llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "own"}
    config["auto_map"] = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own_code.py").write_text(OWN_CODE + f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ConfigurationError, match="model_type 'own' needs Python code .* trust_remote_code=true"):
        load(folder)
    assert not (tmp_path / "ran").exists()
    model = load(folder, trust_remote_code=True)
    assert (tmp_path / "ran").exists() and model.architecture == "own" and model.shares
    tokens = torch.arange(20)[None]
    assert torch.equal(model.forward(tokens), load(llama).forward(tokens))


def test_weights_that_lack_a_tensor_are_refused(tmp_path, llama):
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"don't fit config.json: missing .*model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        load(tmp_path)


def test_positions_that_change_with_the_length_bound_it():
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert positions("llama", rope_parameters=dynamic) == 512
    long = {"rope_type": "longrope", "original_max_position_embeddings": 128, "rope_theta": 10000.0}
    long |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "factor": 4.0}
    assert positions("llama", rope_parameters=long) == 128
    assert positions("llama") is None
    assert positions("gpt2") == 512


def positions(name: str, **fields: object) -> int | None:
    from recall_evals.models.transformers_model import TransformersModel

    return TransformersModel(causal.build(name, **fields)).positions


def test_our_own_formats_are_read_as_ever(tmp_path):
    """Though a published configuration may say `gpt2`, and a conversion of Mamba has its published fields."""
    for name, config in (tiny.CONFIGS | tiny.BASELINES).items():
        assert load(tiny.save(tmp_path / name, config)).architecture == name
    converted = causal.build("mamba")
    folder = causal.save(tmp_path / "converted", converted)
    config = json.loads((folder / "config.json").read_text()) | {"d_model": 32, "n_layer": 2, "ssm_cfg": {}}
    (folder / "config.json").write_text(json.dumps(config))
    tokens = torch.arange(20)
    scores = load(folder).forward(tokens[None])
    torch.testing.assert_close(scores, converted(input_ids=tokens[None]).logits, rtol=0, atol=1e-5)
