"""Inversions as pictures: what was there, what anybody would guess, and what was rebuilt."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from private_distdd.auditing.report.inversion import Inversion
from private_distdd.release.html import safe

_SHOWN = 6  # targets of an inversion


def shown_inversions(inversions: Sequence[Inversion]) -> str:
    if not inversions:
        return ""
    heading = "<h2>Images rebuilt from one message</h2><p>Public digits stand for the clients' images.</p>"
    return f"{heading}{pictures(inversions)}{MEANING}{moral(inversions)}"


def pictures(inversions: Sequence[Inversion]) -> str:
    """A row for each protection, a column for each image."""
    first = inversions[0]

    def row(name: str, note: str, images: Tensor) -> str:
        cells = "".join(f"<td>{_image(image, name)}</td>" for image in images[:_SHOWN])
        return f"<tr><th scope=row>{safe(name)}<small>{safe(note)}</small></th>{cells}</tr>"

    def note(inversion: Inversion) -> str:
        figures = inversion.record.figures
        epsilon = "\u221e" if math.isinf(figures["epsilon"]) else f"{figures['epsilon']:.3g}"
        return f"{figures['PSNR']:.1f} dB, gain {figures['gain']:+.1f}; \u03b5 = {epsilon}"

    rows = row("original", "", first.originals) + row("public class mean", "the guess to beat", first.guesses)
    rows += "".join(row(inversion.protection, note(inversion), inversion.rebuilt) for inversion in inversions)
    return f"<div class=wide><table class=pictures>{rows}</table></div>"


def _image(image: Tensor, name: str) -> str:
    """One image float [C, H, W] in [0, 1] as inline PNG: grey, or the first three channels as colours."""
    pixels = (image.numpy() * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels[:3].transpose(1, 2, 0) if len(pixels) >= 3 else pixels[0])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='{safe(name)}' src='data:image/png;base64,{data}'>"


def moral(inversions: Sequence[Inversion]) -> str:
    noisy = [figures for figures in (inversion.record.figures for inversion in inversions) if figures["gain"] <= 0]
    weakest = max(noisy, key=lambda figures: figures["epsilon"], default=None)
    lesson = "An attack that fails proves nothing"
    bare = [figures["gain"] > 0 for figures in (i.record.figures for i in inversions) if math.isinf(figures["epsilon"])]
    if any(bare) and weakest is not None and math.isfinite(weakest["epsilon"]):
        lesson += (
            f": sigma = {weakest['sigma']:g} already stops this one, yet costs epsilon = {weakest['epsilon']:.0f} for "
            "one release, at delta = 1e-5"
        )
    clipped = "<b>Clipping alone protects nothing</b>: it takes the scale of a gradient, not its direction. "
    return f"<p>{clipped if bare and all(bare) else ''}{lesson}.</p>"


MEANING = """<p>PSNR: higher is closer, 30 dB looks the same. The gain is over the mean image of the class in a public
set: an image that merely looks like its class gains nothing. The attacker keeps the attempt with the lowest loss of its
own, whatever the truth is. These figures describe one attack, and bound nothing.</p>"""
