"""What the arguments of several questions have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ModelError, QueryRefusedError
from private_distdd.networks.micro_batch import MICRO_BATCH
from private_distdd.validate import is_whole

_PER_SUM, _PER_ROW = 32.0, 20.0  # bytes: noise and sums, a float64 message; rows in the check of places, four times


def message_memory(groups: int, dimension: int) -> float:
    """Bytes that sums, noise and one micro-batch of rows take, at most about."""
    return _PER_SUM * groups * dimension + _PER_ROW * MICRO_BATCH * dimension


def refuse_tensors(tensors: Mapping[str, Tensor]) -> None:
    """For questions that take none.

    Raises:
        ModelError: there are some.
    """
    if tensors:
        raise ModelError(f"tensors {sorted(tensors)}", "none", "Send the arguments alone.")


def class_counts_of(arguments: Mapping[str, Any], info: DatasetInfo) -> tuple[int, ...]:
    """How many examples of each class are asked for.

    Raises:
        QueryRefusedError: not one whole number of at least 0 a class.
    """
    counts = arguments.get("counts")
    if (
        not isinstance(counts, list | tuple)
        or len(counts) != info.num_classes
        or not all(is_whole(count) and count >= 0 for count in counts)
    ):
        raise QueryRefusedError(
            f"counts = {counts!r}", f"{info.num_classes} whole numbers of at least 0", "Give one for each class."
        )
    return tuple(counts)


def require_fields(arguments: Mapping[str, Any], names: set[str]) -> None:
    if set(arguments) != names:
        raise QueryRefusedError(f"arguments {sorted(arguments)}", f"the fields {sorted(names)}", "Correct them.")


def weights_of(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The weights of a query's networks as its tensors: "0/name" is that of the first one's `name`."""
    return {f"{k}/{name}": value for k, state in enumerate(states) for name, value in state.items()}


def states_of(tensors: Mapping[str, Tensor], networks: int) -> list[dict[str, Tensor]] | None:
    """The inverse of `weights_of`; None where there are none.

    Raises:
        ModelError: weights of something that is none of the networks.
    """
    if not tensors:
        return None
    states: list[dict[str, Tensor]] = [{} for _ in range(networks)]
    prefixes = {str(k): state for k, state in enumerate(states)}
    for key, value in tensors.items():
        prefix, _, name = key.partition("/")
        if prefix not in prefixes:
            raise ModelError(f"tensor {key!r}", f"names that begin with 0/ ... {networks - 1}/", "Send its networks'.")
        prefixes[prefix][name] = value
    return states
