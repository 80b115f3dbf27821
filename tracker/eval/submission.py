"""The zip file that the MOTChallenge server takes: a text file per sequence at its root, ten values a line.

Source: https://motchallenge.net/instructions/, "File Format" (read in November 2026).
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tracker.errors import WriteError
from tracker.eval.mot_files import fields_of, read_results

N_VALUES = 10  # frame, id, left, top, width, height, conf, x, y, z
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip: the same results give the same bytes


def write_submission(path: Path, results: Sequence[Path]) -> None:
    """Pack result files as <SEQUENCE>.txt; `path` appears when it is complete.

    Raises MotFileError for a malformed result file, with the line, and WriteError.
    """
    unfinished = path.with_name(path.name + ".part")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in results:
                entry = zipfile.ZipInfo(file.name, EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, submission_text(file))
        os.replace(unfinished, path)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def submission_text(path: Path) -> str:
    """A result file with exactly ten values a line; a missing confidence is 1, world coordinates are -1."""
    read_results(path)  # raises MotFileError for a malformed line
    text = io.StringIO(path.read_text(encoding="utf-8-sig"))  # the reader's lines: splitlines() breaks at form feeds
    lines = (fields_of(line) for line in text)
    return "".join(_ten_values([field.strip() for field in fields]) for fields in lines if fields)


def _ten_values(fields: list[str]) -> str:
    confidence = fields[6] if len(fields) > 6 else "1"
    return ",".join([*fields[:6], confidence, *["-1"] * (N_VALUES - 7)]) + "\n"
