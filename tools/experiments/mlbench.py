"""Small sets of the UCI repository, in the files of R's package mlbench; reading them needs the extra `experiments`.

mlbench: Machine Learning Benchmark Problems. Friedrich Leisch, Evgenia Dimitriadou. The files NAME.rda are in the
package r-cran-mlbench of Debian and Ubuntu (/usr/lib/R/site-library/mlbench/data), and in the folder data/ of its
source on CRAN; they belong in the folder mlbench/ of --data.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reid_training.data.base import IntArray
from reid_training.errors import DataError

FloatArray = npt.NDArray[np.float64]
# name -> column of the class, columns left out: an identifier, and the speaker, who is not heard again
SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Ionosphere": ("Class", ()),
    "Sonar": ("Class", ()),
    "Vehicle": ("Class", ()),
    "Vowel": ("Class", ("V1",)),
    "Satellite": ("classes", ()),
    "PimaIndiansDiabetes": ("diabetes", ()),
    "Glass": ("Type", ()),
    "BreastCancer": ("Class", ("Id",)),
}


def read(name: str, data: Path) -> tuple[FloatArray, IntArray]:
    """Rows (N, d) and classes (N,), 0 and so on. Rows with a missing value are left out; constant columns too."""
    file = data / "mlbench" / f"{name}.rda"
    if not file.is_file():
        raise DataError(f"no file {file}; it comes with R's package mlbench (r-cran-mlbench of Debian)")
    try:
        import rdata
    except ModuleNotFoundError:
        raise DataError('reading .rda files needs rdata; pip install "tracklet[experiments]"') from None
    target, dropped = SETS[name]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the files name no encoding; all their text is ASCII
            table = rdata.read_rda(file)[name].dropna()
        labels = np.unique(table[target].astype(str).to_numpy(), return_inverse=True)[1]
        rows = table.drop(columns=[target, *dropped]).astype(float).to_numpy()
    except (OSError, EOFError, KeyError, ValueError, NotImplementedError) as error:
        raise DataError(f"{file} is not {name} of mlbench, or it is damaged: {error!r}") from None
    return rows[:, np.ptp(rows, axis=0) > 0], labels.astype(np.int64)
