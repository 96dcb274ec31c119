"""`--model recall` against lm-eval's own `hf`, in float32 at batch size 1: the same texts, scores and choices."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

import causal
import tiny
from hub import LoopbackHub
from recall_evals import task_configs
from recall_evals.adapters.causal_lm import RecallLM

LENGTH = 256
STEMS = ["The quick brown fox", "A page about naïve café. " * 6, "xy", "Report K12.\n\nA. Number:" * 3]
GENERATE = [(stem + end, {"until": ["e"], "max_gen_toks": 8}) for stem in STEMS for end in ("", "b")]
SCORE = [(stem, end) for stem in STEMS for end in (" jumps", " runs off", "\nyes")] + [("", " no context")]
ROLL = [("x" * 300,), ("short",)]
CHOICE = "mini_fda_choice"  # a multiple choice that needs no data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a model by name, made when first asked for."""
    root, made = tmp_path_factory.mktemp("models"), dict[str, Path]()

    def get(name: str) -> Path:
        if name not in made:
            made[name] = causal.save(root / name, causal.build(name))
        return made[name]

    return get


def ask(lm: Any, kind: str, arguments: list[tuple]) -> list:
    return getattr(lm, kind)([Instance(kind, {}, args, i) for i, args in enumerate(arguments)], disable_tqdm=True)


def hf(folder: Path, **options: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    options = {"max_length": LENGTH} | options
    return HFLM(str(folder), batch_size=1, device="cpu", dtype="float32", **options)


def recall(folder: Path, **options: Any) -> RecallLM:
    return RecallLM(str(folder), **{"max_length": LENGTH, "device": "cpu"} | options)


@pytest.mark.parametrize("name", ["mistral", "mamba", "rwkv", "recurrent_gemma"])
def test_texts_and_scores_equal_lm_evals_hf(folder, name):
    theirs = hf(folder(name))
    texts, scores = ask(theirs, "generate_until", GENERATE), ask(theirs, "loglikelihood", SCORE)
    whole = ask(theirs, "loglikelihood_rolling", ROLL)
    for options in ({}, {"batch_size": 5}):
        ours = recall(folder(name), **options)
        assert ask(ours, "generate_until", GENERATE) == texts
        for got, want in zip(ask(ours, "loglikelihood", SCORE), scores, strict=True):
            assert got == (pytest.approx(want[0], abs=1e-4), want[1])
        assert ask(ours, "loglikelihood_rolling", ROLL) == [pytest.approx(x, rel=1e-6) for x in whole]
    info = ours.get_model_info()
    assert info["architecture"] == name and info["cache_limits"] == ours.model.limits
    assert (info["prompt_tokens_computed"] < 0.7 * info["prompt_tokens"]) == ours.model.shares


def test_a_bound_on_memory_changes_no_answer(folder):
    want = ask(recall(folder("gemma2")), "generate_until", GENERATE)
    bounded = recall(folder("gemma2"), batch_size="auto", state_memory="4MB", prefill_tokens=64)
    assert ask(bounded, "generate_until", GENERATE) == want
    info = bounded.get_model_info()
    assert info["slots"] > 1 and info["peak_state_bytes"] <= 4e6


def test_a_start_token_and_the_models_own_ends_are_as_in_hf(tmp_path):
    """As Llama's tokenizers add one, and its settings name several ends."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    model = causal.build("llama")
    model.generation_config.eos_token_id = [causal.END, 90]
    plain = causal.save(tmp_path, model, bos_token="<|endoftext|>")
    tokenizer = AutoTokenizer.from_pretrained(plain)
    start = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", causal.END)])
    tokenizer.backend_tokenizer.post_processor = start
    tokenizer.save_pretrained(plain)
    ours, theirs = recall(plain), hf(plain)
    assert ours.tok_encode("ab") == theirs.tok_encode("ab") == [causal.END, *ours.tok_encode("ab", False)]
    assert ours.tok_encode("<|endoftext|>ab") == theirs.tok_encode("<|endoftext|>ab")
    assert ask(ours, "loglikelihood", SCORE) == [
        (pytest.approx(value, abs=1e-4), greedy) for value, greedy in ask(theirs, "loglikelihood", SCORE)
    ]
    # What ends an answer is no text of it; `hf` leaves out special tokens only.
    ends = tokenizer.decode([90])
    texts = [text.split(ends)[0] for text in ask(theirs, "generate_until", GENERATE)]
    assert ask(ours, "generate_until", GENERATE) == texts
    assert any(ends in text for text in ask(hf(plain), "generate_until", GENERATE)), "one of them came to such an end"


@pytest.mark.long
def test_from_the_hub_with_the_settings_that_lie_there(folder, tmp_path):
    code = (
        "from recall_evals.adapters.causal_lm import RecallLM\n"
        "lm = RecallLM('org/model', device='cpu')\n"
        "print(sorted(lm._ends), lm.get_model_info()['revision'])"
    )
    published = tmp_path / "published"
    shutil.copytree(folder("llama"), published)
    (published / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, causal.END]}))
    with LoopbackHub(models={"org/model": published}) as hub:
        environment = hub.environment(tmp_path / "home")
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1:] == [f"[7, 256] {hub.commit('models', 'org/model', 'main')}"], done.stderr


def test_missing_parts_name_the_remedy(folder, tmp_path):
    with pytest.raises(ValueError, match="reads any causal language model: give pretrained="):
        RecallLM()
    endless = recall(causal.save(tmp_path / "endless", causal.build("llama"), end=None))
    assert ask(endless, "generate_until", GENERATE[:1])
    with pytest.raises(ValueError, match="the tokenizer has no end token, .* set its eos_token"):
        ask(endless, "loglikelihood", [("", "no context")])
    with pytest.raises(ValueError, match="has learned positions for 512 tokens; give max_length=512"):
        recall(folder("gpt2"), max_length=1024)
    assert recall(folder("gpt2"), max_length=None).max_length == 512
    assert recall(folder("llama"), max_length=None).max_length == 2048


def test_our_own_formats_are_answered_as_by_based(tmp_path):
    from recall_evals.adapters.lm import BasedLM

    own = tiny.save(tmp_path, tiny.MAMBA)
    ours = recall(own)
    assert ask(ours, "generate_until", GENERATE) == ask(
        BasedLM(str(own), max_length=LENGTH), "generate_until", GENERATE
    )
    assert ours.get_model_info()["cache_limits"] == []


def equal_to_hf(folder: Path, names: list[str], prompts: int, max_length: int) -> None:
    """Ask lm-eval for `CHOICE` and the tasks named through both models, and compare all samples.

    Prints the model's line of results/conformance/hf_samples.txt.
    """
    import lm_eval

    manager = TaskManager(include_path=[*task_configs.__path__], include_defaults=False)
    runs = []
    for backend, more in (("hf", {"dtype": "float32"}), ("recall", {})):
        arguments = {"pretrained": str(folder), "max_length": max_length} | more
        options = {"device": "cpu", "batch_size": 1, "limit": prompts, "bootstrap_iters": 0}
        results = lm_eval.simple_evaluate(backend, arguments, [CHOICE, *names], task_manager=manager, **options)
        assert results is not None
        runs.append(results)
    theirs, ours = runs
    texts, differing, worst = [], [], 0.0
    for task in (CHOICE, *names):
        assert len(ours["samples"][task]) == len(theirs["samples"][task]) == prompts
        for mine, other in zip(ours["samples"][task], theirs["samples"][task], strict=True):
            if task != CHOICE:
                texts.append(mine["resps"][0][0])
                if mine["resps"] != other["resps"]:
                    differing.append((task, mine["doc_id"], mine["resps"], other["resps"]))
                continue
            for (got, greedy), (want, theirs_greedy) in zip(
                mine["filtered_resps"], other["filtered_resps"], strict=True
            ):
                worst = max(worst, abs(float(got) - float(want)))
                if greedy != theirs_greedy:
                    differing.append((task, mine["doc_id"], greedy, theirs_greedy))
    equal = len(texts) - sum(task != CHOICE for task, *_ in differing)
    print(
        f"\n{folder.name}: {prompts} prompts a task, {prompts} questions; {equal} of {len(texts)} texts equal ", end=""
    )
    print(f"({len(set(texts))} different ones), log-likelihoods within {worst:.1e}", flush=True)
    assert differing == [] and worst <= 1e-4
    for task in (CHOICE, *names):
        assert ours["results"][task] == theirs["results"][task]


def test_multiple_choice_and_local_documents_through_lm_eval(folder, tmp_path, monkeypatch):
    """Sample by sample; a hundred of each with `-m long`."""
    data = tmp_path / "data" / "fda"
    data.mkdir(parents=True)
    page = "Device 7 is made of steel, in 1998, by K. "
    rows = [{"text": f"{page * 2}{i // 4}\n{key}:", "value": key} for i, key in enumerate(["Made", "Year", "By"] * 3)]
    (data / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("RECALL_EVALS_DATA", str(data.parent))
    equal_to_hf(folder("llama"), ["local_fda"], 8, LENGTH)


@pytest.mark.long
@pytest.mark.parametrize("name", causal.CONFIGS)
def test_a_hundred_of_each(name, tmp_path, monkeypatch):
    """Prompts of up to 2,400 tokens; a model of the width and depth of the tiny ones, with GPT-2's vocabulary."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = tiny.shared("data/gpt2/tokenizer.json", f"{name}: 100 prompts of each local task, as hf answers them")
    monkeypatch.setenv("RECALL_EVALS_DATA", str(tiny.SHARED / "data"))
    ends = {"vocab_size": 50257, "bos_token_id": 50256, "eos_token_id": 50256}
    fields = ends | ({"max_position_embeddings": 4096} if "max_position_embeddings" in causal.CONFIGS[name][1] else {})
    folder = tmp_path / name
    causal.build(name, **fields).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), eos_token="<|endoftext|>").save_pretrained(folder)
    equal_to_hf(folder, ["local_fda", "local_swde", "local_squad"], 100, 2560)
