"""The engine: requests of token ids in, answers out, through one model.

Requests become a forest of shared prefixes. Its ends are taken in sorted order, a group at a time: the group's paths
are read level by level in packed batches, states fork at branches, and what later groups need of the path is kept.
Generation then runs in slots: a finished sequence gives its slot to the next group. No pad token enters a state
(JRT's left-pad mode aside, which asks for them), and an answer depends on nothing but its request.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

from ..kernels.greedy_choice.dispatch import greedy_choice
from ..models.sequence_model import SequenceModel
from .decoding import Generation
from .forest import Node, Request, build_forest, total_tokens, walk
from .meter import Meter
from .reader import ForestReader
from .scoring import LOGIT_ROWS, Score, ScoreBoard
from .slots import Slots, make_slots


def most_states(slots: int) -> int:
    """The most rows of state that are alive at once with so many slots.

    The slots; for a group of at most half as many, the states held, their forks and the results of a call; the
    prefixes kept for later groups; one row that is measured.
    """
    return slots + 3 * group_size(slots) + _kept_prefixes(slots) + 1


def stepped_states(slots: int) -> int:
    """The most rows of state that are alive during a step: no group is being read then."""
    return slots + _kept_prefixes(slots) + 1


def group_size(slots: int) -> int:
    """The most ends of a forest that are read together, and so sequences in one prefill."""
    return max(1, slots // 2)


def _kept_prefixes(slots: int) -> int:
    return max(2, slots // 4)


class Engine:
    """Answers requests with one model.

    Args:
        slots: sequences decoded at once; at most `most_states(slots)` rows of state are ever alive.
        vocabulary: ids the tokenizer knows; the head's rows from there on are padding and never chosen.
        end: the id that ends an answer, if any.
        decode: ids to text, for stop texts.
        share: read shared prefixes once.
        budget: most tokens in one packed prefill.
        logit_rows: most rows of scores, each as wide as the vocabulary, that are looked at at once.
        state_dtype: of the sums that linear attention keeps while decoding; None: float32 or better.
        quiet: no progress bars.
    """

    def __init__(
        self,
        model: SequenceModel,
        *,
        slots: int,
        vocabulary: int,
        end: int | None,
        decode: Callable[[Sequence[int]], str],
        share: bool = True,
        budget: int = 8192,
        logit_rows: int = LOGIT_ROWS,
        state_dtype: torch.dtype | None = None,
        quiet: bool = False,
    ):
        if min(slots, budget, logit_rows) < 1:
            raise ValueError(f"slots, budget and logit_rows must be >= 1, got {slots}, {budget} and {logit_rows}")
        self.model, self.slots, self.vocabulary = model, slots, vocabulary
        self.end, self.decode, self.share, self.budget, self.quiet = end, decode, share, budget, quiet
        self.logit_rows, self.state_dtype = logit_rows, state_dtype
        self.meter = Meter(state_dtype)

    @torch.inference_mode()
    def generate(self, jobs: Sequence[Generation], finished: Callable[[int], object] = lambda i: None) -> None:
        """Complete every job in place; `finished(i)` is called as each is done.

        Raises:
            ValueError: an empty prompt.
        """
        if empty := [i for i, job in enumerate(jobs) if not job.prompt]:
            raise ValueError(
                f"request {empty[0]} has an empty prompt ({len(empty)} such requests); leave its document out"
            )
        whole = self.model.shortest_split
        roots = self._forest([Request(j.prompt, min(whole, len(j.prompt)), pads=j.pads) for j in jobs])
        with self._bar("prompt tokens", total_tokens(roots)) as read, self._bar("generated tokens", None) as made:
            reader = ForestReader(self.model, self.meter, self.budget, progress=read.update)
            waiting = _Ends(roots)
            slots: Slots | None = None
            running: list[int | None] = [None] * min(self.slots, len(jobs))  # the job in each slot
            latest = [0] * len(running)  # its newest token
            room = max((len(job.prompt) + job.limit for job in jobs), default=0)

            def job_in(row: int) -> tuple[int, Generation]:
                number = running[row]
                assert number is not None
                return number, jobs[number]

            def accept(rows: Sequence[int], chosen: Sequence[Sequence[int]], leads: Sequence[Sequence[float]]) -> int:
                """Give the jobs in slots `rows` their next tokens; how many they took."""
                total = 0
                for row, tokens, lead in zip(rows, chosen, leads, strict=True):
                    number, job = job_in(row)
                    total += job.extend(tokens, lead, self.end, self.decode)
                    latest[row] = tokens[-1]
                    if job.text is not None:
                        self.meter.near_ties += job.near_ties
                        running[row] = None
                        finished(number)
                self.meter.generated_tokens += total
                made.update(total)
                return total

            def choose(rows: Sequence[int], scores: Tensor) -> tuple[list[list[int]], list[list[float]]]:
                """One token for each of the slots `rows` from scores `[len(rows), V]`, and its lead."""
                best, lead = (x.tolist() for x in greedy_choice(scores))
                for i, row in enumerate(rows):
                    _, job = job_in(row)
                    if not job.sampling.greedy:
                        best[i], lead[i] = job.draw(scores[i]), math.inf
                return [[token] for token in best], [[x] for x in lead]

            while True:
                free = [row for row, job in enumerate(running) if job is None]
                if waiting and len(free) >= max(1, len(running) // 4):
                    group, later = waiting.take(min(len(free), group_size(self.slots)), _kept_prefixes(self.slots))
                    ends = [node for node, _ in group]
                    reader.read_paths(ends, later)
                    scores = self.model.logits(reader.hidden(ends))
                    forked = reader.fork(ends)
                    reader.keep(later)
                    if slots is None:
                        state = forked.select([0] * len(running))
                        if self.state_dtype is not None:
                            state = state.accumulated_in(self.state_dtype)
                        self.meter.hold(state)
                        slots = make_slots(self.model, state, self.vocabulary, room)
                        del state
                    rows = free[: len(group)]
                    slots.write(rows, forked)
                    del forked
                    for row, (_, job) in zip(rows, group, strict=True):
                        running[row] = job
                    accept(rows, *choose(rows, scores[:, : self.vocabulary]))
                    continue
                active = [row for row, job in enumerate(running) if job is not None]
                if not active:
                    break
                assert slots is not None
                if not waiting and slots.most_steps == 1 and len(active) <= 3 * len(running) // 4:
                    slots = Slots(self.model, self.meter.hold(slots.state.select(active)), self.vocabulary)
                    running, latest = [running[r] for r in active], [latest[r] for r in active]
                    continue
                began = time.perf_counter()
                tokens, working = [latest[row] for row in active], [job_in(row)[1] for row in active]
                if all(job.sampling.greedy for job in working):
                    steps = min(slots.most_steps, max(job.limit - len(job.tokens) for job in working))
                    made_now = accept(active, *slots.greedy(active, tokens, steps))
                else:
                    made_now = accept(active, *choose(active, slots.scores(active, tokens)))
                self.meter.decoded_tokens += made_now
                self.meter.measure()
                self.meter.decode_seconds += time.perf_counter() - began

    @torch.inference_mode()
    def score(
        self, jobs: Sequence[Score], finished: Callable[[int, tuple[float, bool]], object] = lambda i, r: None
    ) -> list[tuple[float, bool]]:
        """Natural-log likelihood of each continuation, and whether greedy decoding would have produced it.

        A model with an encoder (JRT) reads the context as its prompt; the continuation never enters the encoder.

        Raises:
            ValueError: a job without context or continuation.
        """
        for i, wrong in enumerate(jobs):
            if not 1 <= wrong.context < len(wrong.tokens):
                raise ValueError(
                    f"request {i} needs a context and a continuation; of its {len(wrong.tokens)} tokens "
                    f"{wrong.context} are context"
                )
        whole = self.model.shortest_split
        # The last token is predicted but never read.
        roots = self._forest([Request(j.tokens[:-1], min(whole, j.context), j.context < whole, j.pads) for j in jobs])
        board = ScoreBoard(jobs, roots, self.model.logits, self.vocabulary, self.logit_rows)
        with self._bar("prompt tokens", total_tokens(roots)) as read:
            reader = ForestReader(self.model, self.meter, self.budget, board.visit, read.update)
            waiting = _Ends(roots)
            while waiting:
                group, later = waiting.take(group_size(self.slots), _kept_prefixes(self.slots))
                reader.read_paths([node for node, _ in group], later)
                reader.keep(later)
                for _, job in group:
                    finished(job, (board.totals[job], board.greedy[job]))
        return list(zip(board.totals, board.greedy, strict=True))

    def _forest(self, requests: Sequence[Request]) -> list[Node]:
        self.meter.prompt_tokens += sum(len(r.tokens) for r in requests)
        return build_forest(requests, self.share)

    @contextmanager
    def _bar(self, name: str, total: int | None) -> Iterator[tqdm]:
        with tqdm(total=total, desc=name, unit=" tok", disable=self.quiet, smoothing=0.05) as bar:
            yield bar


class _Ends:
    """The ends of a forest's requests in sorted order, taken group by group."""

    def __init__(self, roots: Sequence[Node]):
        self._ends = [(node, request) for node in walk(roots) for request in node.ends]
        self._next = 0

    def __bool__(self) -> bool:
        return self._next < len(self._ends)

    def take(self, n: int, kept: int) -> tuple[list[tuple[Node, int]], set[Node]]:
        """The next n ends, and of the prefixes that the ends after them share with the last at most `kept`.

        The deepest comes first: the next end goes on from there. Then those with the most tokens of their own.
        """
        group = self._ends[self._next : self._next + n]
        self._next += len(group)
        if not self:
            return group, set()
        ahead = set(self._ends[self._next][0].path())
        shared = [node for node in group[-1][0].path() if node in ahead]
        longest = sorted(shared[:-1], key=lambda node: -len(node.tokens))
        return group, set((shared[-1:] + longest)[:kept])
