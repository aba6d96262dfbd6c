"""A folder of images, one folder a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.form import Shape
from private_distdd.data.info import DatasetInfo
from private_distdd.data.loaders.register import Loaded, Source, Wanted, register_source
from private_distdd.data.normalised import from_pixels
from private_distdd.data.pixels import checked_channels, from_picture
from private_distdd.errors import DataError

_PARTS = ("train", "test")


def load_folder(wanted: Wanted) -> Loaded:
    """The images of both parts.

    Raises:
        DataError: the layout is another, or an image cannot be read or is unlike the others.
    """
    path = wanted.path
    classes = wanted.class_names(plain=lambda name: not name.startswith(".") and "/" not in name)
    layout = f"{path}/train/CLASS/IMAGE and {path}/test/CLASS/IMAGE"
    for part in _PARTS:
        if not (path / part).is_dir():
            raise DataError(f"no folder {str(path / part)!r}", layout, "Put the images into this layout.")
    found = {part: sorted(folder.name for folder in _visible(path / part)) for part in _PARTS}
    if classes is None:
        classes = found["train"]
        if unknown := sorted(set(found["test"]) - set(classes)):
            raise DataError(f"class {unknown[0]!r} is in test only", layout, "Give train a folder (it may be empty).")
    files = {part: _labelled(path / part, classes) for part in _PARTS}
    first = next(iter(files["train"]), None)
    if first is None:
        raise DataError(f"no image in {str(path / 'train')!r}", layout, "Put the images into this layout.")
    expected = tuple(_read_image(first[0], wanted).shape)
    called = wanted.called or path.resolve().name
    info = DatasetInfo(called, len(classes), expected, classes=tuple(classes), **wanted.constants)
    train, test = (from_pixels(*_read_images(files[part], expected, wanted), info) for part in _PARTS)
    return train, test


def load_part(folder: Path, info: DatasetInfo, wanted: Wanted) -> tuple[ImageDataset, list[Path]]:
    """The images of folder/CLASS/IMAGE and their files, in one order; what is public about them is known already.

    Args:
        folder: lacks classes that have no example.
        info: shape, classes (named, or 0, 1, ...) and normalisation.
        wanted: how images are fitted, and the classes' names where they differ from those of `info`.

    Raises:
        DataError: the layout is another, or an image cannot be read or is of another shape.
    """
    names = wanted.class_names() or [info.class_name(label) for label in range(info.num_classes)]
    files = _labelled(folder, names)
    return from_pixels(*_read_images(files, info.shape, wanted), info), [file for file, _ in files]


def _labelled(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """Every image below the folder, with its label.

    Raises:
        DataError: the folder holds another folder than those of the classes.
    """
    if unknown := sorted({entry.name for entry in _visible(folder)} - set(classes)):
        raise DataError(
            f"folder {unknown[0]!r} in {str(folder)!r}", f"the classes {list(classes)}", "Name it, or move it away."
        )
    return [(file, label) for label, name in enumerate(classes) for file in _visible(folder / name)]


def _visible(folder: Path) -> list[Path]:
    """The folder's entries, sorted; none where it does not exist; file managers leave hidden files behind."""
    if not folder.is_dir():
        if folder.exists():
            raise DataError(f"{str(folder)!r} is a file", "one folder a class", "Move it out of the data set.")
        return []
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _read_images(files: Sequence[tuple[Path, int]], expected: Shape, wanted: Wanted) -> tuple[Tensor, Tensor]:
    pixels = torch.empty((len(files), *expected), dtype=torch.uint8)
    for index, (file, _) in enumerate(files):
        image = _read_image(file, wanted)
        if tuple(image.shape) != expected:
            raise DataError(
                f"{str(file)!r} is [channels, height, width] = {list(image.shape)}",
                f"{list(expected)}, as the first image or the release has it",
                "Say size= and channels= (--size, --channels), to which all images are brought.",
            )
        pixels[index] = image
    return pixels, torch.tensor([label for _, label in files], dtype=torch.int64)


def _read_image(file: Path, wanted: Wanted) -> Tensor:
    """uint8 [C, H, W], of the channels and the size that are wanted."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
            pixels = from_picture(image, repr(str(file)), checked_channels(wanted.channels))
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: how Pillow reports a broken PNG
        raise DataError(f"{str(file)!r} cannot be read as an image", "image files only", "Remove it.") from error
    return wanted.fitted(pixels)


register_source(
    Source(
        "an existing folder",
        load_folder,
        recognises=lambda path: path.is_dir(),
        options=frozenset({"num_classes", "classes", "name", "size", "channels"}),
    )
)
