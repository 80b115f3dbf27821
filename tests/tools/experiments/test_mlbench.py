"""Reading the sets of mlbench: values, classes, missing rows, and what is said where a file or its reader is absent."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from reid_training.errors import DataError
from tools.experiments import mlbench


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mlbench").mkdir()
    return tmp_path


def test_values_classes_and_missing_rows(folder):
    pandas = pytest.importorskip("pandas")
    rdata = pytest.importorskip("rdata")
    table = pandas.DataFrame(
        {
            "Id": ["7", "8", "9", "10"],
            "Size": pandas.Categorical(["1", "10", "10", "3"], ["1", "3", "10"], ordered=True),
            "Thickness": [0.5, 1.5, float("nan"), 3.5],
            "Constant": [4.0, 4.0, 4.0, 4.0],
            "Class": pandas.Categorical(["malignant", "benign", "benign", "malignant"]),
        }
    )
    table = table.astype({"Id": pandas.StringDtype("python")})  # rdata cannot write the strings of pyarrow
    rdata.write_rda(folder / "mlbench" / "BreastCancer.rda", {"BreastCancer": table})
    rows, labels = mlbench.read("BreastCancer", folder)
    np.testing.assert_array_equal(rows, [[1.0, 0.5], [10.0, 1.5], [3.0, 3.5]])
    assert labels.tolist() == [1, 0, 1]


def test_damaged_file_is_named(folder):
    pytest.importorskip("rdata")
    (folder / "mlbench" / "Sonar.rda").write_bytes(b"no data")
    with pytest.raises(DataError, match=r"Sonar\.rda is not Sonar of mlbench, or it is damaged"):
        mlbench.read("Sonar", folder)


def test_absent_file_and_absent_reader_give_one_line(folder, monkeypatch):
    with pytest.raises(DataError, match="r-cran-mlbench of Debian"):
        mlbench.read("Glass", folder)
    (folder / "mlbench" / "Glass.rda").touch()
    monkeypatch.setitem(sys.modules, "rdata", None)
    with pytest.raises(DataError, match=r"reading \.rda files needs rdata; pip install"):
        mlbench.read("Glass", folder)
