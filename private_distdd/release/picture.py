"""The preview's picture, checked: it shows S, and nothing else is in the file."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np


def same_picture(path: Path, expected: np.ndarray[Any, Any]) -> bool:
    """Are the PNG's pixels these?  Within one grey level, for roundings differ between processors.

    Args:
        path: of any file; one that is no picture has other pixels.
        expected: uint8 [height, width, 3].
    """
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.mode != "RGB" or picture.size != (expected.shape[1], expected.shape[0]):
                return False
            return int(np.abs(np.asarray(picture, dtype=np.int16) - expected).max()) <= 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def plain_png(data: bytes, height: int, width: int) -> bool:
    """Is it a PNG of this size, of nothing but head, pixels and end, with nothing behind, between or inside them?

    One of another size, or none at all, passes: `same_picture` knows it.

    Args:
        data: the file.
        height, width: in pixels; no more than so many are unpacked.
    """
    signature, place, kinds, pixels = b"\x89PNG\r\n\x1a\n", 8, [], list[bytes]()
    if not data.startswith(signature) or data[16:24] != width.to_bytes(4, "big") + height.to_bytes(4, "big"):
        return True
    while place < len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        kinds.append(kind)
        pixels += [data[place + 8 : place + 8 + length]] if kind == b"IDAT" else []
        place += length + 12
    if place != len(data) or kinds != [b"IHDR", *[b"IDAT"] * (len(kinds) - 2), b"IEND"]:
        return False
    packed, size = zlib.decompressobj(), height * (1 + 3 * width)
    try:
        whole = len(packed.decompress(b"".join(pixels), size + 1)) == size
    except zlib.error:
        return False
    return whole and packed.eof and not packed.unused_data
