"""Data sets in, by name or path.

Normalisation (and the number of classes) are *public constants* (assumption A6 of the privacy theorem): they come from
the literature, from the caller, or are the form's usual ones; they are never computed from the data that is to be
protected.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from private_distdd.data import loaders as _loaders  # noqa: F401 - registers its sources
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import Constant, DatasetInfo, constants
from private_distdd.data.loaders.register import Wanted, published_names, source_of
from private_distdd.data.pixels import Size
from private_distdd.errors import ConfigurationError
from private_distdd.validate import require_path

__all__ = ["load_alike", "load_dataset", "published_names", "require_public_classes"]


def require_public_classes(name: str, said: bool, remedy: str) -> None:
    """Refuse data for a run with privacy whose class list would be read off them (assumption A6).

    Args:
        name: as `load_dataset` takes it.
        said: was `num_classes` or `classes` given?
        remedy: how the reader says them.

    Raises:
        ConfigurationError: neither was, and the data set is no published one.
    """
    if not said and name not in published_names():
        raise ConfigurationError(
            f"{name} with privacy and without its classes",
            "the class list as a public constant",
            f"Reading it off private data would tell something about them: {remedy}",
        )


def load_dataset(
    name_or_path: str | Path,
    *,
    root: str | Path | None = None,
    download: bool = False,
    mean: Constant | None = None,
    std: Constant | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    label: str | None = None,
    test: str | Path | None = None,
    name: str | None = None,
    size: Size | None = None,
    channels: int | None = None,
) -> tuple[ImageDataset, ImageDataset]:
    """(train, test) of a known data set, a Keras-style file, an image folder or a table in a CSV file.

    - `"digits"`: scikit-learn's 1797 grey 8 x 8 digits (embedded, no download); of each class every fourth example, in
      file order, is the test set.
    - `"mnist"`, `"fashionmnist"`, `"cifar10"`: torchvision's files below `root`.  (CIFAR-10's own format is a pickle;
      torchvision opens it only after its MD5 was found to be the published one.)
    - `"wine"`, `"breast_cancer"`, `"iris"`: scikit-learn's tables (embedded, no download), split as the digits are.
    - `"file.npz"`: arrays x_train, y_train, x_test, y_test as Keras writes them, without pickled objects; or
      train_images, train_labels, test_images, test_labels as MedMNIST does, whose val_images and val_labels are not
      read: they are in neither set.  Images are uint8 or floating point in [0, 1]; [n, H, W] is grey, [n, H, W, C] is
      taken where the last axis is 1 or 3 long, otherwise [n, C, H, W] where the second is.  Labels are integers, [n] or
      [n, 1].
    - `"file.csv"`: a first line of column names, then a row an example, with commas between the columns: numbers, and
      one column of classes.  A table's own numbers are normalised with `mean` and `std`, one value a column of numbers
      in their order (default 0 and 1); they must not be computed from data that is to be protected.  Where no `test`
      is given, of each class every fourth row is the test set.
    - `"folder/"`: folder/train/CLASS/IMAGE and folder/test/CLASS/IMAGE; all images are of one size and of mode L (grey)
      or RGB, or become so by `size` and `channels`.

    The classes of a folder or a CSV file are numbered in the order of `classes`, or with `num_classes` named 0, 1, ...;
    with neither they are read off the data: a folder's in the sorted order of train's folder names, a table's as
    numbers from 0 on if all of them are, else in the sorted order of the names that occur.

    The class list is a public constant (assumption A6): for runs with privacy say it, with `num_classes` or `classes`.
    Else it is read off the data, and one example of a new class would change it for all to see.

    Args:
        name_or_path: one of these.
        root: where torchvision's files are; used for its three data sets only.
        download: let torchvision download what is missing.
        mean: public constant, see `DatasetInfo`; default: the literature's for torchvision's three and scikit-learn's
            tables, 0 for other tables, 0.5 for the rest.
        std: public constant, likewise; 1 for other tables, 0.5 for the rest.
        num_classes: of an `.npz`, a folder or a `.csv`; default: as found in the data.
        classes: of an `.npz`, a folder or a `.csv`: its classes' names in order, also of those that have no example.
            They are part of what is public, and stand on card and preview.
        label: of a `.csv`: the name of its column of classes; default: the last column.
        test: of a `.csv`: a second file with the same columns, which is the test set.
        name: of an `.npz`, a folder or a `.csv`: how reports call it, and the sites of one federation alike; default:
            the file's or the folder's own.
        size: of a folder or an `.npz`: height and width, or one number for both, to which images are stretched or
            shrunk; bilinear, with antialiasing.
        channels: of a folder or an `.npz`: 1 makes all images grey, 3 red, green and blue.

    Raises:
        DataError: unknown name, missing or unreadable files, contents that are not as above, or an option that the
            source does not take.
    """
    require_path("name_or_path", name_or_path)
    given = {field: constants(value) for field, value in (("mean", mean), ("std", std)) if value is not None}
    wanted = Wanted(
        str(name_or_path),
        Path(name_or_path),
        root,
        download,
        given,
        num_classes,
        classes,
        label,
        test,
        called=name,
        size=size,
        channels=channels,
    )
    return source_of(wanted).load(wanted)


def load_alike(name_or_path: str | Path, info: DatasetInfo, **given: Any) -> tuple[ImageDataset, ImageDataset]:
    """`load_dataset` with another data set's public constants: normalisation, and the classes where nobody says them.

    Args:
        name_or_path: see `load_dataset`.
        info: the other data set's, such as that on a release's card.
        given: other arguments of `load_dataset`.

    Raises:
        DataError: as `load_dataset`.
    """
    options = source_of(Wanted(str(name_or_path), Path(name_or_path))).options
    if not {"classes", "num_classes"} & set(given):
        if info.classes and "classes" in options:
            given["classes"] = info.classes
        elif str(name_or_path).endswith(".npz"):
            given["num_classes"] = info.num_classes
    return load_dataset(name_or_path, mean=info.mean, std=info.std, **given)
