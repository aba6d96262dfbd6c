"""Weights that came in a query, into a network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from private_distdd.errors import ModelError


def load_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network these weights, by name.

    Raises:
        ModelError: they are not its own, name by name and shape by shape.
    """
    try:
        network.load_state_dict(dict(state))
    except (RuntimeError, TypeError) as error:
        raise ModelError("weights that do not fit the network", "its own state, by name", str(error)) from error
