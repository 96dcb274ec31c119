"""A config.json that can't be used: each error names the file, the field and what it must be."""

import json
import re

import pytest

import tiny
from recall_evals.models import load_model
from recall_evals.models.checkpoint import Checkpoint
from recall_evals.models.errors import CheckpointError, ConfigurationError

NAN, INF = float("nan"), float("inf")
DECAYING = tiny.JRT["alt_mixer"] | {"use_decay_proj": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A good checkpoint of each architecture."""
    return {name: tiny.save(tmp_path_factory.mktemp(name), config) for name, config in tiny.CONFIGS.items()}


def refusal(folder, content):
    """The message with which a folder is refused whose config.json has this content; it names the file."""
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_model(folder)
    message = str(caught.value)
    message.encode()
    assert str(folder) in message and "config.json" in message and len(message) < 1000
    return message


def changed(architecture, path, value):
    """The configuration with one field replaced; dots lead into nested objects."""
    config = tiny.changed(tiny.CONFIGS[architecture])
    part, (*parents, name) = config, path.split(".")
    for parent in parents:
        part = part[parent]
    part[name] = value
    return json.dumps(config).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"n_embd": 64, "n_la', "not valid JSON"),
        (b"\xff\xfe{\x00}\x00", "not valid JSON.*utf-8"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"n_embd": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[]", "must hold an object, holds a list"),
        (b"null", "must hold an object, holds a NoneType"),
        (b"{}", "no architecture known here"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_no_json_object(folders, content, message):
    assert re.search(message, refusal(folders["based"], content))


def test_a_config_that_is_a_folder_or_unreadable(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json in the folder"):
        load_model(tmp_path)
    with pytest.raises(ConfigurationError, match=r"config\.json: can't be read \(.*Is a directory"):
        Checkpoint("x", tmp_path / "config.json", [], None).config()


WHOLE = ("64", 64.0, True, NAN, INF, -1, 2**63, 10**400, [], {})
NUMBER = ("1", True, NAN, INF, -INF, 1e300, 10**400, [], {})
FLAG = ("false", 0, 1, 0.0, [], {})


@pytest.mark.parametrize(
    ("architecture", "paths", "values", "wanted"),
    [
        (
            "based",
            "n_embd n_head n_layer n_inner vocab_size pad_vocab_size_multiple",
            WHOLE,
            "a whole number from 1 to",
        ),
        ("based", "n_positions", WHOLE, "a whole number from 0 to"),
        ("based", "mixer.expand_proj mixer.kernel_size", WHOLE, "a whole number from 1 to 1,000"),
        ("based", "alt_mixer.num_heads alt_mixer.feature_dim alt_mixer.head_dim", (*WHOLE, 0), "a whole number from 1"),
        ("based", "alt_mixer.feature_map.input_dim alt_mixer.scale_dim", (*WHOLE, 0), "a whole number from 1 to"),
        ("based", "alt_mixer_2.window_size", (*WHOLE, 2**17), "a whole number from 1 to 65,536"),
        ("jrt", "alt_mixer.enc_length enc_length", (*WHOLE, 0), "a whole number from 1 to"),
        ("mamba", "d_model n_layer vocab_size ssm_cfg.d_state", (*WHOLE, 0), "a whole number from 1 to"),
        ("mamba", "ssm_cfg.d_conv ssm_cfg.dt_rank", WHOLE, "a whole number from 1 to"),
        ("mamba", "ssm_cfg.expand", (*NUMBER, -1), "a number from 0 to 1,000"),
        ("attention", "rotary_emb_fraction layer_norm_epsilon", (*NUMBER, -0.1, 1.1), "a number from 0 to 1,"),
        ("attention", "rotary_emb_base", (*NUMBER, 0), "a number from 1 to"),
        ("attention", "decay_const initializer_range", NUMBER, "a number from"),
        ("based", "rms_norm residual_in_fp32 mlp_fc1_bias mlp_fc2_bias qkv_proj_bias", FLAG, "true or false"),
        ("based", "out_proj_bias scale_attn_weights scale_attn_by_inverse_layer_idx", FLAG, "true or false"),
        ("based", "tie_word_embeddings fixed_decay prenorm parallel_block", FLAG, "true or false"),
        ("based", "mixer.use_bias alt_mixer.use_decay_proj", FLAG, "true or false"),
        ("mamba", "rms_norm residual_in_fp32 tie_embeddings ssm_cfg.bias ssm_cfg.conv_bias", FLAG, "true or false"),
        ("based", "activation_function mlp_type", (3, True, [], {}, NAN), "a text"),
        ("based", "mixer._target_ alt_mixer._target_ alt_mixer_2._target_", (3, True, [], {}), "a text"),
        ("based", "alt_mixer.feature_map._target_", (3, True, [], {}), "a text"),
        ("based", "mixer alt_mixer alt_mixer_2 alt_mixer.feature_map", ("BaseConv", 3, True, []), "an object"),
        ("mamba", "ssm_cfg", ("x", 3, True, []), "an object"),
        ("based", "alt_mixer_layers alt_mixer_2_layers", ("12", 1, True, {}), "a list"),
        (
            "based",
            "alt_mixer_layers alt_mixer_2_layers",
            ([-1], [4], [1.0], ["1"], [True], [[1]], [10**30]),
            "layers from",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 60 else "",
)
def test_every_field_is_checked(folders, architecture, paths, values, wanted):
    for path in paths.split():
        for value in values:
            message = refusal(folders[architecture], changed(architecture, path, value))
            parent, _, name = path.rpartition(".")
            verb = "list" if wanted.startswith("layers") else "be"
            assert f"field {name!r} must {verb} {wanted}" in message
            part = parent.split(".")[-1]
            target = (tiny.CONFIGS[architecture].get(part) or {}).get("_target_", part)
            assert target in message or part in message, "which part of the configuration"


@pytest.mark.parametrize(
    ("architecture", "path", "value", "message"),
    [
        ("based", "activation_function", "softplus", "activation_function 'softplus' is unknown; supported: swiglu"),
        ("based", "mlp_type", "moe", "mlp_type 'moe' is unknown; supported: base, alt"),
        ("based", "n_head", 5, "n_embd 64 is not a multiple of n_head 5"),
        ("based", "n_head_kv", 2, "n_head_kv = 2: grouped heads are not supported"),
        ("based", "mixer._target_", "a.b.Hyena", "mixer 'a.b.Hyena' is unknown; supported: BaseConv"),
        ("based", "mixer._target_", "x" * 10_000, "mixer 'xxx"),
        ("based", "mixer._target_", "\ud800", r"mixer '\ud800' is unknown"),
        ("based", "mixer._target_", None, "config.json: mixer: field '_target_' is missing"),
        (
            "based",
            "alt_mixer.feature_map._target_",
            "a.Cosine",
            "feature map 'Cosine' is unknown; supported: TaylorExp",
        ),
        ("based", "alt_mixer.num_heads", 65, "num_heads 65 exceeds n_embd"),
        ("based", "n_layer", None, "field 'n_layer' is missing"),
        ("based", "prenorm", False, "prenorm = False is not supported"),
        ("jrt", "alt_mixer_layers", [], "no layer is routed to it"),
        ("jrt", "alt_mixer.enc_length", None, "layer 1: enc_length is missing"),
        ("attention", "mixer", {"_target_": "a.LinearAttention"}, "missing: transformer.layers.0.mixer.proj_q"),
        ("attention", "n_embd", 60, "wrong shape"),
        ("mamba", "ssm_cfg.layer", "Mamba2", "only pure Mamba-1 is supported"),
        ("mamba", "attn_layer_idx", [1], "only pure Mamba-1 is supported"),
        ("mamba", "ssm_cfg.expand", 0.001, "ssm_cfg: expand 0.001 of d_model 64 leaves no channel; raise it"),
        ("mamba", "ssm_cfg.dt_rank", "most", "field 'dt_rank' must be a whole number"),
    ],
)
def test_what_is_not_supported(folders, architecture, path, value, message):
    (folders[architecture] / "config.json").write_bytes(changed(architecture, path, value))
    with pytest.raises((ConfigurationError, CheckpointError)) as caught:
        load_model(folders[architecture])
    assert str(folders[architecture]) in str(caught.value) and message in str(caught.value)
    assert len(str(caught.value)) < 3000


def test_contradictions_of_several_fields(folders):
    decaying = tiny.changed(tiny.JRT, fixed_decay=True, alt_mixer=DECAYING)
    assert "with a decay is no published model" in refusal(folders["jrt"], json.dumps(decaying).encode())
    growing = tiny.changed(tiny.BASED, fixed_decay=True, decay_const=1)
    growing["alt_mixer"]["use_decay_proj"] = True
    assert "decay_const 1 must be negative" in refusal(folders["based"], json.dumps(growing).encode())
    odd = tiny.changed(tiny.ATTENTION, n_embd=20, rotary_emb_fraction=1)
    message = refusal(folders["attention"], json.dumps(odd).encode())
    assert "rotary_emb_fraction 1: dimensions are turned in pairs, and heads of 5" in message
    halved = tiny.changed(tiny.BASED, n_embd=65, n_head=5)
    halved["mixer"]["expand_proj"] = 1
    assert "expand_proj 1 times n_embd can't be halved" in refusal(folders["based"], json.dumps(halved).encode())


def test_an_unused_mixer_is_checked_too(folders):
    unused = tiny.changed(tiny.BASED, alt_mixer_layers=[], alt_mixer={"num_heads": 4})
    assert "alt_mixer: field '_target_' is missing" in refusal(folders["based"], json.dumps(unused).encode())


def test_the_architecture_is_found_or_said_to_be_unknown(tmp_path):
    tiny.save(tmp_path, tiny.BASED)
    assert "looked for ssm_cfg" in refusal(tmp_path, b'{"model_type": "llama"}')
    assert "model_type is 'llama'" in refusal(tmp_path, b'{"model_type": "llama"}')
    deep = b'{"activation_function": ' + b"[" * 800 + b"]" * 800 + b', "n_embd": 1, "model_type": "gpt2"}'
    assert "no architecture known here" in refusal(tmp_path, deep)


def test_absent_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="no weights; looked for"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_model(tmp_path / "nowhere")
