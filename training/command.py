"""`recall-evals train NAME`: from the corpora to a checkpoint, in one command that may be interrupted and repeated."""

import platform
from pathlib import Path

import torch

from .. import __version__
from .corpus import corpus_folder, corpus_hash
from .export import export
from .held_out import held_out
from .prepared import load_prepared, prepare, prepared_hash
from .recipe import Recipe, published_config
from .tokenizer import train_tokenizer
from .train import train


def run_recipe(
    name: str,
    corpus: Path | None,
    held_out_folder: Path | None,
    work: Path,
    output: Path | None,
    device: str,
    stop_after: float | None,
    workers: int,
    recipe: Recipe | None = None,
) -> bool:
    """Train the small model `name`; what is done already (tokenizer, prepared corpus, steps) is taken from `work`.

    Args:
        corpus: folder of the corpora (corpus.py).
        held_out_folder: of the validation sets (decontaminate.py); default: the folder above the corpora.
        work: where everything unfinished is kept, for all models.
        output: the checkpoint's folder; default: `checkpoints/<name>` below the working directory.
        stop_after: seconds of training; None trains to the end.

    Returns:
        Whether the training is complete and the checkpoint written.

    Raises:
        CorpusError, TrainingError, ValueError: with the file and the remedy.
    """
    recipe = recipe or Recipe()
    config = published_config(name)
    folder = corpus_folder(corpus)
    kept_out = held_out_folder or folder.parent
    tokenizer_file, prepared_file = work / "tokenizer.json", work / "prepared.npz"
    if not tokenizer_file.is_file():
        print("Training the tokenizer ...", flush=True)
        train_tokenizer(folder, kept_out, tokenizer_file, config["vocab_size"])
    if not prepared_file.is_file():
        print("Tokenising the corpora ...", flush=True)
        prepare(folder, kept_out, tokenizer_file, prepared_file)
    sources = load_prepared(prepared_file)
    target = torch.device(device)
    run = train(config, recipe, sources, work / f"{name}.pt", target, stop_after, workers=workers)
    if run.step < recipe.steps:
        print(f"{name}: {run.step:,} of {recipe.steps:,} steps done; the same command goes on from here")
        return False
    from tokenizers import Tokenizer

    measured = held_out(run.model, Tokenizer.from_file(str(tokenizer_file)), kept_out / "books", recipe.length)
    accelerator = torch.cuda.get_device_name(target) if target.type == "cuda" else platform.machine()
    provenance = {
        "trained on": f"{accelerator} in {run.seconds:,.0f} s; PyTorch {torch.__version__}, Python "
        f"{platform.python_version()}, recall-evals {__version__}",
        "SHA-256 of the corpora": f"`{corpus_hash(folder)}`",
        "SHA-256 of the tokenised documents": f"`{prepared_hash(sources)}`",
    }
    output = output or Path("checkpoints") / name
    export(name, config, recipe, run, tokenizer_file, measured, provenance, output)
    print(f"{name}: held-out perplexity {measured.perplexity:.2f}; written to {output}")
    return True
