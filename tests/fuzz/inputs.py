"""Inputs for the checks of targets.py: valid files, changed at random in structure and in bytes."""

import copy
import gzip
import io
import itertools
import json
import lzma
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

import tiny

Edit = tuple[int, int, bytes]  # place, bytes removed, bytes put in

# -- what anything may be replaced by -------------------------------------------------------------------------------

WIDTH = {"n_embd": 16, "n_head": 2, "vocab_size": 20, "n_layer": 3}
CONFIGS = {name: tiny.changed(tiny.CONFIGS[name], **WIDTH) for name in ("attention", "based", "jrt")}
for _config, _mixer in itertools.product(CONFIGS.values(), ("alt_mixer", "alt_mixer_2")):
    if _mixer in _config:
        _config[_mixer] |= {"num_heads": 2, "feature_dim": 4, "window_size": 4}
CONFIGS["mamba"] = tiny.changed(tiny.MAMBA, d_model=16, vocab_size=20, ssm_cfg={"d_state": 4})
for _config in CONFIGS.values():
    _config["pad_vocab_size_multiple"] = 8

FIELDS = sorted(
    {key for config in CONFIGS.values() for part in (config, *config.values()) if type(part) is dict for key in part}
    | {"num_head_kv", "n_head_kv", "rotary_emb_base", "rotary_emb_interleaved", "prenorm", "parallel_block"}
    | {"scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings", "tie_embeddings", "mlp_type"}
    | {"ff_mult", "fixed_decay", "decay_const", "use_decay_proj", "scale_dim", "input_dim", "head_dim", "use_bias"}
    | {"kernel_size", "expand_proj", "dt_rank", "expand", "d_conv", "bias", "conv_bias", "layer", "attn_layer_idx"}
)
TEXTS = ("swiglu", "geglu", "glu", "base", "alt", "auto", "Mamba1", "Mamba2", "x.LinearAttention", "x.BaseConv", "MHA")
TEXTS += ("x.SlidingAttention", "x.PrefixLinearAttention", "TaylorExp", "", "\ud800", "é" * 200, "text", "value")
NUMBERS = (0, 1, 2, 3, 4, 8, 16, 64, -1, 2**16, 2**20, 2**31, 2**63, 10**12, 10**400)
FLOATS = (0.0, 0.5, 1.0, 1e-300, 1e308, -1.0, float("nan"), float("inf"), float("-inf"))
SCALARS = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(FLOATS),
    st.sampled_from(TEXTS),
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.floats(width=16),
    st.text(max_size=3),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=4,
)
# Bytes that formats trip over: depth, encodings, numbers, and pickle opcodes that call what they name.
SNIPPETS = (b"[" * 5000, b'{"a":' * 900, b"[" * 400 + b"]" * 400, b"\xff", b"\x00", b"\xef\xbb\xbf", b"1" * 5000)
SNIPPETS += (b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b"null", b"{}", b"\n", b"\r\n", b"cposix\nmkdir\n(S'x'\ntR.")
SNIPPETS += (b"c__builtin__\neval\n(S'1'\ntR", b"ctorch._utils\n_rebuild_tensor_v2\n", b"(t", b"R", b"}", b"Q", b"b")
SNIPPETS += (b"c" + b"x" * 20_000 + b"\ny\n",)
SNIPPETS += (b"J\xff\xff\xff\x7f", b"K\x00", b"\x8a\x0a" + b"\xff" * 9 + b"\x7f", b"\x80\x02", b"h\x00", b"u", b"s")
EDITS = st.lists(
    st.tuples(st.integers(0, 2**16), st.integers(0, 40), st.sampled_from(SNIPPETS) | st.binary(max_size=8)), max_size=3
)


def edited(content: bytes, edits: Iterable[Edit]) -> bytes:
    for place, removed, put in edits:
        place %= len(content) + 1
        content = content[:place] + put + content[place + removed :]
    return content


def rarely(strategy: st.SearchStrategy[Any], default: Any) -> st.SearchStrategy[Any]:
    """The default in about three cases of four."""
    return st.integers(0, 3).flatmap(lambda n: strategy if n == 3 else st.just(default))


# -- models ---------------------------------------------------------------------------------------------------------


@cache
def weights(name: str) -> dict[str, Tensor]:
    """Random weights of a configuration above, with MLPs of 8 instead of 256 hidden units to keep the files small."""

    def narrow(key: str, tensor: Tensor) -> Tensor:
        if key.endswith("fc1.weight"):
            tensor = tensor[:16]
        return (tensor[:, :8] if key.endswith("fc2.weight") else tensor).contiguous()

    return {key: narrow(key, t) for key, t in tiny.tensors(tiny.build(CONFIGS[name])).items()}


@st.composite
def configurations(draw: st.DrawFn) -> tuple[bytes, str]:
    name = draw(st.sampled_from(sorted(CONFIGS)))
    config = copy.deepcopy(CONFIGS[name])
    for _ in range(draw(st.integers(0, 3))):
        nested = [part for part in config.values() if isinstance(part, dict)]
        part = draw(st.sampled_from([config, *nested, *(p for n in nested for p in n.values() if isinstance(p, dict))]))
        key = draw(st.sampled_from(sorted(part) or FIELDS) | st.sampled_from(FIELDS))
        if draw(st.booleans()) or key not in part:
            part[key] = draw(VALUES)
        else:
            del part[key]
    return edited(json.dumps(config).encode(), draw(rarely(EDITS, []))), name


DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1, "U16": 2, "U32": 4}
DTYPES |= {"U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8, "F4": 1, "F6_E2M3": 1, "I16": 2, "nonsense": 4}
NAMES = ("lm_head.weight", "model.transformer.ln_f.weight", "transformer.ln_0.weight", "train_metrics.num-tokens.count")
NAMES += ("transformer.layers.99999999999.norm1.weight", "transformer.layers.1.norm2.weight", "", "__metadata__", "é")
NAMES += ("transformer.layers.0.mixer.conv1.conv1.weight", "transformer.layers.0.mixer.conv.conv.bias", "conv1")


@st.composite
def safetensors(draw: st.DrawFn, names: Sequence[str] | None = None) -> bytes:
    """A file whose header may say other types, shapes, names and places than its bytes have, consistently or not."""
    tensors = {name: weights("based")[name] for name in names or weights("based")}
    changes = draw(st.dictionaries(st.sampled_from(sorted(tensors)), st.integers(0, 5), max_size=2))
    header: dict[str, Any] = {}
    body = b""
    for name, tensor in tensors.items():
        dtype, shape = "F32", list(tensor.shape)
        content = tensor.numpy().tobytes()
        match changes.get(name):
            case 0:
                continue  # missing
            case 1:
                dtype = draw(st.sampled_from(sorted(DTYPES)))
                content = bytes(tensor.numel() * DTYPES[dtype])
            case 2:
                shape = draw(st.lists(st.sampled_from((0, 1, 2, 16, 20, 2**32, 2**63)), max_size=4))
            case 3:
                name = draw(st.sampled_from(NAMES))
            case 4:
                content = draw(st.sampled_from((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff"))) * tensor.numel()
                content = content[: tensor.numel() * 4]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(content)]}
        body += content
        if changes.get(name) == 5:
            header[name][draw(st.sampled_from(("dtype", "shape", "data_offsets", "other")))] = draw(VALUES)
    if draw(rarely(st.just(True), False)):
        header["__metadata__"] = draw(VALUES)
    text = edited(json.dumps(header).encode(), draw(rarely(EDITS, [])))
    length = draw(rarely(st.sampled_from((0, 1, 100, 2**31, 2**63, 2**64 - 1)), len(text)))
    return length.to_bytes(8, "little") + text + body[: draw(rarely(st.integers(0, len(body)), len(body)))]


@cache
def pickled(legacy: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(weights("based"), stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


@st.composite
def pickles(draw: st.DrawFn) -> bytes:
    """torch.save's old form, or its archive with a changed pickle inside and right checksums around it."""
    edits = draw(EDITS)
    if draw(st.booleans()):
        content = pickled(legacy=True)
        end = content.index(b"]q\x00(X")  # the list of storages behind the pickled dictionary
        return edited(content[:end], edits) + edited(content[end:], draw(rarely(EDITS, [])))
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(pickled(legacy=False))) as old, zipfile.ZipFile(stream, "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            new.writestr(entry, edited(content, edits) if entry.endswith("data.pkl") else content)
    return edited(stream.getvalue(), draw(rarely(EDITS, [])))


SHARDS = ("a.safetensors", "b.safetensors")
STRANGE = ("../a.safetensors", "/etc/passwd", "", ".", "..", "a\x00b", "\ud800", "x" * 5000, "config.json", "é", "a/b")


@st.composite
def shards(draw: st.DrawFn) -> dict[str, bytes]:
    names = sorted(weights("based"))
    parts = {file: names[i::2] for i, file in enumerate(SHARDS)}
    if draw(st.booleans()):
        parts[SHARDS[0]] = parts[SHARDS[0]] + parts[SHARDS[1]][: draw(st.integers(0, 2))]
    index: Any = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    for _ in range(draw(st.integers(0, 2))):
        place = index if draw(st.booleans()) else index["weight_map"]
        if isinstance(place, dict) and place:
            place[draw(st.sampled_from(sorted(place)))] = draw(st.sampled_from(STRANGE) | VALUES)
        if not isinstance(index.get("weight_map"), dict):
            break
    files = {file: save({n: weights("based")[n] for n in part}) for file, part in parts.items()}
    broken = draw(rarely(st.sampled_from(SHARDS), None))
    if broken:
        files[broken] = draw(safetensors(parts[broken]))
    text = edited(json.dumps(index).encode(), draw(rarely(EDITS, [])))
    return {"model.safetensors.index.json": text, **files}


@st.composite
def weight_files(draw: st.DrawFn) -> tuple[dict[str, bytes]]:
    match draw(st.integers(0, 2)):
        case 0:
            return ({"model.safetensors": draw(safetensors())},)
        case 1:
            return ({"pytorch_model.bin": draw(pickles())},)
        case _:
            return (draw(shards()),)


# -- documents ------------------------------------------------------------------------------------------------------


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.output_stream(sink, compression="zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "validation.jsonl": bytes,
    "validation.jsonl.xz": lambda content: lzma.compress(content, preset=0),
    "validation.jsonl.gz": lambda content: gzip.compress(content, 1),
    "validation.jsonl.zst": zstd,
}
CELL = st.sampled_from(("t", "v", " é ", "2020-01-02", "")) | VALUES | st.sampled_from((10**30, {}, [], [[]], [{}, 1]))
ROWS = st.lists(
    st.fixed_dictionaries(
        {"text": rarely(CELL, "t"), "value": rarely(CELL, "v")},
        optional={"key": CELL, "doc_id": CELL, "": CELL},
    ),
    min_size=1,
    max_size=4,
)
TYPES = (pyarrow.string(), pyarrow.large_string(), pyarrow.binary())
TYPES += (pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),)


def table(rows: Sequence[dict[str, str]], types: Sequence[pyarrow.DataType], metadata: dict[str, str]) -> bytes:
    """A Parquet file: texts as one of Arrow's types a column."""
    columns = [key for row in rows[:1] for key in row]
    arrays = [
        pyarrow.array([row[column].encode() for row in rows]).cast(kind)
        if not pyarrow.types.is_dictionary(kind)
        else pyarrow.array([row[column] for row in rows]).dictionary_encode()
        for column, kind in zip(columns, types, strict=False)
    ]
    sink = io.BytesIO()
    schema = pyarrow.schema([(n, a.type) for n, a in zip(columns, arrays, strict=False)], metadata=metadata)
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), sink)
    return sink.getvalue()


FEATURES = ({}, {"huggingface": '{"info": {"features": {"value": {"_type": "Image"}}}}'}, {"huggingface": "[]"})


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, bytes]:
    if draw(st.integers(0, 3)) == 3:
        row = st.fixed_dictionaries({"text": st.just("t"), "value": st.just("v"), "key": st.text("aé", max_size=3)})
        types = draw(st.lists(st.sampled_from(TYPES), min_size=3, max_size=3))
        content = table(draw(st.lists(row, max_size=3)), types, draw(st.sampled_from(FEATURES)))
        return "validation.parquet", edited(content, draw(EDITS))
    lines = "".join(json.dumps(row) + "\n" for row in draw(ROWS)).encode()
    name = draw(st.sampled_from(sorted(COMPRESS)))
    content = COMPRESS[name](edited(lines, draw(rarely(EDITS, []))))
    if draw(rarely(st.just(True), False)):
        content += COMPRESS[name](lines)
    return name, edited(content, draw(rarely(EDITS, [])))


# -- stop texts -----------------------------------------------------------------------------------------------------

TOKENIZERS = {"bytes": 257} | ({"gpt2": 50257} if (tiny.SHARED / "data" / "gpt2" / "tokenizer.json").is_file() else {})
PIECES = ("\ufffd", "a", "b", " ", "\n", "é", "\U0001f600", "ab", "")


@st.composite
def generations(draw: st.DrawFn) -> tuple[str, list[int], list[str], int, int | None]:
    """Tokens of a text that repeats few pieces, with others strewn in: parts of characters and special tokens."""
    from fuzz.targets import tokenizer

    name = draw(st.sampled_from(sorted(TOKENIZERS)))
    rows = TOKENIZERS[name]
    tokens: list[int] = []
    for _ in range(draw(st.integers(0, 6))):
        text = draw(st.sampled_from(PIECES) | st.text(max_size=4)) * draw(st.sampled_from((1, 1, 2, 40)))
        tokens += tokenizer(name).encode(text.encode("utf-8", "ignore").decode())
        tokens += draw(st.lists(st.integers(0, rows - 1) | st.just(rows - 1), max_size=3))
        tokens += draw(st.sampled_from(((), (), [rows - 1] * 60)))
        if tokens and draw(st.booleans()):
            tokens.pop(draw(st.integers(0, len(tokens) - 1)))
    stop = st.lists(st.sampled_from(PIECES) | st.text(max_size=2), max_size=4).map("".join)
    stops = draw(st.lists(stop, max_size=3))
    limit = draw(st.sampled_from((1, 5, 1000)) | st.integers(1, 200))
    return name, tokens, stops, limit, draw(st.none() | st.integers(0, rows - 1))
