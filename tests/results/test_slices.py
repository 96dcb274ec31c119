"""Slices: accuracy by brute force, what stays apart, the plot."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from recall_evals.results.slices import Record, cells, counts_table, plot_slices, slicings
from recall_evals.results.statistics import clustered_standard_error


def record(**fields) -> Record:
    return replace(Record("m", "t", "d", "k", 1.0, 100, 100, 10, 0.25, True, 1, 2), **fields)


def test_labels_of_bins():
    depth, distance, length, answer, repeats, _ = slicings([record()])

    def label(slicing, **fields):
        return slicing.label(slicing.bin(record(**fields)))

    assert [label(depth, depth=d) for d in (0.0, 0.0999, 0.3, 0.7, 0.999)] == [
        "0 to 10",
        "0 to 10",
        "30 to 40",
        "70 to 80",
        "90 to 100",
    ]
    assert [label(distance, distance=d) for d in (0, 1, 2, 3, 4, 1023, 1024)] == [
        "0",
        "1",
        "2 to 3",
        "2 to 3",
        "4 to 7",
        "512 to 1,023",
        "1,024 to 2,047",
    ]
    assert label(length, read_tokens=64, prompt_tokens=500) == "64 to 127"
    assert [label(answer, answer_tokens=n) for n in (1, 2, 3, 4, 5, 8, 9)] == [
        "1",
        "2",
        "3 to 4",
        "3 to 4",
        "5 to 8",
        "5 to 8",
        "9 to 16",
    ]
    assert [label(repeats, repeats=n) for n in (1, 2, 3, 4, 5, 50)] == [
        "1",
        "2",
        "3 to 4",
        "3 to 4",
        "5 or more",
        "5 or more",
    ]


def test_keys_are_the_most_frequent_and_the_rest():
    records = [record(key=f"k{i}") for i in range(14) for _ in range(20 - i)]
    keys = slicings(records)[-1]
    found = {keys.label(place): cell.n for place, cell in cells(records, keys).items()}
    assert found == {**{f"k{i}": 20 - i for i in range(12)}, "all other keys": 8 + 7}
    keys = slicings([record(), record(key=None)])[-1]
    assert [keys.label(place) for place in cells([record(), record(key=None)], keys)] == ["k", "no key"]


@pytest.fixture
def many() -> list[Record]:
    draw = random.Random(0)
    return [
        record(
            document=f"d{draw.randrange(40)}",
            key=draw.choice("abc"),
            score=float(draw.random() < 0.6),
            read_tokens=draw.randrange(1, 3000),
            distance=draw.randrange(2000),
            depth=draw.random(),
            repeats=draw.randrange(1, 8),
            answer_tokens=draw.randrange(1, 20),
            survived=draw.choice([True, True, True, False, None]),
        )
        for _ in range(600)
    ]


def test_cells_by_brute_force(many):
    depth, distance, *_ = slicings(many)
    found = cells(many, depth)
    for tenth in range(10):
        inside = [r for r in many if r.survived and tenth / 10 <= r.depth < (tenth + 1) / 10]
        scores = [r.score for r in inside]
        assert found[tenth].n == len(inside) > 0
        assert found[tenth].share == pytest.approx(np.mean(scores))
        assert found[tenth].error == pytest.approx(clustered_standard_error(scores, [r.document for r in inside]))
    found = cells(many, distance)
    for place, cell in found.items():
        low, high = (2 ** (place - 1), 2**place) if place else (0, 1)
        inside = [r.score for r in many if r.survived and low <= r.distance < high]
        assert (cell.n, cell.share) == (len(inside), pytest.approx(np.mean(inside)))
    for slicing in slicings(many):
        assert sum(cell.n for cell in cells(many, slicing).values()) == sum(r.survived is True for r in many)


def test_errors_cluster_by_the_documents_of_a_task():
    same = [record(score=float(i % 2)) for i in range(4)]
    repeats = slicings(same)[4]
    assert math.isnan(cells(same, repeats)[1].error)  # one document
    other = [replace(r, task=f"t{i}") for i, r in enumerate(same)]
    assert cells(other, repeats)[1].error == pytest.approx(clustered_standard_error([0, 1, 0, 1], range(4)))
    none = [replace(r, document=None) for r in same]
    assert cells(none, repeats)[1].error == pytest.approx(cells(other, repeats)[1].error)


def test_what_stays_apart_is_counted_and_in_no_slice():
    records = [record(), record(score=0.0, document="e"), record(survived=False), record(survived=None, repeats=0)]
    text = counts_table({"m": records, "n": records[:1]})
    row = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:4]] for line in text.splitlines()}
    assert row["all prompts"][0].endswith("(4)") and row["all prompts"][1] == "100.0 (1)"
    assert row["in the slices"][0] == "50.0 ± 50.0 (2)"
    assert row["apart: answer cut away by truncation"] == ["100.0 (1)", "0"]
    assert row["apart: answer nowhere in the prompt"] == ["100.0 (1)", "0"]
    for slicing in slicings(records):
        assert sum(cell.n for cell in cells(records, slicing).values()) == 2


def test_plot(many, tmp_path):
    models = {f"model {i}": [replace(r, score=r.score * (i != 1)) for r in many] for i in range(5)}
    models["all cut"] = [record(survived=False)]
    plot_slices(models, tmp_path / "plots" / "slices.svg")
    svg = (tmp_path / "plots" / "slices.svg").read_text()
    for text in (*models, "depth in %", "distance in tokens", "answer tokens", "repeats of the answer", "right (%)"):
        assert f">{text}<" in svg, text
    assert ">key<" not in svg
    plot_slices(models, tmp_path / "slices.png")
    header = (tmp_path / "slices.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert int.from_bytes(header[16:20], "big") == 1020  # 3.4 inches, a column, at 300 dots an inch
