"""Which work runs when: jobs beside each other, shards of a job before the whole, a failure beside the others."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from .attempt import Outcome
from .jobs import Job
from .ledger import Ledger
from .names import TaskNames
from .worker import Work

REFRESH_SECONDS = 0.5

Shard = list[int] | None


@dataclass
class Progress:
    """How far a job is: shards at work, what ended, and how. `state` is waiting, running, finished or failed."""

    job: Job
    state: str = "waiting"
    running: list[Shard] = field(default_factory=list)
    outcome: Outcome | None = None


def work_of(job: Job, shard: Shard, device: str | None, shard_prompts: int, names: TaskNames) -> Work:
    """What the process of a job or shard is told."""
    model, questions = job.model, job.questions
    args = dict(model.args)
    if model.pretrained is not None:
        args["pretrained"] = model.pretrained  # else lm-eval writes into a folder of an invented name
    return Work(
        folder=str(job.folder.absolute()),
        results=str(job.results.absolute()),
        backend=model.backend,
        args=args,
        tasks=list(questions.tasks),
        only_ours=all(name in names.ours for name in questions.tasks),
        limit=questions.limit,
        num_fewshot=questions.num_fewshot,
        gen_kwargs=questions.gen_kwargs,
        metadata=questions.metadata,
        batch_size=model.batch_size,
        max_batch_size=None,
        in_batches=model.in_batches,
        device=device,
        shard=shard,
        shard_prompts=shard_prompts,
    )


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    place: Callable[[Job, Shard], Outcome],
    ledger: Ledger,
    watch: Callable[[Sequence[Progress], Job | None], None],
    stop: Callable[[], None],
) -> list[Progress]:
    """Run jobs, `workers` pieces of work at a time, until each is finished or has failed.

    Where there are more workers than jobs, each job is first answered in so many shards that all have work, and then
    put together by the process of the whole, which finds every answer there.

    Args:
        place: runs a job, or a shard of it, somewhere, and returns when it has ended.
        watch: called as time goes by and, with its job, when a piece of work has ended.
        stop: ends all that runs, so that `place` returns; called when something (Ctrl-C) breaks in.
    """
    progress = {job.id: Progress(job) for job in jobs}
    of = math.ceil(workers / len(jobs)) if jobs else 1
    pending: dict[Future[Outcome], tuple[Progress, Shard]] = {}
    shown = list(progress.values())
    with ThreadPoolExecutor(max(1, workers)) as pool:

        def submit(one: Progress, shard: Shard) -> None:
            def run() -> Outcome:
                one.running.append(shard)
                if one.state == "waiting":  # neither failed in another shard
                    one.state = "running"
                try:
                    return place(one.job, shard)
                finally:
                    one.running.remove(shard)

            pending[pool.submit(run)] = one, shard

        for one in shown:
            split = of > 1 and not one.job.model.in_batches
            shards: list[Shard] = [[number, of] for number in range(of)] if split else [None]
            for shard in shards:
                submit(one, shard)
        try:
            while pending:
                ended, _ = wait(pending, REFRESH_SECONDS, FIRST_COMPLETED)
                for future in ended:
                    one, shard = pending.pop(future)
                    outcome = future.result()
                    ledger.add(one.job, shard, outcome)
                    if outcome.reason is not None and one.state != "failed":
                        one.state, one.outcome = "failed", outcome
                    elif shard is None and one.state != "failed":
                        one.state, one.outcome = "finished", outcome
                    elif one.state != "failed" and all(other is not one for other, _ in pending.values()):
                        submit(one, None)
                    watch(shown, one.job)
                watch(shown, None)
        except BaseException:
            stop()
            pool.shutdown(cancel_futures=True)
            raise
    return shown
