"""What a console and a notebook show of an object: one line, and of a release its picture, verdict and bill."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from PIL import Image
from releases import PRIVACY, fit

from private_distdd.auditing.checks.rows import norm_check
from private_distdd.auditing.setting import Setting
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import NotPrivateWarning
from private_distdd.evaluation import Evaluation
from private_distdd.networks.scores import Scores
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.release import Release
from private_distdd.server.line import Traffic
from private_distdd.server.record import RoundRecord
from private_distdd.synthetic.dataset import SyntheticDataset

WIDE = DatasetInfo("wide", 2, (3, 8, 400), (0.5,) * 3, (0.5,) * 3)


class Page(HTMLParser):
    """What is in a piece of HTML: its tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def shown(thing: Any) -> Page:
    page = Page(thing._repr_html_())
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "form", "svg"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        sources = [attributes[name] or "" for name in ("src", "href") if name in attributes]
        assert all(source.startswith("data:image/png;base64,") for source in sources)
    return page


def pictures(page: Page) -> list[Image.Image]:
    found = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in found]


@pytest.fixture(scope="module")
def private() -> Release:
    return fit(PRIVACY)


def test_a_release_is_one_line(private: Release) -> None:
    line = repr(private)
    assert len(line) < 250
    assert "\n" not in line
    assert line.startswith("Release(DistDD on ")
    assert f"{len(private.dataset.labels)} images; {len(private.epsilon)} clients; {private.verdict})" in line
    assert "tensor" not in line


def test_a_notebook_shows_the_picture_the_verdict_and_the_bill(private: Release) -> None:
    page = shown(private)
    assert re.search(r"(STRONG|REASONABLE|LIMITED|HARDLY ANY) PRIVACY", page.text)
    assert "changes the probability of any outcome by at most" in page.text
    assert all(word in page.text for word in ("claim", "spent", "so far", "budget", *private.epsilon))
    (picture,) = pictures(page)
    grid = private.dataset.grid()
    assert (picture.height, picture.width) == grid.shape[:2]
    assert len(private._repr_html_() or "") < 100_000


def test_a_release_without_privacy_says_so() -> None:
    with pytest.warns(NotPrivateWarning):
        release = fit(None)
    assert "NOT PRIVATE: no guarantee" in repr(release)
    assert "NOT PRIVATE" in shown(release).text


def test_everything_of_a_card_is_escaped(private: Release) -> None:
    bad = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    card = {**private.card, "method": {**private.card["method"], "name": bad}}
    card["data"] = {**card["data"], "name": bad}
    card["clients"] = {bad: next(iter(private.card["clients"].values()))}
    page = shown(Release(private.synthetic, card, private.ledgers))
    assert len(pictures(page)) == 1
    assert "<script>alert(1)" in page.text  # as text


@pytest.mark.parametrize("card", [{}, {"method": {"name": "x"}, "data": None}, {"plan": None, "clients": {}}])
def test_a_malformed_card_breaks_no_console(private: Release, card: dict[str, Any]) -> None:
    release = Release(private.synthetic, card, {})
    assert repr(release) == f"Release({len(private.dataset.labels)} images; a card that cannot be read)"
    assert release._repr_html_() is None


def test_a_card_of_anybody_steers_no_terminal(private: Release) -> None:
    bad = "DistDD\n\x1b[2J\u202e"
    card = {**private.card, "method": {**private.card["method"], "name": bad}, "unaccounted": {bad: 1}}
    card["data"] = {**card["data"], "name": bad}
    assert repr(Release(private.synthetic, card, private.ledgers)).isprintable()


def test_data_sets_say_their_form_and_no_values() -> None:
    info = DatasetInfo("mine", 2, (1, 8, 8))
    held = ImageDataset(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 1]), info)
    assert repr(held) == "ImageDataset('mine': 3 images (8 by 8 pixels, 1 channel), 2 classes)"
    s = SyntheticDataset(torch.zeros(4, 1, 8, 8), torch.tensor([0, 0, 1, 1]), info, 2, torch.full((16, 2), 0.5))
    assert repr(s) == (
        "SyntheticDataset('mine': 4 images (8 by 8 pixels, 1 channel), 2 classes, 2 a class, mosaics of 2 x 2, "
        "soft labels)"
    )


def test_a_picture_in_a_notebook_is_bounded() -> None:
    s = SyntheticDataset(torch.zeros(20, *WIDE.shape), torch.arange(2).repeat_interleave(10), WIDE)
    assert s.grid().shape[1] > 4000
    page = shown(s)
    (picture,) = pictures(page)
    assert picture.width == 1200


def test_results_are_one_line() -> None:
    scores = Scores(0.5, 0.4, 0.75, ((1, 2), (3, 4)))
    assert repr(scores) == "Scores(accuracy 50.0%, balanced 40.0%, AUC 0.750)"
    assert repr(Evaluation(ModelSpec("mlp"), (0, 1), (scores, scores))) == "Evaluation(50.0% ± 0.0% (mlp, 2 seeds))"
    record = norm_check(Setting(1.0, 1.0, 1.0, 1.0))
    assert repr(record) == "AuditRecord(norm_check, not rejected)"
    spec, info = ModelSpec("mlp", {"width": 2, "depth": 1}), DatasetInfo("mine", 2, (1, 2, 2))
    network = TrainedNetwork(spec, spec.build(info.shape, 2, 0).state_dict(), info)
    assert repr(network) == "TrainedNetwork(mlp for 'mine': 16 weights)"
    told = RoundRecord(3, 9, 0.5, PrivacyPlan(1.0, 0.1, 1.0, 1.0, 9, 1e-5), {"a": 1, "b": 1}, ("a",), {"a": Traffic()})
    assert repr(told) == "RoundRecord(round 3 of 9, loss 0.500, 1 of 2 clients answered)"
