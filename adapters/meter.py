"""What a run did and held, measured."""

import weakref
from dataclasses import dataclass, field

import torch

from ..models.state import State


@dataclass
class Meter:
    """Counts of one engine.

    Attributes:
        state_dtype: of the sums in a state while decoding, where that is not the prefill's.
        prompt_tokens, prompt_tokens_computed: asked for, and read after sharing.
        generated_tokens: all; decoded_tokens: those that took a decoding step (not the first after a prompt).
        prefill_seconds, decode_seconds: wall time.
        truncated: prompts that were cut on the left to fit the context.
        near_ties: greedy choices whose lead over the second best was below `decoding.NEAR_TIE`.
        peak_states, peak_bytes: most rows of states, and bytes of their tensors, that were alive at once.
        longest_prompt, state_bytes: the longest prompt read, and the bytes of one sequence's state after it.
    """

    state_dtype: torch.dtype | None = None
    prompt_tokens: int = 0
    prompt_tokens_computed: int = 0
    generated_tokens: int = 0
    decoded_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    truncated: int = 0
    near_ties: int = 0
    peak_states: int = 0
    peak_bytes: int = 0
    longest_prompt: int = 0
    state_bytes: int = 0
    _live: dict[int, weakref.ref[State]] = field(default_factory=dict)

    def hold(self, state: State) -> State:
        """Count a state for as long as it is alive."""
        self._live[id(state)] = weakref.ref(state)
        weakref.finalize(state, self._live.pop, id(state), None)
        self.measure()
        return state

    def measure(self) -> None:
        """Look at the live states as they are now: some grow while they are held."""
        states = [state for reference in list(self._live.values()) if (state := reference()) is not None]
        self.peak_states = max(self.peak_states, sum(len(state) for state in states))
        self.peak_bytes = max(self.peak_bytes, sum(state.nbytes for state in states))

    @property
    def live_states(self) -> int:
        """Rows of all states that are alive."""
        return sum(len(state) for reference in self._live.values() if (state := reference()) is not None)

    def measure_state(self, state: State, row: int, prompt: int) -> None:
        """Remember the size of one sequence's state if its prompt is the longest so far."""
        if prompt > self.longest_prompt:
            one = state.select([row])
            if self.state_dtype is not None:
                one = one.accumulated_in(self.state_dtype)
            self.longest_prompt, self.state_bytes = prompt, one.nbytes

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens read per second, shared ones counted once; None before any was read."""
        return self.prompt_tokens_computed / self.prefill_seconds if self.prefill_seconds else None

    @property
    def decode_rate(self) -> float | None:
        """Tokens decoded per second, all slots together; None before any was."""
        return self.decoded_tokens / self.decode_seconds if self.decode_seconds else None
