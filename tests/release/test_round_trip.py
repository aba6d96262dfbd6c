"""What is saved loads and verifies, the card holds the accountants' numbers, and old releases stay sound."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from releases import PRIVACY, ROUNDS, fit

from private_distdd.privacy.accountants import bracket
from private_distdd.release.release import Release, verify_folder


def test_a_saved_release_loads_as_it_was_and_verifies(private: Release, saved: Path) -> None:
    loaded = Release.load(saved)
    assert torch.equal(loaded.dataset.images, private.dataset.images)
    assert loaded.card == json.loads(json.dumps(private.card))
    assert loaded.ledgers == private.ledgers
    loaded.verify()
    private.verify()
    assert verify_folder(saved) == []
    assert loaded.private
    assert not list(saved.parent.glob(".*"))


def test_the_card_holds_the_accountants_numbers(private: Release) -> None:
    plan = PRIVACY.plan(ROUNDS)
    for bill in private.card["clients"].values():
        for part in ("claim", "spent", "so_far"):  # one run, to its end: all three are the schedule
            for name in ("rdp", "prv"):
                assert bill[part][name] == bracket([plan.schedule], plan.delta, name).upper
        assert bill["budget"] == {"epsilon": 20.0, "delta": 1e-5}
        assert bill["charges"] == bill["messages_used"] == ROUNDS
    assert private.epsilon == dict.fromkeys(("ann", "bob"), plan.epsilon)


def test_without_privacy_the_release_is_sound_and_says_so(not_private: Release, tmp_path: Path) -> None:
    folder = not_private.save(tmp_path / "run")
    assert verify_folder(folder) == []
    assert not not_private.private
    assert set(not_private.epsilon.values()) == {math.inf}
    assert "NOT PRIVATE" in (folder / "card.html").read_text(encoding="utf-8")


def test_insecure_randomness_is_not_private(tmp_path: Path) -> None:
    release = fit(PRIVACY, insecure=True)
    folder = release.save(tmp_path / "run")
    assert verify_folder(folder) == []
    assert not release.private
    assert set(release.epsilon.values()) == {math.inf}
    assert "NOT PRIVATE" in (folder / "card.html").read_text(encoding="utf-8")


OLD = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("name", ["release-distdd-1", "release-collabdm-1"])
def test_releases_of_earlier_versions_still_verify(name: str, tmp_path: Path) -> None:
    """Written by version 0.1.0."""
    release = Release.load(OLD / name)
    release.verify()
    assert release.private
    again = Release.load(release.save(tmp_path / "again"))
    assert again.card == release.card
    worse = copy.deepcopy(dict(release.card))
    worse["clients"]["north"]["claim"]["prv"] -= 0.01
    assert Release(release.dataset, worse, release.ledgers).failures()


def test_a_card_of_another_version_may_promise_less_never_more(private: Release) -> None:
    """Accountants get tighter: an old card whose bounds are higher than today's is still true."""

    def failures(version: str, part: str, change: float, note: str = "") -> list[str]:
        card = json.loads(json.dumps(private.card))
        card["versions"]["private-distdd"] = version
        for name in ("prv", "epsilon") if part == "claim" else ("rdp",):
            card["clients"]["ann"][part][name] += change
        card["clients"]["ann"][part]["note"] += note
        del card["clients"]["ann"]["signed"]  # its owner would have signed what was the claim then
        return Release(private.dataset, card, private.ledgers).failures()

    here = private.card["versions"]["private-distdd"]
    for part in ("claim", "spent", "so_far"):
        assert failures("0.1.0", part, 0.01, "RDP serves") == []
        assert failures("0.1.0", part, -0.01) != []
        assert failures(here, part, 0.01) != []
        assert failures(here, part, 0.0, "otherwise") != []
    card = json.loads(json.dumps(private.card)) | {"versions": {**private.card["versions"], "private-distdd": "0.1.0"}}
    card["clients"]["ann"]["charges"] += 1
    assert Release(private.dataset, card, private.ledgers).failures()
