"""Fuzzing of every reader of foreign files: it reads the input, or refuses it in one line.

    python -m tests.fuzz                                  # the targets
    python -m tests.fuzz seqinfo --runs 200000            # one of them, guided by coverage (extra: fuzz)
    python -m tests.fuzz all --runs 20000

A target (targets.py) takes bytes. Only TrackletError may come out of it, with one line of text,
within CASE_S seconds and RSS_MB megabytes; anything else is a finding, and its input stays as crash-* or timeout-* in
the folder given by --findings. Each target starts from files that this program's own writers made, or that its formats
describe, and from the words of its format. tests/fuzz/test_fuzz.py runs the same targets under hypothesis.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.targets import TARGETS, Target, place, refusal

CASE_S = 10
RSS_MB = 2048
# Ours, and what of Python's own reads for us and is written in Python.
INSTRUMENTED = ["tracker", "reid_training", "tools", "csv", "configparser", "tomllib", "zipfile"]


def check(target: Target, data: bytes) -> bool:
    """Run one case; True if the input was accepted, False if refused. Raises errors that are not allowed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning on stderr is a line too many
        return refusal(lambda: target.run(data)) is None


def fuzz(name: str, runs: int, findings: Path, seed: int, corpus: Path | None) -> int:
    """Guided by coverage, in a process of its own, for libFuzzer ends it. Returns its status: 0, or a finding's.

    corpus: a folder of inputs to start from beside the seeds; those that reach something new are put there.
    """
    folder = place()  # that of this process, which takes it away
    corpus = corpus or folder / "corpus"
    child = os.fork()
    if child == 0:
        _fuzz_to_the_end(name, runs, findings, seed, corpus)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _fuzz_to_the_end(name: str, runs: int, findings: Path, seed: int, corpus: Path) -> None:
    import atheris

    target = TARGETS[name]
    with atheris.instrument_imports(include=INSTRUMENTED):  # the seeds' writers import the readers, too
        for data in target.seeds():
            check(target, data)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed{number}").write_bytes(data)
    words = "".join('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n' for word in target.words)
    (place() / "words").write_text(words)
    findings.mkdir(parents=True, exist_ok=True)
    flags = [f"-runs={runs}", f"-seed={seed}", f"-timeout={CASE_S}", f"-rss_limit_mb={RSS_MB}", "-print_final_stats=1"]
    flags += [f"-max_len={target.length}", f"-artifact_prefix={findings}/"]
    flags += [f"-dict={place() / 'words'}"] if words else []
    atheris.Setup([sys.argv[0], *flags, str(corpus)], lambda data: check(target, data))
    atheris.Fuzz()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("target", nargs="?", choices=[*TARGETS, "all"], help="without one: their names")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--corpus", type=Path, help="folder for inputs that reach something new; it is started from")
    parser.add_argument("--case", type=Path, help="run this one input, a finding, instead")
    args = parser.parse_args(argv)
    if args.target is None:
        print("\n".join(TARGETS))
    elif args.case is not None:
        print("taken" if check(TARGETS[args.target], args.case.read_bytes()) else "refused in one line")
    elif args.target == "all":
        return _fuzz_all(args.runs, args.seed, args.findings, args.corpus)
    else:
        corpus = None if args.corpus is None else args.corpus / args.target
        return fuzz(args.target, args.runs, args.findings / args.target, args.seed, corpus)
    return 0


def _fuzz_all(runs: int, seed: int, findings: Path, corpus: Path | None) -> int:
    """One after another; a line for each, and what libFuzzer said of those with a finding."""
    failed = 0
    for name in TARGETS:
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            name,
            f"--runs={runs}",
            f"--seed={seed}",
            f"--findings={findings}",
        ]
        command += [] if corpus is None else [f"--corpus={corpus}"]
        start_s = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        said = done.stderr.decode("utf-8", "replace")
        cases = re.findall(r"number_of_executed_units: (\d+)", said)
        reached = re.findall(r"cov: (\d+)", said)
        print(json.dumps({
            "target": name, "status": done.returncode, "cases": int(cases[-1]) if cases else None,
            "edges": int(reached[-1]) if reached else None, "edges_of_seeds": int(reached[0]) if reached else None,
            "seconds": round(time.monotonic() - start_s),
        }), flush=True)  # fmt: skip
        if done.returncode:
            failed += 1
            print(said[-2000:], file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
