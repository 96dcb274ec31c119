"""What a run holds beside the weights stays below `state_memory`, and makes use of it."""

import random
import string

import pytest
import torch
from lm_eval.api.instance import Instance

import tiny
from recall_evals.adapters.engine import most_states
from recall_evals.adapters.lm import BasedLM
from recall_evals.adapters.memory import Plan, measure, parse_bytes, plan_memory, sequence_bytes
from recall_evals.adapters.tensor_memory import TensorMemory, peak_bytes

MAX_LENGTH = 256
# Bounds at which the memory decides the slots, and the part of them that the load below must use.
BOUNDS = {"attention": ("9MB", 0.5), "based": ("6MB", 0.75), "jrt": ("6MB", 0.75), "mamba": ("1.5MB", 0.6)}


def test_tensors_are_counted_while_they_live():
    x = torch.zeros(100)
    with TensorMemory() as memory:
        y = x + 1
        z = y[10:].view(9, 10)
        assert (memory.bytes, memory.peak) == (400, 400), "a view is no new memory"
        del y
        assert memory.bytes == 400, "the view keeps it"
        del z
        assert (memory.bytes, memory.peak) == (0, 400)
        x.add_(1)
        assert memory.peak == 400, "in place"
    assert peak_bytes(lambda: (torch.ones(50) + 1).sum(), torch.device("cpu")) == pytest.approx(400, abs=8)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("architecture", sorted(BOUNDS))
def test_a_run_stays_within_the_memory_it_was_given(architecture, device, tmp_path):
    """Prompts of one length up to the longest context: every slot is at its largest at once."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU: would have checked the allocator's peak of a run there against state_memory")
    source = str(tiny.save(tmp_path / architecture, tiny.CONFIGS[architecture]))
    bound, used = BOUNDS[architecture]
    lm = BasedLM(source, max_length=MAX_LENGTH, batch_size="auto", state_memory=bound, device=device)
    assert 1 < lm.slots < 64, "the memory decides"
    rng = random.Random(0)

    def text(n):
        return "".join(rng.choices(string.ascii_lowercase, k=n))

    prompts = []
    while len(prompts) < 2 * lm.slots:
        page = text(190)
        prompts += [page + text(42) for _ in range(rng.randint(1, 4))]
    generations = [Instance("generate_until", {}, (p, {"until": [], "max_gen_toks": 24}), 0) for p in prompts]
    continuations = [Instance("loglikelihood", {}, (p[:190], p[190:]), 0) for p in prompts]
    texts = [Instance("loglikelihood_rolling", {}, (p,), 0) for p in prompts]

    def run():
        lm.generate_until(generations, disable_tqdm=True)
        lm.loglikelihood(continuations, disable_tqdm=True)
        lm.loglikelihood_rolling(texts, disable_tqdm=True)

    part = peak_bytes(run, lm.model.device) / parse_bytes(bound)
    print(f"{architecture}: {part:.2f} of {bound} used, {lm.slots} slots, {lm.engine.budget} tokens a prefill")
    assert (used if device == "cpu" else 0) <= part <= 1


def test_the_batch_and_the_prefill_shrink_to_fit(tmp_path):
    model = tiny.build(tiny.BASED)
    needs = measure(model, 2048)
    assert needs.state == sequence_bytes(model, 2048) == model.prefill(torch.arange(99), [99])[1].nbytes
    assert plan_memory(model, 64, None, None, 2048, 8192) == Plan(64, 8192)
    assert plan_memory(model, "auto", 7, "2GB", 2048, 8192) == Plan(7, 8192)
    wide, narrow = (plan_memory(model, 64, None, memory, 2048, 8192) for memory in ("20MB", "5MB"))
    assert 64 > wide.slots > narrow.slots > 1 and 8192 > wide.budget > narrow.budget >= 16
    assert needs.total(wide) <= 20e6 and needs.total(narrow) <= 5e6
    assert most_states(narrow.slots + 1) * needs.state < 5e6 < needs.total(Plan(narrow.slots + 1, narrow.budget))
    with pytest.raises(ValueError, match=r"one sequence at a time needs [\d,]+ bytes, .*more than the 1,000 bytes"):
        plan_memory(model, 1, None, 1000, 2048, 8192)


def test_sizes_are_read():
    assert [parse_bytes(s) for s in ("2GB", "1.5 MiB", 77)] == [2_000_000_000, 1_572_864, 77]
    with pytest.raises(ValueError, match="is no size"):
        parse_bytes("lots")


def test_a_wide_vocabulary_is_scored_in_few_rows():
    model = tiny.build(tiny.changed(tiny.BASED, vocab_size=50_257))
    plan = plan_memory(model, 4, None, "40MB", 256, 8192)
    assert plan.logit_rows < 64 and measure(model, 256).total(plan) <= 40e6
