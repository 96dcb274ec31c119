"""Training one small model: the loop, what it keeps, and how it goes on after an interruption."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..kernels.precision import plain_sums
from ..models.loading import detect_architecture, model_class
from ..models.sequence_model import SequenceModel
from .initialize import initialize
from .parallel import scores
from .prepared import Source, prepared_hash
from .recipe import Recipe
from .sequences import Sequences

LOG_EVERY = 50  # steps; the loss in the log is the mean over these


class TrainingError(ValueError):
    """Training can't begin or go on; the message names the file and the remedy."""


@dataclass
class Run:
    """A training in progress.

    Attributes:
        step: steps done.
        log: rows of step, tokens, loss (mean cross-entropy a token, nats, over LOG_EVERY steps), rate and seconds.
        seconds: spent in training, over all sessions.
    """

    model: SequenceModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    log: list[dict[str, float]] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)
    seconds: float = 0.0


def loss_of(model: SequenceModel, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of `[B, L + 1]` tokens, each after the first predicted from those before it."""
    return F.cross_entropy(scores(model, tokens[:, :-1]).flatten(0, 1).float(), tokens[:, 1:].flatten())


def new_run(config: dict[str, Any], recipe: Recipe, device: torch.device) -> Run:
    """An untrained model and its optimizer."""
    model = model_class(detect_architecture(config))(config)
    initialize(model, recipe.seed)
    model.to(device)
    # Only what multiplies is decayed: no norm, no bias, and nothing of the scan's own.
    named = dict(model.named_parameters())
    matrices = [p for n, p in named.items() if p.dim() >= 2 and not n.endswith("A_log")]
    others = [p for n, p in named.items() if p.dim() < 2 or n.endswith("A_log")]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    fused = device.type == "cuda"
    return Run(model, torch.optim.AdamW(groups, lr=recipe.rate, betas=recipe.betas, fused=fused))


def train(
    config: dict[str, Any],
    recipe: Recipe,
    sources: dict[str, Source],
    state_file: Path,
    device: torch.device,
    stop_after: float | None = None,
    save_every: float = 120.0,
    workers: int = 0,
    compiled: bool | None = None,
    show: bool = True,
) -> Run:
    """Train to the recipe's last step, or for `stop_after` seconds; goes on from `state_file` where it exists.

    An interruption (Ctrl-C) keeps what was done; at most `save_every` seconds are lost when the process is killed.

    Raises:
        TrainingError: `state_file` belongs to another recipe, configuration or corpus, or can't be read.
    """
    identity = json.dumps([config, json.loads(recipe.as_json()), prepared_hash(sources)], sort_keys=True)
    run = new_run(config, recipe, device)
    if state_file.exists():
        _restore(run, state_file, identity)
    if run.step >= recipe.steps:
        return run
    loss_function: Callable[[SequenceModel, Tensor], Tensor] = loss_of
    if device.type == "cuda" if compiled is None else compiled:
        loss_function = torch.compile(loss_of, dynamic=False)  # once for each length
    batches = _batches(recipe, sources, run.step, workers, device.type == "cuda")
    began = saved = time.perf_counter()
    before = run.seconds
    losses: list[Tensor] = [torch.tensor(x, device=device) for x in run.pending]

    def keep() -> None:
        run.seconds = before + time.perf_counter() - began
        run.pending = [float(x) for x in losses]
        _save(run, state_file, identity)

    progress = tqdm(batches, initial=run.step, total=recipe.steps, disable=not show, mininterval=5, unit="step")
    try:
        for batch in progress:
            losses.append(_step(run, recipe, batch.to(device, non_blocking=True), loss_function))
            if run.step % LOG_EVERY == 0 or run.step == recipe.steps:
                loss = float(torch.stack(losses).mean())
                losses.clear()
                now = time.perf_counter()
                run.log.append(
                    {
                        "step": run.step,
                        "tokens": run.step * recipe.batch_tokens,
                        "loss": round(loss, 5),
                        "rate": recipe.rate_at(run.step - 1),
                        "seconds": round(before + now - began, 1),
                    }
                )
                progress.set_postfix(loss=f"{loss:.3f}")
                if loss != loss:
                    raise TrainingError(f"the loss is NaN at step {run.step}; lower the rate ({recipe.rate})")
                if stop_after is not None and now - began >= stop_after:
                    break
                if now - saved >= save_every:
                    keep()
                    saved = time.perf_counter()
    finally:
        progress.close()
        keep()
    return run


def _batches(recipe: Recipe, sources: dict[str, Source], done: int, workers: int, pinned: bool) -> Iterator[Tensor]:
    """What the steps after the first `done` read, each `[batch_tokens / length, length + 1]`."""
    for stage, (steps, length) in enumerate(recipe.stages):
        if done < steps:
            batch = recipe.batch_tokens // length
            yield from DataLoader(
                Sequences(sources, recipe.mix, length, (recipe.seed, stage)),
                batch_size=batch,
                sampler=range(done * batch, steps * batch),
                num_workers=workers,
                pin_memory=pinned,
                prefetch_factor=8 if workers else None,
            )
        done = max(0, done - steps)


def _step(run: Run, recipe: Recipe, tokens: Tensor, loss_function: Callable[[SequenceModel, Tensor], Tensor]) -> Tensor:
    """One update; returns the loss without waiting for it."""
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.rate_at(run.step)
    with plain_sums(), torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.is_cuda):
        loss = loss_function(run.model, tokens)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), recipe.clip)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    return loss.detach()


def _save(run: Run, file: Path, identity: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".partial")
    kept = {name: getattr(run, name) for name in ("step", "log", "pending", "seconds")}
    state = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(), "identity": identity, **kept}
    torch.save(state, temporary)
    temporary.replace(file)  # a kill while writing leaves the older one


def _restore(run: Run, file: Path, identity: str) -> None:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        if state["identity"] != identity:
            raise TrainingError(
                f"{file} was begun with another recipe, configuration or corpus; give another --work folder, or "
                "remove the file to begin anew"
            )
        run.model.load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        for name in ("step", "log", "pending", "seconds"):
            setattr(run, name, state[name])
    except TrainingError:
        raise
    except Exception as error:  # whatever a damaged pickle brings up
        reason = str(error).strip().partition("\n")[0]
        raise TrainingError(
            f"{file}: can't be read ({type(error).__name__} {reason}); remove it to begin anew"
        ) from error
