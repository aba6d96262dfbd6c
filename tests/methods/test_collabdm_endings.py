"""How a run of CollabDM's three kinds of rounds ends: who does not answer, and Ctrl-C at any moment."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupts import interrupted
from phases import NOISY, ROUNDS, MakeImages, Phases, Wire, matched, members, run, start, told
from torch import Tensor

from private_distdd.errors import QueryRefusedError
from private_distdd.methods import collabdm_course
from private_distdd.methods.teacher import Teacher
from private_distdd.privacy.plan import Privacy
from private_distdd.site.client import Client

# Who does not answer


@pytest.mark.parametrize("t", range(6), ids=ROUNDS)
def test_a_client_may_miss_a_round_of_each_kind(make_images: MakeImages, t: int) -> None:
    method, wire = Phases(), Wire(members(make_images), {t: ["c1"]})
    release = run(method, wire)
    assert {name: bill["messages_used"] for name, bill in release.card["clients"].items()} == {
        "c0": 6,
        "c1": 5,
        "c2": 6,
    }
    assert not release.card["progress"]["stopped_early"]
    first = matched(method, start(method), told(method, wire, 0, 1))
    assert torch.equal(release.dataset.images, matched(method, first, told(method, wire, 0, 1, 4, 5)))
    assert release.teacher is not None


@pytest.mark.parametrize("t", range(1, 6), ids=ROUNDS[1:])
@pytest.mark.parametrize("privacy", [NOISY, None], ids=["private", "open"])
def test_a_later_round_that_nobody_answers_is_left_out(
    make_images: MakeImages, t: int, privacy: Privacy | None
) -> None:
    method = Phases(privacy=privacy)
    everybody = ["c0", "c1", "c2"]
    wire = Wire(members(make_images, allow_without_privacy=privacy is None), {t: everybody})
    release = run(method, wire)
    assert {bill["messages_used"] for bill in release.card["clients"].values()} == {5}
    assert not release.card["progress"]["stopped_early"]
    assert release.card["progress"]["rounds_done"] == 6
    assert release.teacher is not None
    rounds = [s for s in (0, 1) if s != t]
    first = matched(method, start(method), told(method, wire, *rounds))
    rounds += [s for s in (4, 5) if s != t]
    assert torch.equal(release.dataset.images, matched(method, first, told(method, wire, *rounds)))


def test_a_first_round_that_nobody_answers_ends_the_run(make_images: MakeImages) -> None:
    wire = Wire(members(make_images), {0: ["c0", "c1", "c2"]})
    with pytest.raises(QueryRefusedError, match="no client answers"):
        run(Phases(), wire)
    assert not wire.queries


def test_clients_that_are_gone_for_good_end_the_rounds(
    make_images: MakeImages, caplog: pytest.LogCaptureFixture
) -> None:
    """Absent in three rounds in a row they leave; S is matched once with what came, and the card says so."""
    everybody = ["c0", "c1", "c2"]
    method, wire = Phases(), Wire(members(make_images), dict.fromkeys(range(1, 6), everybody))
    with caplog.at_level(logging.WARNING):
        release = run(method, wire)
    assert "no client is left: the run ends after round 4" in caplog.text
    progress = release.card["progress"]
    assert progress == {"rounds_planned": 6, "rounds_done": 4, "matching_steps": 8, "stopped_early": True}
    assert release.teacher is None  # nothing taught it
    assert release.dataset.soft_labels is None


# Ctrl-C


@pytest.mark.parametrize("t", range(6), ids=ROUNDS)
@pytest.mark.parametrize("answered", [0, 1])
def test_ctrl_c_while_clients_answer_releases_what_was_paid_for(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, t: int, answered: int
) -> None:
    """Nobody is asked any more, in this round or a later one; S is matched with all that came."""
    method, clients = Phases(), members(make_images)
    wire, calls, real = Wire(clients), itertools.count(), Client._private

    def stop(self: Client, *arguments: Any) -> Any:
        if next(calls) == 3 * t + answered:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "_private", stop)
        release = interrupted(run, method, wire, checkpoint=tmp_path / "run")
    asked = [t + (i <= answered) for i in range(3)]
    assert [release.card["clients"][c.client_id]["charges"] for c in clients] == asked
    used = [t + (i < answered) for i in range(3)]
    assert [release.card["clients"][c.client_id]["messages_used"] for c in clients] == used
    progress = release.card["progress"]
    assert progress["stopped_early"]
    assert progress["rounds_done"] == t + 1
    taught = t > 2 or (t == 2 and answered == 1)
    assert (release.teacher is not None) is (release.dataset.soft_labels is not None) is taught
    came = [s for s in (0, 1, 4, 5) if s < t or (s == t and answered)]
    first = [s for s in came if s < 2]
    expected = matched(method, start(method), told(method, wire, *first)) if first else start(method)
    if t > 3:
        expected = matched(method, expected, told(method, wire, *came))
    assert torch.equal(release.dataset.images, expected)
    assert progress["matching_steps"] == (0 if not came else 8 if t > 3 else 4)
    later = run(method, clients, checkpoint=tmp_path / "run", resume=True)
    assert not later.card["progress"]["stopped_early"]
    charges = {name: bill["charges"] for name, bill in later.card["clients"].items()}
    # Who was being asked had been charged, and had sealed nothing: it cannot answer the last round any more.
    assert charges == dict.fromkeys(("c0", "c1", "c2"), 6)


@pytest.mark.parametrize("t", [0, 1])
def test_ctrl_c_while_the_teacher_moves_still_matches_s(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch, t: int
) -> None:
    """Not only while clients answer: the means had been paid for."""
    method, wire, calls, real = Phases(), Wire(members(make_images)), itertools.count(), Teacher.step

    def stop(self: Teacher, gradient: Tensor) -> None:
        if next(calls) == t:
            raise KeyboardInterrupt
        real(self, gradient)

    monkeypatch.setattr(Teacher, "step", stop)
    release = interrupted(run, method, wire)
    assert torch.equal(release.dataset.images, matched(method, start(method), told(method, wire, 0, 1)))
    assert release.card["progress"] == {
        "rounds_planned": 6,
        "rounds_done": 3 + t,
        "matching_steps": 4,
        "stopped_early": True,
    }
    assert (release.teacher is not None) is (t == 1)


@pytest.mark.parametrize("step", range(1, 8))
def test_ctrl_c_while_s_is_matched_leaves_s_as_it_is(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    real, calls = torch.optim.Adam.step, itertools.count()

    def stop(*arguments: Any, **named: Any) -> Any:
        if next(calls) == step:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    wire = Wire(members(make_images))
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", stop)
        release = interrupted(run, Phases(), wire)
    progress = release.card["progress"]
    assert progress["matching_steps"] == step
    assert progress["rounds_done"] == (4 if step < 4 else 6)
    assert progress["stopped_early"]
    assert release.teacher is not None
    assert len(wire.answers) == 3 * progress["rounds_done"]


def test_ctrl_c_before_the_first_step_still_matches_s(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """S would be noise, and the means had been paid for; a second Ctrl-C ends it."""
    for times, steps in ((1, 4), (2, 0)):
        real, calls = torch.optim.Adam.step, itertools.count()

        def stop(*arguments: Any, real: Any = real, calls: Any = calls, times: int = times, **named: Any) -> Any:
            if next(calls) < times:
                raise KeyboardInterrupt
            return real(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.Adam, "step", stop)
            progress = interrupted(run, Phases(), members(make_images)).card["progress"]
        assert progress["matching_steps"] == steps
        assert progress["stopped_early"]


def test_ctrl_c_while_networks_are_trained_releases_the_first_s(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(*arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    method, clients = Phases(), members(make_images)
    wire = Wire(clients)
    with monkeypatch.context() as patch:
        patch.setattr(collabdm_course, "trained_states", stop)
        release = interrupted(run, method, wire, checkpoint=tmp_path / "run")
    assert torch.equal(release.dataset.images, matched(method, start(method), told(method, wire, 0, 1)))
    assert release.card["progress"] == {
        "rounds_planned": 6,
        "rounds_done": 4,
        "matching_steps": 4,
        "stopped_early": True,
    }
    later = run(method, clients, checkpoint=tmp_path / "run", resume=True)
    assert not later.card["progress"]["stopped_early"]
    assert {bill["charges"] for bill in later.card["clients"].values()} == {6}
