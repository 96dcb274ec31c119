"""`pads=published`: the same answers as one padded batch after the other, read with pads as ordinary tokens."""

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM

import tiny
from recall_evals.adapters.batch_pads import BatchPads
from recall_evals.adapters.lm import BasedLM
from recall_evals.adapters.tokenizer import load_tokenizer

LENGTH, LIMIT, BATCH = 64, 8, 3
ROOM = LENGTH - LIMIT
# Of 2 to 80 bytes; two pairs begin alike, two have equal length, and the longest don't fit.
TEXTS = [
    "Report on the pump. Its colour:",
    "Report on the pump. Its weight in all:",
    "ab",
    "The quick brown fox jumps over it.",
    "zz",
    "x" * 40 + " and a tail of words that is cut on the left",
    "x" * 40 + " and a tail",
    "Lot:",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: str(tiny.save(root / name, config)) for name, config in tiny.CONFIGS.items()}


def ask(lm: BasedLM, texts: list[str]) -> list[str]:
    asked = {"until": [], "max_gen_toks": LIMIT}
    requests = [Instance("generate_until", {}, (text, asked), i) for i, text in enumerate(texts)]
    return lm.generate_until(requests, disable_tqdm=True)


def batches(lm: BasedLM, texts: list[str], pad: int) -> list[tuple[list[int], torch.Tensor]]:
    """Which texts make up each batch, and its matrix [B, w], as `reference/EVAL.md` has it."""
    tokens = [lm.tok_encode(text) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (-len(tokens[i]), texts[i]))
    made = []
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        longest = len(tokens[batch[0]])
        rows = [[pad] * (longest - len(tokens[i])) + tokens[i] for i in batch]
        made.append((batch, torch.tensor(rows)[:, -ROOM:]))
    return made


@torch.inference_mode()
def continued(lm: BasedLM, matrix: torch.Tensor) -> list[str]:
    """Greedy continuations of a batch, the whole of it read again for every token."""
    model, width, vocabulary = lm.model, matrix.shape[1], len(lm.tokenizer)
    for _ in range(LIMIT):
        scores = model.forward(matrix)[:, -1, :vocabulary]
        matrix = torch.cat([matrix, scores.argmax(-1, keepdim=True)], dim=1)
    return [lm.tokenizer.decode(row, skip_special_tokens=True) for row in matrix[:, width:].tolist()]


@pytest.mark.parametrize(("pads", "pad"), [("published", 256), ("published_jrt", 220)])
@pytest.mark.parametrize("name", ["attention", "based", "mamba"])
def test_answers_are_those_of_padded_batches(folders, name, pads, pad):
    lm = BasedLM(folders[name], max_length=LENGTH, batch_size=BATCH, pads=pads)
    expected = [""] * len(TEXTS)
    for batch, matrix in batches(lm, TEXTS, pad):
        for i, text in zip(batch, continued(lm, matrix), strict=True):
            expected[i] = text
    assert ask(lm, TEXTS) == expected
    info = lm.get_model_info()
    assert (info["pads"], info["truncated_prompts"]) == (pads, 1)
    assert info["prompt_tokens"] == sum(matrix.numel() for _, matrix in batches(lm, TEXTS, pad))
    assert info["prompt_tokens_computed"] < info["prompt_tokens"], "pads are shared as any prefix is"
    alone = BasedLM(folders[name], max_length=LENGTH, batch_size=BATCH, pads=pads, share_prefixes=False)
    assert ask(alone, TEXTS) == expected
    plain = ask(BasedLM(folders[name], max_length=LENGTH, batch_size=BATCH), TEXTS)
    longest = [batch[0] for batch, _ in batches(lm, TEXTS, pad)]
    assert [plain[i] for i in longest] == [expected[i] for i in longest], "the longest of a batch has no pads"
    assert plain != expected, "pads tell"


def test_other_generation_arguments_are_other_batches(folders):
    lm = BasedLM(folders["mamba"], max_length=LENGTH, batch_size=2, pads="published")
    requests = [
        Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": limit}), i)
        for i, (text, limit) in enumerate([("ab", 8), ("a longer prompt", 8), ("cd", 6), ("much longer prompts", 6)])
    ]
    got = lm.generate_until(requests, disable_tqdm=True)
    apart = [lm.generate_until(requests[part], disable_tqdm=True) for part in (slice(0, 2), slice(2, 4))]
    assert got == apart[0] + apart[1]


def test_jrt_fills_batches_up_first_and_its_encoder_after(folders):
    lm = BasedLM(folders["jrt"], max_length=LENGTH, batch_size=BATCH, pads="published_jrt", left_pad=True)
    got = ask(lm, TEXTS)
    for batch, matrix in batches(lm, TEXTS, 220):
        for i, row in zip(batch, matrix.tolist(), strict=True):
            tokens, flags = lm.model.left_pad(row)  # only these pads are masked
            scores, state = lm.model.prefill(torch.tensor(tokens), [len(tokens)], pads=torch.tensor(flags))
            ids = []
            for _ in range(LIMIT):
                ids.append(int(scores[0, : len(lm.tokenizer)].argmax()))
                scores = lm.model.step(torch.tensor(ids[-1:]), state)
            assert got[i] == lm.tokenizer.decode(ids, skip_special_tokens=True)


def test_likelihoods_have_no_pads(folders):
    requests = [Instance("loglikelihood", {}, (text, " so"), i) for i, text in enumerate(TEXTS)]
    plain, padded = (BasedLM(folders["mamba"], batch_size=BATCH, pads=pads) for pads in (None, "published"))
    assert padded.loglikelihood(requests, disable_tqdm=True) == plain.loglikelihood(requests, disable_tqdm=True)


def test_what_contradicts_it_is_refused(folders, tmp_path):
    def refused(message: str, name: str = "based", **options) -> None:
        with pytest.raises(ValueError, match=message):
            BasedLM(folders[name], **{"pads": "published", "batch_size": 2} | options)

    refused("pads='right' is unknown; choose published or published_jrt", pads="right")
    refused("pads=published: batches decide the scores; give --batch_size a number, not 'auto'", batch_size="auto")
    refused("JRT models took published_jrt with left_pad=true", name="jrt", pads="published_jrt")
    refused("JRT models took published_jrt with left_pad=true", name="jrt", left_pad=True)
    refused("only JRT has this mode", left_pad=True)
    with pytest.raises(ValueError, match="token 220, GPT-2's space, which is none in this tokenizer"):
        BatchPads.of("published_jrt", 2, "based", False, load_tokenizer(None, "based"))
    lm = BasedLM(folders["based"], pads="published", batch_size=2)
    with pytest.raises(ValueError, match="pads=published: an answer depends on its batch, and with --use_cache"):
        CachingLM(lm, str(tmp_path / "cache.db"))
