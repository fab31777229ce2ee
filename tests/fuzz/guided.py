"""Inputs that are guided by the lines of dvi that they reach: ``python -m tests.fuzz.guided TARGET -runs=N``.

The inputs are those of Hypothesis, made of bytes that atheris (libFuzzer) makes up, from 64 random ones on. All flags
of libFuzzer are taken. What fails is printed, and the process ends with another code than 0.
"""

from __future__ import annotations

import collections
import random
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

LONGEST = 2048  # bytes
SEEDS = 64


def main() -> None:
    import atheris  # here, as what is imported after it is changed so that it tells which of its lines run

    with atheris.instrument_imports(include=["dvi"]):
        from tests.fuzz.targets import TARGETS, property_of

    name, *flags = sys.argv[1:]
    seen: collections.Counter[str] = collections.Counter()
    quiet = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
    fuzz_one = quiet(property_of(TARGETS[name], seen)).hypothesis.fuzz_one_input
    told = 0

    def run(content: bytes) -> None:
        nonlocal told
        fuzz_one(content)
        if seen.total() >= told + 1000:
            told = seen.total()
            print(f"{name}: {told:,} guided inputs, {dict(seen.most_common())}", flush=True)

    with tempfile.TemporaryDirectory(prefix="dvi-fuzz-") as corpus:
        for seed in range(SEEDS):
            (Path(corpus) / str(seed)).write_bytes(random.Random(seed).randbytes(LONGEST))
        atheris.Setup([sys.argv[0], "-len_control=0", f"-max_len={LONGEST}", *flags, corpus], run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
