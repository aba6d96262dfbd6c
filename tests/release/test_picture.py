"""Page and picture: they show this card and this S, and nothing else."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from releases import INFO, seal

from private_distdd.data.info import DatasetInfo
from private_distdd.release.release import Release, verify_folder
from private_distdd.synthetic.dataset import SyntheticDataset


def test_a_page_or_picture_that_shows_something_else_is_noticed(folder: Path) -> None:
    page = (folder / "card.html").read_text(encoding="utf-8")
    (folder / "card.html").write_text(page.replace("add or remove one", "client level"), encoding="utf-8")
    picture = np.array(Image.open(folder / "preview.png"))
    picture[0, 0] ^= 128
    Image.fromarray(picture).save(folder / "preview.png")
    seal(folder)
    assert verify_folder(folder) == [
        "card.html does not show what card.json says",
        "preview.png does not show the images of synthetic.safetensors",
    ]
    (folder / "preview.png").write_bytes(b"no picture")
    seal(folder)
    assert len(verify_folder(folder)) == 2


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def test_a_picture_that_holds_more_than_pixels_is_noticed(folder: Path) -> None:
    """A picture with the right pixels can carry anything behind its end, between its parts, or in its stream."""
    data = (folder / "preview.png").read_bytes()
    end = chunk(b"IEND", b"")
    assert data.endswith(end)
    pixels = data[data.index(b"IDAT") + 4 : -len(end) - 4]
    head = data[: data.index(b"IDAT") - 4]
    stream = zlib.decompress(pixels)
    secret = b"what nobody should send"
    hidden = {
        "behind the end": data + secret,
        "a text": data[: -len(end)] + chunk(b"tEXt", secret) + end,
        "before the pixels": head + chunk(b"prVt", secret) + chunk(b"IDAT", pixels) + end,
        "behind the stream": head + chunk(b"IDAT", pixels + secret) + end,
        "in the stream": head + chunk(b"IDAT", zlib.compress(stream + secret)) + end,
        "a second end": data + end,
    }
    for changed in hidden.values():
        (folder / "preview.png").write_bytes(changed)
        seal(folder)
        assert verify_folder(folder) == ["preview.png holds more than one picture"]
    huge = chunk(b"IHDR", (2**20).to_bytes(4, "big") + (2**12).to_bytes(4, "big") + bytes([8, 2, 0, 0, 0]))
    bomb = b"\x89PNG\r\n\x1a\n" + huge + chunk(b"IDAT", zlib.compress(bytes(10**8), 9)) + end
    (folder / "preview.png").write_bytes(bomb)
    seal(folder)
    tracemalloc.start()
    assert verify_folder(folder) == ["preview.png does not show the images of synthetic.safetensors"]
    assert tracemalloc.get_traced_memory()[1] < 2 * 10**7
    tracemalloc.stop()
    (folder / "preview.png").write_bytes(head + chunk(b"IDAT", pixels[:9]) + chunk(b"IDAT", pixels[9:]) + end)
    seal(folder)
    assert verify_folder(folder) == []  # the pixels may come in parts


def test_thin_images_have_no_monstrous_picture() -> None:
    info = DatasetInfo("thin", 2, (1, 1, 100_000))
    thin = SyntheticDataset(torch.zeros(20, 1, 1, 100_000), torch.arange(2).repeat_interleave(10), info)
    assert thin.grid().nbytes < 40 * thin.images.nbytes


def test_other_images_under_the_same_card(folder: Path, private: Release) -> None:
    images = private.dataset.images.clone()
    images[0, 0, 0, 0] = 1e30
    (folder / "synthetic.safetensors").unlink()
    dataset = SyntheticDataset(images, private.dataset.labels, INFO)
    dataset.save(folder / "synthetic.safetensors")
    dataset.preview(folder / "preview.png")
    seal(folder)
    assert any("magnitude 1e+30" in line for line in verify_folder(folder))
