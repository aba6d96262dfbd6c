"""One safetensors envelope for everything with tensors: messages, checkpoints and releases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from private_distdd.encoding import to_json
from private_distdd.limits import HEADER_BYTES


def pack(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """One safetensors file as bytes: named tensors, and a JSON header in its metadata.  Equal inputs, equal bytes."""
    # One metadata key only: safetensors does not promise an order for several.
    metadata = {"json": to_json(header)}
    return bytes(safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata))


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pack` was given.

    Raises:
        ValueError: the bytes are not such a file, or their header is longer than `limits.HEADER_BYTES`; callers turn it
            into their own error.
    """
    length = int.from_bytes(data[:8], "little")
    if length > HEADER_BYTES:
        raise ValueError(f"no envelope of this library: a header of {length} bytes, more than {HEADER_BYTES}")
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["json"])
        to_json(header)  # no NaN, no infinity: nothing that could not be written again
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError("not a safetensors envelope of this library") from error
    if not isinstance(header, dict):
        raise ValueError("the envelope's header is not a JSON object")
    return header, tensors
