"""Where data sets come from: sources, each of which knows whether a name or a path is its own, and loads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import Constants
from private_distdd.data.pixels import Size, checked_channels, checked_size, fitted
from private_distdd.errors import DataError
from private_distdd.limits import CLASSES
from private_distdd.validate import is_whole

Loaded: TypeAlias = tuple[ImageDataset, ImageDataset]  # train, test


@dataclass(frozen=True)
class Wanted:
    """What a caller of `load_dataset` asked for; see there.

    Args:
        name: as given.
        path: the same as a path.
        root: where downloaded files are.
        download: may they be downloaded?
        constants: "mean" and "std" where they were given.
        num_classes: where it was given.
        classes: names, where they were given.
        label: name of a column, where it was given.
        test: another file, where it was given.
        called: how reports call the data set, where it was given.
        size: height and width of its images, where they were given.
        channels: of its images, where they were given.
    """

    name: str
    path: Path
    root: str | Path | None = None
    download: bool = False
    constants: Constants = field(default_factory=dict)
    num_classes: int | None = None
    classes: Sequence[str] | None = None
    label: str | None = None
    test: str | Path | None = None
    called: str | None = None
    size: Size | None = None
    channels: int | None = None

    def fitted(self, pixels: Tensor) -> Tensor:
        """Images with the `size` and `channels` that are wanted: see `pixels.fitted`.

        Raises:
            DataError: one of these is out of its range, or the images cannot be brought to it.
        """
        return fitted(pixels, checked_channels(self.channels), checked_size(self.size))

    def class_names(self, plain: Callable[[str], bool] = bool) -> list[str] | None:
        """The classes' names in the order of their labels: `classes`, or "0", "1", ...; None where nobody said.

        Args:
            plain: may a class have this name?

        Raises:
            DataError: `classes` are not 2 or more different names, or `num_classes` is out of range.
        """
        if self.classes is None:
            if self.num_classes is None:
                return None
            if not is_whole(self.num_classes) or not 2 <= self.num_classes <= CLASSES:
                raise DataError(
                    f"num_classes = {self.num_classes!r}", f"a whole number, 2 ... {CLASSES}", "Count the classes."
                )
            return [str(label) for label in range(self.num_classes)]
        names = list(self.classes) if not isinstance(self.classes, str) else []
        fit = all(isinstance(name, str) and name and plain(name) for name in names)
        if not fit or len(set(names)) != len(names) or not 2 <= len(names) <= CLASSES:
            raise DataError(f"classes = {self.classes!r}", "2 or more different names", "Name each class once.")
        return names


# Options of `load_dataset` that not every source takes, and where `Wanted` has them.
OPTIONS = {
    "num_classes": "num_classes",
    "classes": "classes",
    "label": "label",
    "test": "test",
    "name": "called",
    "size": "size",
    "channels": "channels",
}


@dataclass(frozen=True)
class Source:
    """One kind of source.

    Args:
        words: what to pass for it, in words.
        load: reads it.
        published: names of data sets that it has, and whose class list and constants are published.
        recognises: is this path its own?  Asked where the name is no published one.
        options: what it takes, of `OPTIONS`.
    """

    words: str
    load: Callable[[Wanted], Loaded]
    published: tuple[str, ...] = ()
    recognises: Callable[[Path], bool] = lambda path: False
    options: frozenset[str] = frozenset()


_SOURCES: list[Source] = []


def register_source(source: Source) -> None:
    """From now on `load_dataset` knows this source; of two that recognise a path the first registered loads it."""
    _SOURCES.append(source)


def published_names() -> tuple[str, ...]:
    """Names of the data sets whose class list is published, so that it tells nothing about anybody's data."""
    return tuple(name for source in _SOURCES for name in source.published)


def source_of(wanted: Wanted) -> Source:
    """The source that has what is wanted.

    Raises:
        DataError: none has, or it does not take an option that was given.
    """
    named = [source for source in _SOURCES if wanted.name in source.published]
    found = next(iter(named or [source for source in _SOURCES if source.recognises(wanted.path)]), None)
    if found is None:
        raise DataError(
            f"data set {wanted.name!r}",
            ", ".join(source.words for source in sorted(_SOURCES, key=lambda source: not source.published)),
            "Check the name, or the path from the current folder.",
        )
    for option, place in OPTIONS.items():
        value = getattr(wanted, place)
        if value is not None and option not in found.options:
            takers = ", ".join(source.words for source in _SOURCES if option in source.options)
            raise DataError(f"{option} = {value!r} for {wanted.name!r}", "None", f"It is for {takers} only.")
    if wanted.num_classes is not None and wanted.classes is not None:
        raise DataError(
            f"num_classes = {wanted.num_classes!r} and classes = {wanted.classes!r}", "one of both", "Names are enough."
        )
    return found
