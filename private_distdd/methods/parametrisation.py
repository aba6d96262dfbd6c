"""What S is a function of: its pixels, or the latents of a generator."""

from __future__ import annotations

import math
from typing import Any

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError
from private_distdd.networks.generators import Generator, convolutional
from private_distdd.validate import require_number

PARAMETRISATIONS = ("pixels", "convolutional")


def require_parametrisation(value: str | Generator | None, rate: float) -> None:
    """Refuse what no method can change S by.

    Args:
        value: the knob `parametrisation`; None is the method's usual one.
        rate: the knob `generator_rate`.

    Raises:
        ConfigurationError: either is not as the methods' docstrings say.
    """
    if value is not None and not isinstance(value, Generator) and value not in PARAMETRISATIONS:
        raise ConfigurationError(
            f"parametrisation = {value!r}",
            f"one of {PARAMETRISATIONS}, a Generator, or None: the method's usual one",
            "See `public_generator`.",
        )
    require_number("generator_rate", rate, 0, math.inf, "a finite number > 0", "0.01 is usual.")


def generator_of(value: str | Generator | None, usual: str, info: DatasetInfo, seed: int) -> Generator | None:
    """The generator that a parametrisation, or in its place the usual one, means for such examples, tried once.

    Returns:
        it, or None for pixels, or the values of rows.

    Raises:
        ConfigurationError: one of rows of a table.
        ModelError: it does not make such images.
    """
    value = usual if value is None else value
    if value == "pixels":
        return None
    generator = value if isinstance(value, Generator) else convolutional(info, seed)
    generator.require_images(info)
    return generator


def recorded(generator: Generator | None, info: DatasetInfo) -> str | dict[str, Any]:
    """For the card; rows of a table have no pixels."""
    if generator is None:
        return "pixels" if info.form.spatial else "values"
    return generator.record()
