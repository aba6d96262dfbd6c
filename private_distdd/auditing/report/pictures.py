"""Inversions as pictures: what was there, what anybody would guess, and what was rebuilt."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from private_distdd.auditing.report.inversion import Inversion

_SHOWN = 6  # targets of an inversion


def rows(inversions: Sequence[Inversion]) -> list[tuple[str, str, list[str]]]:
    """A row for each protection: its name, a note, and its images as addresses; none without inversions."""
    if not inversions:
        return []

    def row(name: str, note: str, images: Tensor) -> tuple[str, str, list[str]]:
        return name, note, [_address(image) for image in images[:_SHOWN]]

    def note(inversion: Inversion) -> str:
        figures = inversion.record.figures
        epsilon = "\u221e" if math.isinf(figures["epsilon"]) else f"{figures['epsilon']:.3g}"
        return f"{figures['PSNR']:.1f} dB, gain {figures['gain']:+.1f}; \u03b5 = {epsilon}"

    first = inversions[0]
    return [
        row("original", "", first.originals),
        row("public class mean", "the guess to beat", first.guesses),
        *(row(inversion.protection, note(inversion), inversion.rebuilt) for inversion in inversions),
    ]


def _address(image: Tensor) -> str:
    """One image float [C, H, W] in [0, 1] as a PNG within its address: grey, or the first three channels as colours."""
    pixels = (image.numpy() * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels[:3].transpose(1, 2, 0) if len(pixels) >= 3 else pixels[0])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def lessons(inversions: Sequence[Inversion]) -> dict[str, Any]:
    """ "clipping": did every attack without noise gain?  "failing": what an attack that fails proves, in words."""
    every = [inversion.record.figures for inversion in inversions]
    weakest = max(
        (figures for figures in every if figures["gain"] <= 0), key=lambda figures: figures["epsilon"], default=None
    )
    bare = [figures["gain"] > 0 for figures in every if math.isinf(figures["epsilon"])]
    failing = "An attack that fails proves nothing"
    if any(bare) and weakest is not None and math.isfinite(weakest["epsilon"]):
        failing += (
            f": sigma = {weakest['sigma']:g} already stops this one, yet costs epsilon = {weakest['epsilon']:.0f} for "
            "one release, at delta = 1e-5"
        )
    return {"clipping": bool(bare) and all(bare), "failing": failing}
