"""What is read of lm-eval's samples."""

import jsonlines

import runs
from recall_evals.results.samples import read_samples


def test_the_answer_of_a_multiple_choice_is_its_likeliest(tmp_path):
    row = runs.sample(0, 1.0)
    row["arguments"] = {f"gen_args_{i}": {"arg_0": "Lot:", "arg_1": f" {text}"} for i, text in enumerate(["41", "42"])}
    row["filtered_resps"] = [["-3.5", "False"], ["-1.25", "True"]]
    with jsonlines.open(tmp_path / "samples.jsonl", "w") as file:
        file.write_all([row, runs.sample(1, 0.0, " 7")])
    found = read_samples(tmp_path / "samples.jsonl")
    assert not found.problems and [sample.answer for sample in found.samples] == [" 42", " 7"]
