"""Training one small model: the loop, what it keeps, and how it goes on after an interruption."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
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
LossFunction = Callable[[SequenceModel, Tensor], Tensor]


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
    on_gpu = device.type == "cuda"
    rate = torch.tensor(recipe.rate, device=device)  # a tensor, since a CUDA graph reads it anew at each replay
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=recipe.betas, fused=on_gpu, capturable=on_gpu)
    return Run(model, optimizer)


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
    loss_function: LossFunction = loss_of
    if device.type == "cuda" if compiled is None else compiled:
        torch.compiler.reset()  # what an earlier training of this process compiled counts against a limit
        loss_function = torch.compile(loss_of, dynamic=False)  # once for each length
    update = (
        Replayed(run, recipe, loss_function) if device.type == "cuda" else partial(_step, run, recipe, loss_function)
    )
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
            losses.append(update(batch.to(device, non_blocking=True)))
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


def _step(run: Run, recipe: Recipe, loss_function: LossFunction, tokens: Tensor) -> Tensor:
    """One update; returns the loss without waiting for it."""
    _set_rate(run, recipe)
    loss = _update(run, recipe, loss_function, tokens)
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    return loss


def _set_rate(run: Run, recipe: Recipe) -> None:
    for group in run.optimizer.param_groups:
        group["lr"].fill_(recipe.rate_at(run.step))


def _update(run: Run, recipe: Recipe, loss_function: LossFunction, tokens: Tensor) -> Tensor:
    # Inside a CUDA graph, casts of weights that autocast kept from outside would not be made anew.
    with plain_sums(), torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.is_cuda, cache_enabled=False):
        loss = loss_function(run.model, tokens)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), recipe.clip)
    run.optimizer.step()
    return loss.detach()


class Replayed:
    """`_step` on a GPU: after a few updates of a shape, one CUDA graph of the whole update is replayed.

    These models are so small that their several hundred launches would take longer than their work.
    """

    EAGER = 3  # updates of a shape before its graph is recorded: they compile, and fill the optimizer's state

    def __init__(self, run: Run, recipe: Recipe, loss_function: LossFunction):
        self.run, self.recipe, self.loss_function = run, recipe, loss_function
        self.stream = torch.cuda.Stream()  # recording must begin where the updates before it ran
        self.shape, self.seen = torch.Size(), 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        if tokens.shape != self.shape:
            self.graph, self.shape, self.seen = None, tokens.shape, 0
            self.run.optimizer.zero_grad(set_to_none=True)  # gradients that lie in the memory of the last graph
        if self.graph is None:
            if self.seen < self.EAGER:
                self.seen += 1
                self.stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self.stream):
                    loss = _step(self.run, self.recipe, self.loss_function, tokens)
                torch.cuda.current_stream().wait_stream(self.stream)
                return loss
            self.graph, self.tokens = torch.cuda.CUDAGraph(), tokens.clone()
            # Of this thread alone: the one that pins batches calls CUDA meanwhile.
            with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
                self.loss = _update(self.run, self.recipe, self.loss_function, self.tokens)
        self.tokens.copy_(tokens)
        _set_rate(self.run, self.recipe)
        self.graph.replay()
        self.run.step += 1
        return self.loss.clone()


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
        rates = [group["lr"] for group in run.optimizer.param_groups]
        run.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(run.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate  # on the device, where the loaded one is not
        for name in ("step", "log", "pending", "seconds"):
            setattr(run, name, state[name])
    except TrainingError:
        raise
    except Exception as error:  # whatever a damaged pickle brings up
        reason = str(error).strip().partition("\n")[0]
        raise TrainingError(
            f"{file}: can't be read ({type(error).__name__} {reason}); remove it to begin anew"
        ) from error
