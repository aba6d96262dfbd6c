"""The pictures of docs/tutorial.md: its blocks are run, and the pages that they write are photographed.

    python benchmarks/pictures.py [--browser chromium] [--pages FOLDER]

It takes two to three minutes of one core, and needs Chromium or Chrome.  `--pages` takes the pictures of a folder in
which the tutorial was run before.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from shown import Runner  # noqa: E402 - it is found by the line above

WIDTH, SHARPNESS, MARGIN = 900, 1.5, 24
# picture: page, where its part begins ("" for the top of the page), and where it ends.
PARTS = {
    "tutorial-card": ("first/card.html", "", "<section><h2>The bill of each client"),
    "tutorial-frontier": ("frontier/sweep.html", "", "<p class=warning>"),
    "tutorial-audit": ("first-audit/audit.html", "", "<h2>Images rebuilt"),
    "tutorial-inversion": ("first-audit/audit.html", "<h2>Images rebuilt", "<h2>Was this example"),
    "tutorial-roc": ("first-audit/audit.html", "<h2>Was this example", "<h2>What was and"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", default="chromium", help="the command that starts it")
    parser.add_argument("--pages", type=Path, metavar="FOLDER", help="where the tutorial was run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.pages or Path(made)
        if options.pages is None:
            Runner(folder).check((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
        images = ROOT / "docs" / "images"
        shutil.copy(folder / "first" / "preview.png", images / "tutorial-s.png")
        for name, (page, begin, end) in PARTS.items():
            text = part((folder / page).read_text(encoding="utf-8"), begin, end)
            photograph(options.browser, text, images / f"{name}.png")


def part(page: str, begin: str, end: str) -> str:
    """A page with its head, and of its body what lies between two texts.

    Raises:
        ValueError: the page has changed, and holds one of them no longer.
    """
    head, body = re.split(r"(?<=</style>)", page, maxsplit=1)
    return head + body[body.index(begin) : body.index(end)]


def photograph(browser: str, page: str, path: Path) -> None:
    """A page as a PNG without its empty margins, in few colours."""
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "page.html").write_text(page, encoding="utf-8")
        subprocess.run(  # noqa: S603 - the user names the browser, the page is this library's
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--force-device-scale-factor={SHARPNESS}",
                f"--window-size={WIDTH},3000",
                f"--screenshot={made}/page.png",
                f"file://{made}/page.html",
            ],
            check=True,
            capture_output=True,
        )
        picture = Image.open(f"{made}/page.png").convert("RGB")
    white = Image.new("RGB", picture.size, "white")
    left, top, right, bottom = ImageChops.difference(picture, white).getbbox() or (0, 0, *picture.size)
    box = (max(left - MARGIN, 0), max(top - MARGIN, 0), min(right + MARGIN, picture.width), bottom + MARGIN)
    picture.crop(box).quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
