"""Data sets in: one validated, normalised form for every source, and the loaders that produce it.

Normalisation (and the number of classes) are *public constants* (assumption A6 of the privacy theorem): they come from
the literature, from the caller, or are 0.5; they are never computed from the images that are to be protected.
"""

from __future__ import annotations

import math
import operator
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from private_distdd.errors import DataError
from private_distdd.limits import CHANNELS, CLASSES, NAME_LENGTH, PIXELS

ImageShape: TypeAlias = tuple[int, int, int]
PerChannel: TypeAlias = float | Sequence[float]
_Constants: TypeAlias = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class DatasetInfo:
    """What is public about a data set.

    Args:
        name: how reports call it; at most 256 characters.
        num_classes: 2 ... 65,536; labels are 0 ... num_classes - 1.
        image_shape: (channels, height, width), each at least 1; at most 4,096 channels and 2^24 values.
        mean: subtracted from pixels in [0, 1], one number for each channel (a single one is repeated); finite.
        std: then divided out of them, likewise; finite and > 0.

    Raises:
        DataError: an argument is outside its range.
    """

    name: str
    num_classes: int
    image_shape: ImageShape
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= NAME_LENGTH:
            raise DataError(
                f"data set name {self.name!r}", f"a non-empty string of at most {NAME_LENGTH} characters", "Name it."
            )
        if not _is_whole(self.num_classes) or not 2 <= self.num_classes <= CLASSES:
            raise DataError(
                f"num_classes = {self.num_classes!r}",
                f"a whole number of at least 2 and at most {CLASSES}",
                "Count them.",
            )
        shape = self.image_shape
        if not isinstance(shape, Sequence) or len(shape) != 3 or not all(_is_whole(n) and n >= 1 for n in shape):
            raise DataError(f"image_shape = {shape!r}", "(channels, height, width), each >= 1", "Give three numbers.")
        if shape[0] > CHANNELS or math.prod(shape) > PIXELS:  # each channel has constants of its own
            raise DataError(
                f"image_shape = {shape!r}", f"at most {CHANNELS} channels and {PIXELS} values", "Take smaller images."
            )
        object.__setattr__(self, "image_shape", tuple(int(n) for n in shape))
        object.__setattr__(self, "mean", self._per_channel("mean", self.mean))
        object.__setattr__(self, "std", self._per_channel("std", self.std))
        if min(self.std) <= 0:
            raise DataError(f"std = {self.std!r}", "numbers > 0", "Use 0.5 where nothing better is published.")

    def _per_channel(self, field: str, values: Sequence[float]) -> tuple[float, ...]:
        channels = self.image_shape[0]
        if (
            not isinstance(values, Sequence)
            or len(values) not in (1, channels)
            or not all(_is_real(value) and math.isfinite(value) for value in values)
        ):
            raise DataError(f"{field} = {values!r}", f"{channels} finite numbers", "Give one value for each channel.")
        return tuple(float(value) for value in values) * (channels // len(values))

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1], [..., C, H, W], to the scale networks see: (pixel - mean) / std, float32."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return images.to(torch.float32, copy=True).sub_(mean).div_(std)  # one copy, then in place: CIFAR-10 is 700 MB

    def denormalise(self, images: Tensor) -> Tensor:
        """The inverse of `normalise`, unclamped: a synthetic image may leave [0, 1]."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return images * std + mean

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` is its inverse."""
        return asdict(self) | {name: list(getattr(self, name)) for name in ("image_shape", "mean", "std")}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> DatasetInfo:
        """The info that `to_json` wrote.

        Raises:
            DataError: missing or unknown fields, or a value out of range.
        """
        fields = set(cls.__dataclass_fields__)
        if not isinstance(record, Mapping) or set(record) != fields:
            raise DataError(f"data set info {record!r}", f"the fields {sorted(fields)}", "The record is damaged.")
        return cls(**record)


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Normalised images with their labels, in memory; yields (image float32 [C, H, W], label int).

    Args:
        images: floating point [n, C, H, W], already normalised with `info`'s constants, finite; n may be 0.
        labels: integers [n], in 0 ... info.num_classes - 1.
        info: what is public; `info.image_shape` must be the images' shape.

    Attributes:
        images: float32 [n, C, H, W], contiguous, on the CPU (shares memory with the argument where it can).
        labels: int64 [n].

    Raises:
        DataError: shapes, types, pixels or labels are not as above.
    """

    def __init__(self, images: Tensor, labels: Tensor, info: DatasetInfo) -> None:
        self.images = _checked_images(images, info.image_shape)
        self.labels = check_labels(labels, info.num_classes)
        self.info = info
        if len(self.images) != len(self.labels):
            raise DataError(
                f"{len(self.images)} images and {len(self.labels)} labels", "one label an image", "Pair them up."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def check_labels(labels: Tensor, num_classes: int) -> Tensor:
    """`labels` as int64 [n] on the CPU.

    Raises:
        DataError: not a one-dimensional tensor of integers, or one outside 0 ... num_classes - 1.
    """
    allowed, remedy = f"a tensor [n] of integers 0 ... {num_classes - 1}", "Number the classes from 0."
    if not isinstance(labels, Tensor) or labels.dim() != 1 or not _is_integer_type(labels.dtype):
        found = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise DataError(f"labels are {found}", allowed, remedy)
    labels = labels.detach().to("cpu", torch.int64)
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise DataError(f"label {int(labels[index])} of example {index}", allowed, remedy)
    return labels


def materialise(dataset: Dataset[Any], image_shape: ImageShape | None = None) -> tuple[Tensor, Tensor]:
    """A map-style data set as two tensors: images float32 [n, C, H, W] and labels int64 [n].

    `ImageDataset` and any `Subset` of one are read without a loop over examples; everything else is asked for one
    example after another, once.

    Args:
        dataset: yields (float tensor [C, H, W], int or integer tensor without dimensions); may be empty.
        image_shape: what the images must have; needed where the data set is empty.

    Raises:
        DataError: not map-style, labels that are not integers (the range is `check_labels`'s), images of different
            shapes or not of rank 3, NaN or infinite pixels.
    """
    images, labels = _gather(dataset, image_shape)
    return _checked_images(images, image_shape), labels


def carried_info(dataset: Dataset[Any]) -> DatasetInfo | None:
    """The public constants that a data set, or what it is a `Subset` of, carries as `.info`; None without."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    info = getattr(dataset, "info", None)
    return info if isinstance(info, DatasetInfo) else None


def from_torch(
    dataset: Dataset[Any],
    *,
    num_classes: int,
    name: str = "own",
    mean: PerChannel = 0.5,
    std: PerChannel = 0.5,
    image_shape: ImageShape | None = None,
) -> ImageDataset:
    """Any map-style torch data set of ([0, 1] float image [C, H, W], int label), normalised with public constants.

    Args:
        dataset: the examples; read once.
        num_classes: see `DatasetInfo`.
        name: see `DatasetInfo`.
        mean: see `DatasetInfo`.
        std: see `DatasetInfo`.
        image_shape: of the images; needed where the data set is empty.

    Raises:
        DataError: as `materialise`, `check_labels` and `DatasetInfo`, or a pixel outside [0, 1].
    """
    images, labels = materialise(dataset, image_shape)
    info = DatasetInfo(name, num_classes, image_shape_of(images), _channels(mean), _channels(std))
    return ImageDataset(info.normalise(_unit_interval(images, name)), labels, info)


def load_dataset(
    name_or_path: str | Path,
    *,
    root: str | Path | None = None,
    download: bool = False,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[ImageDataset, ImageDataset]:
    """(train, test) of a known data set, a Keras-style file or an image folder.

    - `"digits"`: scikit-learn's 1797 grey 8 x 8 digits (embedded, no download); of each class every fourth example, in
      file order, is the test set.
    - `"mnist"`, `"fashionmnist"`, `"cifar10"`: torchvision's files below `root`.  (CIFAR-10's own format is a pickle;
      torchvision opens it only after its MD5 was found to be the published one.)
    - `"file.npz"`: arrays x_train, y_train, x_test, y_test as Keras writes them, without pickled objects.  x is uint8
      or floating point in [0, 1]; [n, H, W] is grey, [n, H, W, C] is taken where the last axis is 1 or 3 long,
      otherwise [n, C, H, W] where the second is.  y is integer, [n] or [n, 1].
    - `"folder/"`: folder/train/CLASS/IMAGE and folder/test/CLASS/IMAGE; all images are of one size and of mode L (grey)
      or RGB.  Classes are numbered in the order of `classes`, or with `num_classes` named 0, 1, ...; with neither, in
      sorted order of train's folder names.

    The class list is a public constant (assumption A6): for runs with privacy say it, with `num_classes` or `classes`.
    Else it is read off the data, and one example of a new class would change it for all to see.

    Args:
        name_or_path: one of these.
        root: where torchvision's files are; used for its three data sets only.
        download: let torchvision download what is missing.
        mean: public constant of pixels in [0, 1]; default: the literature's for torchvision's three, 0.5 for the rest.
        std: public constant, likewise.
        num_classes: of an `.npz` or a folder; default: 1 + the largest label in the file, or the number of folders.
        classes: of a folder: its classes' names in order, also of those that have no image or no folder.

    Raises:
        DataError: unknown name, missing or unreadable files, or contents that are not as above.
    """
    constants = {field: _channels(value) for field, value in (("mean", mean), ("std", std)) if value is not None}
    name = str(name_or_path)
    path = Path(name_or_path)
    is_npz, is_folder = path.suffix == ".npz", name not in ("digits", *_TORCHVISION) and path.is_dir()
    if num_classes is not None and not (is_npz or is_folder):
        raise DataError(f"num_classes = {num_classes!r} for {name!r}", "None", "Only files and folders leave it open.")
    if classes is not None and (not is_folder or num_classes is not None):
        raise DataError(
            f"classes = {classes!r} for {name!r}", "a folder, and no num_classes", "Only folders have class names."
        )
    if name == "digits":
        return _load_digits(constants)
    if name in _TORCHVISION:
        return _load_torchvision(name, root, download, constants)
    if is_npz:
        return _load_npz(path, num_classes, constants)
    if is_folder:
        return _load_folder(path, _class_names(classes, num_classes), constants)
    raise DataError(
        f"data set {name!r}",
        f"'digits', {', '.join(map(repr, _TORCHVISION))}, a file ending in .npz, or an existing folder",
        "Check the name, or the path from the current folder.",
    )


# Published per-channel constants, as DC uses them (Zhao, Mopuri and Bilen 2021, utils.get_dataset).
_TORCHVISION: dict[str, tuple[str, tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ("MNIST", (0.1307,), (0.3081,)),
    "fashionmnist": ("FashionMNIST", (0.2861,), (0.3530,)),
    "cifar10": ("CIFAR10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


def _load_digits(constants: _Constants) -> tuple[ImageDataset, ImageDataset]:
    from sklearn.datasets import load_digits  # heavy, and not needed by the other sources

    digits = load_digits()
    images = torch.from_numpy(digits.images).unsqueeze(1) / 16  # 0 ... 16 by construction, not by measurement
    labels = torch.from_numpy(digits.target)
    info = DatasetInfo("digits", 10, (1, 8, 8), **constants)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        is_test[(labels == label).nonzero().squeeze(1)[3::4]] = True
    train, test = (ImageDataset(info.normalise(images[part]), labels[part], info) for part in (~is_test, is_test))
    return train, test


def _load_torchvision(
    name: str, root: str | Path | None, download: bool, constants: _Constants
) -> tuple[ImageDataset, ImageDataset]:
    from torchvision import datasets as torchvision_datasets

    class_name, mean, std = _TORCHVISION[name]
    if root is None:
        raise DataError("root = None", f"the folder that holds {class_name}'s files", "Pass root=, and download=True.")
    parts = []
    for train in (True, False):
        try:
            source = getattr(torchvision_datasets, class_name)(str(root), train=train, download=download)
        except (RuntimeError, OSError, ValueError, AssertionError) as error:
            raise DataError(
                f"{class_name} below root = {str(root)!r}: {error}",
                "torchvision's files",
                "Name the folder that holds them, or pass download=True.",
            ) from error
        # The raw arrays: sixty thousand PIL round trips would take a minute.
        pixels, labels = torch.as_tensor(source.data), torch.as_tensor(source.targets)
        pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
        parts.append((pixels, labels))
    info = DatasetInfo(name, 10, image_shape_of(parts[0][0]), **{"mean": mean, "std": std, **constants})
    return _from_pixels(*parts[0], info), _from_pixels(*parts[1], info)


def _load_npz(path: Path, num_classes: int | None, constants: _Constants) -> tuple[ImageDataset, ImageDataset]:
    keys = ("x_train", "y_train", "x_test", "y_test")
    remedy = "Write it with numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)."
    try:
        # Opened here: where the archive is damaged, numpy would leave it open.
        with path.open("rb") as file, _open_npz(file) as archive:
            x_train, y_train, x_test, y_test = (archive[key] for key in keys)
    except FileNotFoundError as error:
        raise DataError(f"no file {str(path)!r}", "an existing .npz", "Check the path.") from error
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path.name}: {error}", f"an .npz of the plain arrays {', '.join(keys)}", remedy) from error
    train = (_npz_images(x_train, "x_train"), _npz_labels(y_train, "y_train"))
    test = (_npz_images(x_test, "x_test"), _npz_labels(y_test, "y_test"))
    if num_classes is None:
        num_classes = 1 + max((int(labels.max()) for _, labels in (train, test) if len(labels)), default=0)
    info = DatasetInfo(path.stem, num_classes, image_shape_of(train[0]), **constants)
    return _from_pixels(*train, info), _from_pixels(*test, info)


def _open_npz(file: BinaryIO) -> np.lib.npyio.NpzFile:
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("a single array")
    return archive


def _npz_images(array: np.ndarray[Any, Any], key: str) -> Tensor:
    if array.dtype == np.uint8:
        pixels = torch.from_numpy(array)
    elif np.issubdtype(array.dtype, np.floating):
        pixels = torch.from_numpy(array.astype(np.float32))
    else:
        raise DataError(f"{key} of type {array.dtype}", "uint8, or floating point in [0, 1]", "Convert the pixels.")
    channels = (1, 3)
    if array.ndim == 3:
        return pixels.unsqueeze(1)
    if array.ndim == 4 and array.shape[3] in channels:
        return pixels.permute(0, 3, 1, 2)
    if array.ndim == 4 and array.shape[1] in channels:
        return pixels
    raise DataError(
        f"{key} of shape {array.shape}", "[n, H, W], [n, H, W, C] or [n, C, H, W] with C = 1 or 3", "Reshape it."
    )


def _npz_labels(array: np.ndarray[Any, Any], key: str) -> Tensor:
    if array.ndim == 2 and array.shape[1] == 1:  # Keras writes CIFAR's labels so
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{key} is {array.dtype} {array.shape}", "integers [n] or [n, 1]", "Number the classes from 0.")
    return torch.from_numpy(array.astype(np.int64))


def _class_names(classes: Sequence[str] | None, num_classes: int | None) -> list[str] | None:
    """The folders' names in the order of their labels; None where nobody said."""
    if classes is None:
        if num_classes is None:
            return None
        if not _is_whole(num_classes) or not 2 <= num_classes <= CLASSES:
            raise DataError(f"num_classes = {num_classes!r}", f"a whole number, 2 ... {CLASSES}", "Count the classes.")
        return [str(label) for label in range(num_classes)]
    names = list(classes) if not isinstance(classes, str) else []
    plain = all(isinstance(name, str) and name and not name.startswith(".") and "/" not in name for name in names)
    if not plain or len(set(names)) != len(names) or not 2 <= len(names) <= CLASSES:
        raise DataError(f"classes = {classes!r}", "2 or more different folder names", "Name each class once.")
    return names


def _load_folder(path: Path, classes: list[str] | None, constants: _Constants) -> tuple[ImageDataset, ImageDataset]:
    layout = f"{path}/train/CLASS/IMAGE and {path}/test/CLASS/IMAGE"
    for part in ("train", "test"):
        if not (path / part).is_dir():
            raise DataError(f"no folder {str(path / part)!r}", layout, "Put the images into this layout.")
    found = {part: sorted(folder.name for folder in _visible(path / part)) for part in _PARTS}
    if classes is None:
        classes = found["train"]
    for part in _PARTS:
        unknown = sorted(set(found[part]) - set(classes))
        if unknown and classes is found["train"]:
            raise DataError(f"class {unknown[0]!r} is in test only", layout, "Give train a folder (it may be empty).")
        if unknown:
            raise DataError(
                f"folder {unknown[0]!r} in {str(path / part)!r}", f"the classes {classes}", "Name it, or move it away."
            )
    files = {part: [(f, n) for n, name in enumerate(classes) for f in _visible(path / part / name)] for part in _PARTS}
    first = next(iter(files["train"]), None)
    if first is None:
        raise DataError(f"no image in {str(path / 'train')!r}", layout, "Put the images into this layout.")
    expected = image_shape_of(_read_image(first[0]))
    info = DatasetInfo(path.resolve().name, len(classes), expected, **constants)
    train, test = (_from_pixels(*_read_images(files[part], expected), info) for part in _PARTS)
    return train, test


_PARTS = ("train", "test")


def _visible(folder: Path) -> list[Path]:
    """The folder's entries, sorted; none where it does not exist; file managers leave hidden files behind."""
    if not folder.is_dir():
        if folder.exists():
            raise DataError(f"{str(folder)!r} is a file", "one folder a class", "Move it out of the data set.")
        return []
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _read_images(files: Sequence[tuple[Path, int]], expected: ImageShape) -> tuple[Tensor, Tensor]:
    pixels = torch.empty((len(files), *expected), dtype=torch.uint8)
    for index, (file, _) in enumerate(files):
        image = _read_image(file)
        if tuple(image.shape) != expected:
            raise DataError(
                f"{str(file)!r} is [channels, height, width] = {list(image.shape)}",
                f"{list(expected)}, as the first image",
                "Resize and convert all images alike.",
            )
        pixels[index] = image
    return pixels, torch.tensor([label for _, label in files], dtype=torch.int64)


def _read_image(file: Path) -> Tensor:
    """uint8 [C, H, W]."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            mode, array = image.mode, np.array(image)
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: how Pillow reports a broken PNG
        raise DataError(f"{str(file)!r} cannot be read as an image", "image files only", "Remove it.") from error
    if mode not in ("L", "RGB"):
        raise DataError(f"{str(file)!r} has mode {mode}", "mode L (grey) or RGB, 8 bits", "Convert all images alike.")
    pixels = torch.from_numpy(array)
    return pixels.unsqueeze(0) if mode == "L" else pixels.permute(2, 0, 1)


def _from_pixels(pixels: Tensor, labels: Tensor, info: DatasetInfo) -> ImageDataset:
    """uint8 or [0, 1] float pixels [n, C, H, W], normalised."""
    if image_shape_of(pixels) != info.image_shape:
        raise DataError(
            f"{info.name}: test images of shape {list(pixels.shape[1:])}", f"{list(info.image_shape)}", "Resize them."
        )
    if pixels.dtype == torch.uint8:
        unit = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    else:
        unit = _unit_interval(pixels, info.name)
    return ImageDataset(info.normalise(unit), labels, info)


def _unit_interval(images: Tensor, name: str) -> Tensor:
    images = _checked_images(images, None)
    outside = ((images < 0) | (images > 1)).flatten(1).any(dim=1).nonzero()
    if len(outside):
        raise DataError(
            f"{name}: image {int(outside[0])} has a pixel outside [0, 1]",
            "floating point pixels in [0, 1]",
            "Divide by the largest value the format allows (255 for 8 bits).",
        )
    return images


def _gather(dataset: Dataset[Any], image_shape: ImageShape | None) -> tuple[Tensor, Tensor]:
    # By type, not by attribute: an unknown class with `.images` may transform them before it yields them.
    if isinstance(dataset, ImageDataset) and type(dataset).__getitem__ is ImageDataset.__getitem__:
        return dataset.images, dataset.labels
    if type(dataset) is Subset and isinstance(dataset.dataset, ImageDataset | Subset) and len(dataset):
        images, labels = _gather(dataset.dataset, image_shape)
        chosen = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return images[chosen], labels[chosen]
    try:
        size = len(dataset)  # type: ignore[arg-type]  # torch's Dataset promises no __len__
    except TypeError as error:
        raise DataError(
            f"a {type(dataset).__name__} without a length", "a map-style data set", "Give it __len__ and __getitem__."
        ) from error
    images_seen: list[Tensor] = []
    labels_seen: list[int] = []
    for index in range(size):
        image, label = _example(dataset, index)
        first = images_seen[0].shape if images_seen else image.shape
        if image.shape != first:
            raise DataError(
                f"image {index} has shape {list(image.shape)}, image 0 {list(first)}", "one shape for all", "Resize."
            )
        images_seen.append(image)
        labels_seen.append(label)
    if not images_seen:
        if image_shape is None:
            raise DataError("an empty data set of unknown image shape", "image_shape=(C, H, W)", "Say the shape.")
        return torch.empty((0, *image_shape)), torch.empty(0, dtype=torch.int64)
    return torch.stack(images_seen), torch.tensor(labels_seen, dtype=torch.int64)


def _example(dataset: Dataset[Any], index: int) -> tuple[Tensor, int]:
    example = dataset[index]
    if not isinstance(example, Sequence) or len(example) != 2:
        raise DataError(f"example {index} is a {type(example).__name__}", "(image, label)", "Yield pairs.")
    image, label = example
    if not isinstance(image, Tensor) or not image.is_floating_point():
        found = image.dtype if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            f"image {index} is {found}", "a floating point tensor [C, H, W]", "Add torchvision's ToTensor()."
        )
    # operator.index alone would take True for 1 and a tensor [1] for a number.
    is_odd = isinstance(label, bool) or (isinstance(label, Tensor) and (label.dtype == torch.bool or label.dim() != 0))
    try:
        if not is_odd:
            return image.detach().to("cpu", torch.float32), operator.index(label)
    except TypeError:
        pass
    raise DataError(
        f"label of example {index} is a {label.dtype if isinstance(label, Tensor) else type(label).__name__}",
        "an int, or an integer tensor without dimensions",
        "Number the classes from 0.",
    )


def _checked_images(images: Tensor, image_shape: ImageShape | None) -> Tensor:
    """float32 [n, C, H, W], contiguous, on the CPU; of `image_shape` where one is given."""
    wanted = "[n, C, H, W]" if image_shape is None else f"[n, {', '.join(map(str, image_shape))}]"
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise DataError(f"images are {found}", f"a floating point tensor {wanted}", "Scale 8-bit pixels to [0, 1].")
    if images.dim() != 4 or image_shape not in (None, tuple(images.shape[1:])):
        raise DataError(f"images of shape {list(images.shape)}", wanted, "Bring all images to this shape.")
    images = images.detach().to("cpu", torch.float32).contiguous()
    broken = (~torch.isfinite(images)).flatten(1).any(dim=1).nonzero()
    if len(broken):
        raise DataError(f"image {int(broken[0])} has a NaN or infinite pixel", "finite pixels", "Repair or drop it.")
    return images


def image_shape_of(images: Tensor) -> ImageShape:
    """(C, H, W) of images [..., C, H, W]."""
    channels, height, width = images.shape[-3:]
    return channels, height, width


def _channels(values: PerChannel) -> tuple[float, ...]:
    return tuple(values) if isinstance(values, Sequence) else (values,)


def _is_integer_type(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
