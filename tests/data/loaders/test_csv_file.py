"""Tables in CSV files: what is read, and that what cannot be is refused without showing anybody's cell."""

from __future__ import annotations

import contextlib
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset
from private_distdd.data.loaders import csv_file
from private_distdd.errors import DataError

TEXT = "age,income,group\n31,2800.5,0\n40,-1e3,1\n\n25,.5,2\n"


def written(folder: Path, text: str = TEXT, name: str = "people.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_a_table_is_read_as_it_stands(tmp_path: Path) -> None:
    train, test = load_dataset(written(tmp_path))
    assert train.info == DatasetInfo("people", 3, (2,))
    assert train.images.tolist() == [[31.0, 2800.5], [40.0, -1000.0], [25.0, 0.5]]
    assert train.labels.tolist() == [0, 1, 2]
    assert test.images.shape == (0, 2)
    scaled, _ = load_dataset(str(written(tmp_path)), mean=[30, 0], std=[10, 1000], num_classes=5)
    assert scaled.info == DatasetInfo("people", 5, (2,), (30.0, 0.0), (10.0, 1000.0))
    assert torch.allclose(scaled.images[0], torch.tensor([0.1, 2.8005]))
    assert load_dataset(written(tmp_path), std=2)[0].info.std == (2.0, 2.0)


def test_the_column_of_classes_is_the_last_or_the_one_named(tmp_path: Path) -> None:
    path = written(tmp_path, 'kind,"height, cm",weight\ncat,23,4\ndog,"50",20\n cat ,24, 4.5\n')
    train, _ = load_dataset(path, label="kind")
    assert train.info.shape == (2,)
    assert train.labels.tolist() == [0, 1, 0]  # sorted names
    assert train.images.tolist() == [[23, 4], [50, 20], [24, 4.5]]
    train, _ = load_dataset(path, label="kind", classes=["newt", "dog", "cat"])
    assert (train.info.num_classes, train.labels.tolist()) == (3, [2, 1, 2])
    with pytest.raises(DataError, match="column 'kind' holds no number"):
        load_dataset(path)
    with pytest.raises(DataError, match="label = 'size'"):
        load_dataset(path, label="size")


def test_every_fourth_row_of_a_class_or_a_second_file_is_the_test_set(tmp_path: Path) -> None:
    rows = [(f"{n}", f"{n % 3}") for n in range(30)]
    path = written(tmp_path, "x,y\n" + "".join(f"{x},{y}\n" for x, y in rows))
    train, test = load_dataset(path)
    assert test.images.flatten().tolist() == [9, 10, 11, 21, 22, 23]
    assert sorted(torch.cat([train.images, test.images]).flatten().tolist()) == list(range(30))
    other = written(tmp_path, "x,y\n7,2\n", "other.csv")
    train, test = load_dataset(path, test=other)
    assert (len(train), test.images.tolist(), test.labels.tolist()) == (30, [[7.0]], [2])
    assert test.info == train.info
    with pytest.raises(DataError, match=r"other.csv: columns \['z'\]"):
        load_dataset(path, test=written(tmp_path, "z,y\n7,2\n", "other.csv"))
    with pytest.raises(DataError, match=r"other\.csv, line 2: column 'y' holds none of the classes"):
        load_dataset(path, test=written(tmp_path, "x,y\n7,3\n", "other.csv"))
    with pytest.raises(DataError, match="no file"):
        load_dataset(path, test=tmp_path / "missing.csv")
    assert len(load_dataset(path, test=written(tmp_path, "x,y\n", "other.csv"))[1]) == 0


def test_a_class_nobody_has_does_not_change_the_class_list(tmp_path: Path) -> None:
    """A6: one row more must not change what all can see."""
    few, more = "x,y\n1,a\n2,b\n", "x,y\n1,a\n2,b\n3,c\n"
    infos = [load_dataset(written(tmp_path, text), classes=["a", "b", "c"])[0].info for text in (few, more)]
    assert infos[0] == infos[1]
    assert load_dataset(written(tmp_path, few))[0].info != load_dataset(written(tmp_path, more))[0].info


PERSON = "Mrs Fairweather"
# A digit of another script, too: float() would take it.
NO_NUMBERS = ["nan", "NaN", "inf", "-inf", "1e999", "1e39", "-3.5e38", "1_000", "0x10", "--1", "1e", ".", "1d2", ""]
NO_NUMBERS += [" ", "1 5", "\u0663", PERSON]
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("", {}, "no line of column names"),
    ("\n1,2\n", {}, "no line of column names"),
    ("1,2\n3,4\n", {}, "numbers in its first line"),
    ("x,2.5,y\n3,4,0\n", {}, "numbers in its first line"),
    ("x,x,y\n3,4,0\n", {}, "different names"),
    ("x,,y\n3,4,0\n", {}, "none empty"),
    ("y\n0\n", {}, "1 columns"),
    ("x;y\n3;0\n", {}, "with commas between them"),
    ("x,y\n", {}, "no row"),
    ("x,y\n3,0\n3\n", {}, "line 3: 1 cells"),
    ("x,y\n3,0,0\n", {}, "line 2: 3 cells"),
    ("x,y\n3,0\n \n", {}, "line 3: 1 cells"),
    *((f"x,y\n1,0\n{cell},1\n", {}, "line 3: column 'x' holds no number") for cell in NO_NUMBERS),
    ("x,y\n1,0\n2,5\n", {"num_classes": 3}, "line 3: column 'y' holds none of the classes"),
    ("x,y\n1,0\n2,-1\n", {"num_classes": 3}, "none of the classes"),
    ("x,y\n1,0\n2,1.0\n", {"num_classes": 3}, "none of the classes"),
    ("x,y\n1,0\n2,01\n", {"num_classes": 3}, "none of the classes"),
    (f"x,y\n1,a\n2,{PERSON}\n", {"classes": ["a", "b"]}, "line 3: column 'y' holds none of the classes"),
    ("x,y\n1,a\n2,\n", {"classes": ["a", "b"]}, "none of the classes"),
    ("x,y\n1,a\n2,a\n", {}, "num_classes = 1"),
    ("x,y\n1,0\n2,100000\n", {}, "100001 classes"),
    ('x,y\n1,"a\n', {}, "line 2"),
    ("x,y\n1,a\n2,b\n", {"classes": ["a"]}, "2 or more different names"),
    ("x,y\n1,a\n2,b\n", {"classes": ["a", "a"]}, "2 or more different names"),
    ("x,y\n1,a\n2,b\n", {"classes": "ab"}, "2 or more different names"),
    ("x,y\n1,a\n2,b\n", {"classes": ["a", "b"], "num_classes": 2}, "num_classes = 2 and classes"),
    ("x,y\n1,a\n2,b\n", {"num_classes": 1}, "whole number"),
    ("x,y\n1,a\n2,b\n", {"mean": [1.0, 2.0]}, "1 finite numbers"),
    ("x,y\n1,a\n2,b\n", {"std": 0}, "numbers > 0"),
]


@pytest.mark.parametrize(("text", "options", "says"), BAD)
def test_bad_tables_are_refused_and_no_cell_is_shown(
    tmp_path: Path, text: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says) as caught:
        load_dataset(written(tmp_path, text), **options)
    assert caught.value.given
    assert caught.value.allowed
    assert caught.value.remedy
    assert PERSON not in str(caught.value)
    assert PERSON not in repr(caught.value.__cause__)


def test_files_that_are_no_text_or_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        load_dataset(tmp_path / "missing.csv")
    path = tmp_path / "own.csv"
    path.write_bytes(f"x,y\n1,{PERSON}\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match="no text in UTF-8") as caught:
        load_dataset(path)
    assert caught.value.__cause__ is None
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv"):
        load_dataset(tmp_path / "folder.csv")


def test_a_spreadsheet_s_mark_and_line_ends_are_taken(tmp_path: Path) -> None:
    train, _ = load_dataset(written(tmp_path, "\ufeff" + TEXT.replace("\n", "\r\n")), label="group")
    assert train.images.shape == (3, 2)


def test_large_files_and_tables_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = ",".join(f"c{n}" for n in range(5000))
    with pytest.raises(DataError, match="5000 columns"):
        load_dataset(written(tmp_path, f"{wide}\n"))
    with pytest.raises(DataError, match="field larger than"):
        load_dataset(written(tmp_path, "x,y\n" + "1" * 200_000 + ",0\n"))
    monkeypatch.setattr(csv_file, "TABLE_BYTES", 20)
    with pytest.raises(DataError, match="longer than 20 bytes"):
        load_dataset(written(tmp_path))


def test_only_files_and_folders_take_these_options(tmp_path: Path) -> None:
    for name, option in (("digits", {"label": "y"}), (tmp_path, {"label": "y"}), (tmp_path, {"test": "x.csv"})):
        with pytest.raises(DataError, match=r"a file ending in \.csv only"):
            load_dataset(name, **option)  # type: ignore[arg-type]


@given(
    st.lists(
        st.tuples(
            st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-(10**6), 10**6), st.integers(0, 3)
        ),
        min_size=1,
        max_size=20,
    )
)
def test_what_python_writes_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "own.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "label"), *rows])
    train, test = load_dataset(path, num_classes=4)
    found = [
        [*row, label]
        for part in (train, test)
        for row, label in zip(part.images.tolist(), part.labels.tolist(), strict=True)
    ]
    assert sorted(found) == sorted(list(row) for row in rows)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(alphabet='ab01.,;"\n\r-e\x00 ', max_size=60).map(str.encode),
        st.text(alphabet="x,y\n0123.", max_size=60).map(lambda text: b"x,y\n" + text.encode()),
    )
)
@settings(max_examples=200)
def test_whatever_the_bytes_are_there_is_a_table_or_our_own_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("csv") / "own.csv"
    path.write_bytes(data)
    for options in ({}, {"num_classes": 3}, {"classes": ["a", "b"], "label": "y"}):
        with contextlib.suppress(DataError):
            train, test = load_dataset(path, **options)  # type: ignore[arg-type]
            assert train.info == test.info
            assert len(train) >= 1
