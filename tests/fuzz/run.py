"""Fuzzes one target guided by coverage: `python tests/fuzz/run.py TARGET --minutes 10`.

libFuzzer (through atheris, which is not among the project's dependencies: `pip install atheris`) makes bytes, from
which Hypothesis draws the target's inputs; what reaches new lines of our code is kept and varied. A failure prints its
inputs, which then become a line in test_found_cases.py.
"""

import argparse
import itertools
import random
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `import tiny`, as under pytest

MEMORY = 4 << 30  # bytes of address space beyond what the imports take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=("configuration", "weights", "documents", "stops"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--corpus", help="folder that keeps what reached new code; default: a temporary one")
    arguments = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("fuzzing by coverage needs atheris: pip install atheris (the tests do without it)")

    with atheris.instrument_imports(include=["recall_evals"]):
        from fuzz.targets import TARGETS
    from hypothesis import given, settings
    from hypothesis import strategies as st
    from torch._weights_only_unpickler import Unpickler

    Unpickler.load = atheris.instrument_func(Unpickler.load)  # type: ignore[method-assign]

    check, inputs = TARGETS[arguments.target]

    checked = itertools.count(1)

    @settings(database=None, deadline=None)
    @given(st.data())
    def one(data: Any) -> None:
        drawn = data.draw(inputs())
        if (n := next(checked)) % 1000 == 0:  # fewer than libFuzzer's runs: of some bytes nothing can be drawn
            print(f"{n:,} inputs checked", flush=True)
        try:
            check(*drawn)
        except BaseException:
            print(f"FOUND {check.__name__}{drawn!r}"[:100_000], flush=True)
            raise

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    corpus = Path(arguments.corpus or tempfile.mkdtemp(prefix="recall-evals-corpus-"))
    for seed in range(50):
        (corpus / f"seed-{seed}").write_bytes(random.Random(seed).randbytes(2048))
    flags = [f"-max_total_time={round(arguments.minutes * 60)}", "-timeout=60", "-rss_limit_mb=0"]
    flags += ["-max_len=4096", "-len_control=0"]
    atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={corpus}/", str(corpus)], one.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
