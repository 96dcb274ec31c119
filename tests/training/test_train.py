"""The training loop: reproducible, resumable, and clear about what is wrong."""

import dataclasses
import json
import shutil

import pytest
import torch

from recall_evals.training.corpus import CorpusError
from recall_evals.training.prepared import load_prepared, prepared_hash
from recall_evals.training.recipe import NAMES, Recipe, published_config
from recall_evals.training.sequences import Mix
from recall_evals.training.train import LOG_EVERY, TrainingError, train

CPU = torch.device("cpu")
MIX = Mix({"fda": 0.4, "pages": 0.2, "books": 0.2, "mini_fda": 0.1, "mini_swde": 0.1})
# The first stage ends between two rows of the log.
RECIPE = Recipe(((LOG_EVERY + 20, 16), (2 * LOG_EVERY - 20, 32)), batch_tokens=64, warmup=10, mix=MIX)


def tiny(name: str) -> dict:
    config = published_config(name) | {"vocab_size": 600}
    return config | ({"d_model": 16, "n_layer": 1} if name == "mamba" else {"n_embd": 16})


def run(config, recipe, corpus, file, **options):
    return train(config, recipe, corpus.sources, file, CPU, show=False, **options)


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_training_gives_the_same_curve_and_weights(name, small_corpus, tmp_path, monkeypatch):
    whole = run(tiny(name), RECIPE, small_corpus, tmp_path / "whole.pt")
    # Stopped twice: between two rows of the log by an exception, as Ctrl-C raises one, and by the clock.
    from recall_evals.training import train as module

    step = module._step

    def interrupted(state, *rest):
        if state.step == LOG_EVERY + 7:
            raise KeyboardInterrupt
        return step(state, *rest)

    monkeypatch.setattr(module, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(name), RECIPE, small_corpus, tmp_path / "parts.pt")
    monkeypatch.setattr(module, "_step", step)
    second = run(tiny(name), RECIPE, small_corpus, tmp_path / "parts.pt", stop_after=0)
    assert second.step == 2 * LOG_EVERY
    third = run(tiny(name), RECIPE, small_corpus, tmp_path / "parts.pt")
    assert third.step == whole.step == RECIPE.steps

    def curve(finished):
        return [(row["step"], row["tokens"], row["loss"], row["rate"]) for row in finished.log]

    assert curve(third) == curve(whole)
    for name_, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, third.model.state_dict()[name_]), name_
    assert whole.log[-1]["loss"] < whole.log[0]["loss"] - 0.5  # it learned something
    assert run(tiny(name), RECIPE, small_corpus, tmp_path / "parts.pt").log == third.log  # nothing left to do


def test_workers_change_nothing(small_corpus, tmp_path):
    recipe = dataclasses.replace(RECIPE, stages=((LOG_EVERY, 32),))
    alone = run(tiny("based"), recipe, small_corpus, tmp_path / "a.pt")
    helped = run(tiny("based"), recipe, small_corpus, tmp_path / "b.pt", workers=2)
    assert [row["loss"] for row in alone.log] == [row["loss"] for row in helped.log]


def test_a_state_of_another_recipe_is_refused(small_corpus, tmp_path):
    file = tmp_path / "state.pt"
    recipe = dataclasses.replace(RECIPE, stages=((2, 32),))
    run(tiny("based"), recipe, small_corpus, file)
    with pytest.raises(TrainingError, match=r"state\.pt was begun with another recipe.*remove the file"):
        run(tiny("based"), dataclasses.replace(recipe, rate=1e-4), small_corpus, file)


def test_a_damaged_state_is_refused(small_corpus, tmp_path):
    file = tmp_path / "state.pt"
    file.write_bytes(b"no state")
    with pytest.raises(TrainingError, match=r"state\.pt: can't be read .* remove it to begin anew"):
        run(tiny("based"), RECIPE, small_corpus, file)


def test_a_loss_of_nan_stops_the_training(small_corpus, tmp_path):
    with pytest.raises(TrainingError, match="the loss is NaN at step 50; lower the rate"):
        run(tiny("based"), dataclasses.replace(RECIPE, rate=1e30), small_corpus, tmp_path / "state.pt")


def test_rates(small_corpus):
    recipe = Recipe(((1000, 32),), 64, warmup=100, rate=1.0, final_rate=0.1)
    rates = [recipe.rate_at(step) for step in range(1000)]
    assert rates[0] == 0.01 and rates[99] == 1.0
    assert rates[100] == pytest.approx(1.0) and rates[-1] == pytest.approx(0.1, abs=1e-4)
    assert rates[550] == pytest.approx(0.55)
    with pytest.raises(ValueError, match="batch_tokens 64 is no multiple of the sequence length 48"):
        Recipe(((1, 48),), 64)
    assert json.loads(recipe.as_json())["mix"]["shares"] == dict(recipe.mix.shares)


def test_prepared_arrays_are_the_same_every_time(small_corpus, tmp_path):
    from recall_evals.training.prepared import prepare

    again = tmp_path / "again.npz"
    prepare(small_corpus.corpus, small_corpus.held_out, small_corpus.tokenizer, again, generated=8)
    assert prepared_hash(load_prepared(again)) == prepared_hash(small_corpus.sources)


def test_missing_prepared_arrays_are_named(small_corpus, tmp_path):
    with pytest.raises(CorpusError, match=r"prepared\.npz: no prepared corpus"):
        load_prepared(tmp_path / "prepared.npz")
    damaged = tmp_path / "damaged.npz"
    shutil.copy(small_corpus.prepared, damaged)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(CorpusError, match=r"damaged\.npz"):
        load_prepared(damaged)


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="needs a GPU; would check updates replayed as a CUDA graph against single ones, and a resumed run",
)
@pytest.mark.parametrize("name", NAMES)
def test_replayed_updates_learn_as_single_ones(name, small_corpus, tmp_path, monkeypatch):
    from recall_evals.training import train as module

    recipe = dataclasses.replace(RECIPE, stages=((LOG_EVERY + 20, 64), (2 * LOG_EVERY - 20, 128)), batch_tokens=512)
    config = tiny(name) | ({} if name == "mamba" else {"n_embd": 64})  # fused attention: heads of at least 16

    def losses(file, **options):
        done = train(config, recipe, small_corpus.sources, tmp_path / file, torch.device("cuda"), show=False, **options)
        return [row["loss"] for row in done.log]

    replayed = losses("replayed.pt")
    losses("parts.pt", stop_after=0)
    resumed = losses("parts.pt")
    monkeypatch.setattr(module.Replayed, "EAGER", recipe.steps)
    single = losses("single.pt")
    assert replayed[-1] < replayed[0] - 0.3
    for other in (resumed, single):  # sums by atomics come in any order, and training enlarges the difference
        assert other == pytest.approx(replayed, abs=0.05)
