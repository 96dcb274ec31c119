"""Ctrl-C, and a disk that is full: what was answered is kept, said, and used by the next run."""

import re

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM

import tiny
from recall_evals.adapters import engine
from recall_evals.adapters.lm import BasedLM

TEXTS = [f"page {i}" for i in range(12)]
GREEDY = {"until": [], "max_gen_toks": 4}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return str(tiny.save(tmp_path_factory.mktemp("model"), tiny.BASED))


def generations():
    return [Instance("generate_until", {}, (text, GREEDY), i) for i, text in enumerate(TEXTS)]


def pairs():
    return [Instance("loglikelihood", {}, (text, " end"), i) for i, text in enumerate(TEXTS)]


def interrupt_after(monkeypatch, answers):
    """Ctrl-C arrives while the engine works, after so many answers."""
    generate, score = engine.Engine.generate, engine.Engine.score
    left = [answers]

    def counted(finished):
        def count(*arguments):
            finished(*arguments)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        return count

    monkeypatch.setattr(engine.Engine, "generate", lambda self, jobs, done: generate(self, jobs, counted(done)))
    monkeypatch.setattr(engine.Engine, "score", lambda self, jobs, done: score(self, jobs, counted(done)))


def run(lm):
    return lm.generate_until(generations()), lm.loglikelihood(pairs())


@pytest.mark.parametrize("after", [5, 15])
def test_an_interrupted_run_goes_on_from_a_new_cache(source, after, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    want = run(BasedLM(source))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stopped:
        interrupt_after(patch, after)
        run(BasedLM(source, batch_size=3))
    message = str(stopped.value)
    assert message.startswith(f"interrupted: {after} answers are kept in ")
    name = re.search(r"--use_cache (\S+)", message)[1]
    assert [file.name for file in tmp_path.iterdir()] == [f"{name}_rank0.db"]
    lm = BasedLM(source)
    asked = []
    monkeypatch.setattr(
        lm.engine, "generate", lambda jobs, done: asked.extend(jobs) or type(lm.engine).generate(lm.engine, jobs, done)
    )
    assert run(CachingLM(lm, f"{name}_rank0.db")) == want
    assert len(asked) == max(0, 12 - after)


def test_an_interrupted_run_with_a_cache_names_it(source, tmp_path, monkeypatch):
    file = str(tmp_path / "cache_rank0.db")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stopped:
        interrupt_after(patch, 7)
        run(CachingLM(BasedLM(source), file))
    assert f"7 answers are kept in {file}; run the same command again" in str(stopped.value)
    assert len(CachingLM(BasedLM(source), file).dbdict) == 7


def test_what_cannot_be_kept_is_said(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sampled = [Instance("generate_until", {}, (t, GREEDY | {"do_sample": True, "temperature": 1.0}), 0) for t in TEXTS]
    interrupt_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted: no answer is kept, .*\(sampled ones"):
        BasedLM(source).generate_until(sampled)  # lm-eval never takes a sampled answer from a cache
    interrupt_after(monkeypatch, 3)
    with pytest.raises(
        KeyboardInterrupt, match="^interrupted: no answer is kept, .* those of pads=, .* to begin anew$"
    ):
        BasedLM(source, batch_size=4, pads="published").generate_until(generations())
    interrupt_after(monkeypatch, 3)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(KeyboardInterrupt, match=r"interrupted: 3 answers are lost, they could not be written here \("):
        BasedLM(source).generate_until(generations())


def test_a_cache_on_a_full_disk_stops_the_run_at_once(source, tmp_path):
    lm = CachingLM(BasedLM(source), str(tmp_path / "cache_rank0.db"))
    lm.generate_until(generations()[:2])
    pages = next(lm.dbdict.conn.select("PRAGMA page_count"))[0]
    next(lm.dbdict.conn.select(f"PRAGMA max_page_count = {pages}"))  # sqlite's own way to be full
    many = [Instance("generate_until", {}, (f"{text} {i}" * 30, GREEDY), i) for i in range(60) for text in TEXTS]
    with pytest.raises(OSError, match=r"cache_rank0\.db can't be written \(.*full\); make room there and run the same"):
        lm.generate_until(many)
