"""Each fuzz target for a few seconds, without a fuzzer; run.py does the same for as long as wanted."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS

EXAMPLES = {"configuration": 120, "weights": 250, "documents": 400, "stops": 500}


@pytest.mark.parametrize("target", TARGETS)
def test_foreign_bytes(target: str) -> None:
    check, inputs = TARGETS[target]

    # The same inputs every time: what a fuzzer would find by chance must not stop an unrelated change.
    @settings(
        max_examples=EXAMPLES[target],
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(st.data())
    def examples(data: Any) -> None:
        check(*data.draw(inputs()))

    examples()
