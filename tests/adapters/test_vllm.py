"""lm-eval's own `vllm` as a baseline: the same answers as `hf` and `recall`, and files that our commands read.

Runs in an environment of its own, `make vllm-test`: a minute and a half on a CPU.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

if not find_spec("vllm"):
    pytest.skip(
        "no vLLM here: `make vllm-test` checks that a tiny Llama answers alike through vllm, hf and recall, and that "
        "`recall-evals slices` reads what it wrote",
        allow_module_level=True,
    )

import runs

LENGTH = 512


def printable_tokenizer(folder: Path) -> None:
    """The printable ASCII characters, one token each: vLLM holds back bytes that end in the middle of a character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = ["Ġ", "Ċ", *map(chr, range(33, 127))]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end).save_pretrained(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    printable_tokenizer(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "head_dim": 32}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": LENGTH}
    config = LlamaConfig(**sizes, **heads, bos_token_id=96, eos_token_id=96, initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_the_same_answers_through_three_backends(llama, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from recall_evals.evals.cli import app

    data = tmp_path / "data" / "squad"
    data.mkdir(parents=True)
    page = "Unit {0} is made of steel, was sold in 1998, and came from the port of Genoa. Its lot is {0}7. "
    keys = ["Metal", "Year", "Port", "Lot"]
    rows = [
        {
            "text": f"{page.format(i // 4) * 2}\n{key}:",
            "title": "Units",
            "value": "steel",
            "key": key,
            "doc_id": f"d{i // 4}",
        }
        for i, key in enumerate(keys * 3)
    ]
    (data / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("RECALL_EVALS_DATA", str(data.parent))
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    answers, common = {}, {"pretrained": str(llama), "max_length": LENGTH}
    for backend, more in (
        ("vllm", {"dtype": "float32", "enforce_eager": True, "gpu_memory_utilization": 0.1}),
        ("hf", {"dtype": "float32"}),
        ("recall", {}),
    ):
        # Not local_fda: lm-eval's `swde` and `fda` name no temperature, and where none is named its vllm samples.
        runs.evaluate(tmp_path / backend, backend, common | more, ["local_squad"], batch_size=1)
        (file,) = (tmp_path / backend).rglob("samples_local_squad_*.jsonl")
        answers[backend] = [json.loads(line)["resps"] for line in file.read_text().splitlines()]
    assert len(answers["hf"]) == 12 and len({str(answer) for answer in answers["hf"]}) > 3
    assert answers["vllm"] == answers["hf"] == answers["recall"]
    done = CliRunner().invoke(app, ["slices", str(tmp_path / "vllm")])
    assert done.exit_code == 0, done.output
    assert "local_squad" in done.stdout
