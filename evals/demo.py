"""`make demo`: an evaluation from documents to lm-eval's table, on a CPU, with nothing downloaded.

The model's weights are random, so its scores mean nothing; what is shown is the way through the harness.
"""

import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

TASKS = ("fda", "swde", "squad")
LIMIT = 40  # prompts a task
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def main() -> None:
    """Evaluate a random model on the documents at hand; arguments are handed on to lm-eval."""
    # A model this small gains nothing from a second thread, and loses much where another process has its core.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from ..adapters.tokenizer import save_byte_tokenizer
    from ..models.random_model import save_random_model

    with tempfile.TemporaryDirectory(prefix="recall-evals-demo-") as temporary:
        folder = Path(temporary)
        named = os.environ.get("RECALL_EVALS_DATA")
        documents = Path(named) if named else SHARED
        tasks = [t for t in TASKS if any((documents / t).glob("validation.*"))]
        if tasks:
            print(f"Documents: {', '.join(tasks)} of {documents}")
        else:
            documents, tasks = folder / "documents", ["fda"]
            write_forms(documents / "fda" / "validation.jsonl")
            print("Documents: forms made up for this demo (no $RECALL_EVALS_DATA, no ../shared/data)")
        os.environ["RECALL_EVALS_DATA"] = str(documents)

        model = folder / "random-based"
        gpt2 = documents / "gpt2" / "tokenizer.json"
        save_random_model(model, 50257 if gpt2.is_file() else 257)
        if gpt2.is_file():
            shutil.copy(gpt2, model / "tokenizer.json")
        else:
            save_byte_tokenizer(model / "tokenizer.json")
        vocabulary = "GPT-2's vocabulary" if gpt2.is_file() else "bytes for a vocabulary"
        print(f"Model: BASED with RANDOM weights (seed 0) and {vocabulary}: expect scores of zero\n", flush=True)
        evaluate(model, [f"local_{t}" for t in tasks], folder / "out", sys.argv[1:])


def evaluate(model: Path, tasks: list[str], output: Path, options: list[str]) -> None:
    """Run lm-eval's own command line, then print what the run measured."""
    from lm_eval.__main__ import cli_evaluate

    from ..adapters.lm_eval_discovery import install

    install()
    arguments = ["--model", "based", "--model_args", f"pretrained={model}", "--tasks", ",".join(tasks)]
    arguments += ["--batch_size", "16", "--limit", str(LIMIT), "--output_path", str(output), *options]
    print("$ lm_eval", " ".join(arguments), "\n", flush=True)
    sys.argv = ["lm_eval", "run", *arguments]
    cli_evaluate()
    measured = json.loads(next(output.rglob("results_*.json")).read_text(encoding="utf-8"))["config"]
    asked, computed = measured["prompt_tokens"], measured["prompt_tokens_computed"]
    if not computed:
        return  # every answer came from --use_cache
    print(
        f"{computed:,} of {asked:,} prompt tokens were computed ({computed / asked:.1%}): documents that several "
        f"prompts share are read once.\nState of one sequence after {measured['longest_prompt']:,} tokens: "
        f"{measured['state_bytes']:,} bytes. Prefill {measured['prefill_tokens_per_second']:,.0f} tokens/s, "
        f"decoding {measured['decode_tokens_per_second']:,.0f} tokens/s.\n"
        "Trained weights: lm_eval --model based --model_args pretrained=<folder or hub id> --tasks fda,swde"
    )


def write_forms(file: Path) -> None:
    """Forms of four fields with filler between, and a prompt for each field, in the schema of the published sets."""
    draw = random.Random(0)
    rows = []
    for number in range(12):
        fields = {
            "Device name": f"{draw.choice(['Alba', 'Corvo', 'Lumen', 'Pico'])} {draw.randint(100, 999)}",
            "Manufacturer": f"{draw.choice(['North', 'Harbour', 'Quarry'])} {draw.choice(['Works', 'Instruments'])}",
            "Material": draw.choice(["steel", "glass", "nylon", "titanium"]),
            "Lot": f"L{draw.randint(10_000, 99_999)}",
        }
        filler = "It was inspected at receipt and stored dry. "
        text = " ".join(f"{key}: {value}. {filler * draw.randint(1, 4)}" for key, value in fields.items())
        rows += [
            {"doc_id": f"form-{number}", "key": key, "value": value, "text": f"{text}\n{key}:"}
            for key, value in fields.items()
        ]
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
