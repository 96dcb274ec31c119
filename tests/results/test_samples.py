"""What is read of lm-eval's samples."""

from typing import Any

import jsonlines

import runs
from recall_evals.results.samples import read_samples


def test_the_answer_of_a_multiple_choice_is_its_likeliest(tmp_path):
    row = runs.sample(0, 1.0)
    row["arguments"] = {f"gen_args_{i}": {"arg_0": "Lot:", "arg_1": f" {text}"} for i, text in enumerate(["41", "42"])}
    row["filtered_resps"] = [["-3.5", "False"], ["-1.25", "True"]]
    # `acc_mutual_info` asks each choice without the text too, where another is likelier than any.
    mutual: dict[str, Any] = row | {"doc_id": 2, "arguments": dict(row["arguments"])}
    mutual["arguments"] |= {f"gen_args_{i + 2}": {"arg_0": "", "arg_1": f" {text}"} for i, text in enumerate("78")}
    mutual["filtered_resps"] = [["-1.5", "False"], ["-3.25", "True"], ["-1.0", "False"], ["-9.0", "False"]]
    texts = runs.sample(3, 0.0)  # a task's own class may ask for several
    texts["arguments"] |= {"gen_args_1": texts["arguments"]["gen_args_0"]}
    texts["filtered_resps"] = [" 4", " 5"]
    with jsonlines.open(tmp_path / "samples.jsonl", "w") as file:
        file.write_all([row, runs.sample(1, 0.0, " 7"), mutual, texts])
    found = read_samples(tmp_path / "samples.jsonl")
    assert not found.problems and [sample.answer for sample in found.samples] == [" 42", " 7", " 41", " 4,  5"]
