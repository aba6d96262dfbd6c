"""CollabDM's kinds of rounds, killed and resumed: the same queries, the same S, and no checkpoint of another run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupts import interrupted
from phases import INFO, NOISY, ROUNDS, MakeImages, Phases, Wire, kept, run

from private_distdd.errors import CheckpointError
from private_distdd.methods import collabdm_course
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.teacher import Teacher
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.site.client import Client
from private_distdd.wire.query import Query


class Killed(BaseException):
    """Stands for the death of the process: nothing in the library catches it."""


class Mortal(Wire):
    """Dies at the n-th query, before the client sees it or after it answered."""

    def __init__(self, clients: Sequence[Client], at: int, after: bool) -> None:
        super().__init__(clients)
        self._left, self._after = at, after

    def ask(self, client_id: str, query: bytes) -> bytes:
        self._left -= 1
        if self._left == 0 and not self._after:
            self.queries.append((client_id, Query.from_bytes(query)))
            raise Killed
        answer = super().ask(client_id, query)
        if self._left == 0:
            raise Killed
        return answer


Reopen = Callable[[], list[Client]]


@pytest.fixture
def reopen(make_images: MakeImages, tmp_path: Path) -> Iterator[Reopen]:
    """Two clients as a new process finds them."""
    held: list[Ledger] = []

    def make() -> list[Client]:
        for old in held:
            old.close()
        held[:] = [Ledger(tmp_path / f"c{i}.jsonl") for i in range(2)]
        return [
            Client(f"c{i}", make_images(9, seed=i), ledger, allow_without_privacy=True) for i, ledger in enumerate(held)
        ]

    yield make
    for ledger in held:
        ledger.close()


def asked(wire: Wire) -> dict[tuple[str, int], bytes]:
    """The bytes of each query, whatever the run's name."""
    return {
        (name, query.server_round): query.data.replace(query.run_id.encode(), b"r" * len(query.run_id))
        for name, query in wire.queries
    }


def clients(make_images: MakeImages) -> list[Client]:
    return [Client(f"c{i}", make_images(9, seed=i), allow_without_privacy=True) for i in range(2)]


@pytest.mark.parametrize("after", [False, True], ids=["before an answer", "after it"])
@pytest.mark.parametrize("t", range(6), ids=ROUNDS)
@pytest.mark.parametrize("privacy", [NOISY, None], ids=["private", "open"])
def test_a_run_that_was_killed_in_any_round_asks_the_same(
    make_images: MakeImages, tmp_path: Path, reopen: Reopen, t: int, after: bool, privacy: Privacy | None
) -> None:
    """To the bit: what crossed the wire before is asked again as it was, and without privacy all of it, and S."""
    method, folder = Phases(privacy=privacy), tmp_path / "checkpoint"
    dead = Mortal(reopen(), 2 * t + 1, after)
    with pytest.raises(Killed):
        run(method, dead, checkpoint=folder)
    second = Wire(reopen())
    release = run(method, second, checkpoint=folder, resume=True)
    first, again = asked(dead), asked(second)
    assert {server_round for _, server_round in again} == set(range(t, 6))  # what was kept is not asked for
    assert first["c0", t] == again["c0", t]
    assert [bill["charges"] for bill in release.card["clients"].values()] == [6, 6]
    if privacy is None:
        whole = Wire(clients(make_images))
        unbroken = run(method, whole)
        assert first | again == asked(whole)
        assert torch.equal(unbroken.dataset.images, release.dataset.images)
        assert unbroken.dataset.soft_labels is not None
        assert release.dataset.soft_labels is not None
        assert torch.equal(unbroken.dataset.soft_labels, release.dataset.soft_labels)
        assert unbroken.teacher is not None
        assert release.teacher is not None
        assert all(torch.equal(v, release.teacher.state[name]) for name, v in unbroken.teacher.state.items())


@pytest.mark.parametrize("place", ["teacher", "first S", "training", "last S"])
@pytest.mark.parametrize("privacy", [NOISY, None], ids=["private", "open"])
def test_a_run_that_was_killed_at_the_server_goes_on(
    make_images: MakeImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reopen: Reopen,
    place: str,
    privacy: Privacy | None,
) -> None:
    method, folder, left = Phases(privacy=privacy), tmp_path / "checkpoint", 6 if place == "last S" else 2

    def die(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 or place == "training":
            raise Killed
        return real(*arguments, **named)

    owner, name = {
        "teacher": (Teacher, "step"),
        "first S": (torch.optim.Adam, "step"),
        "training": (collabdm_course, "trained_states"),
        "last S": (torch.optim.Adam, "step"),
    }[place]
    real = getattr(owner, name)
    dead = Wire(reopen())
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(Killed):
            run(method, dead, checkpoint=folder)
    second = Wire(reopen())
    release = run(method, second, checkpoint=folder, resume=True)
    first, again = asked(dead), asked(second)
    assert all(first[key] == again[key] for key in first.keys() & again.keys())
    assert len({t for _, t in again}) == (0 if place == "last S" else 3)
    assert [bill["charges"] for bill in release.card["clients"].values()] == [6, 6] if privacy else True
    assert not release.card["progress"]["stopped_early"]
    if privacy is None:
        unbroken = run(method, Wire(clients(make_images)))
        assert torch.equal(unbroken.dataset.images, release.dataset.images)


def test_what_can_be_matched_again_and_what_cannot(make_images: MakeImages, tmp_path: Path, reopen: Reopen) -> None:
    """Where a first S decided what was asked, its steps are part of the run."""
    free = [{"matching_steps": 7}, {"matching_rate": 0.2}, {"smoothness": 0.5}]
    for refinement_rounds in (0, 2):
        method = Phases(refinement_rounds=refinement_rounds)
        folder = tmp_path / str(refinement_rounds)
        before = run(method, reopen(), checkpoint=folder)
        for changes in free:
            other = dataclasses.replace(method, **changes)
            if refinement_rounds:
                with pytest.raises(CheckpointError, match=next(iter(changes))):
                    other.fit(reopen(), checkpoint=folder, resume=True)
                continue
            again = run(other, reopen(), checkpoint=folder, resume=True)
            assert again.epsilon == before.epsilon
            assert not torch.equal(again.dataset.images, before.dataset.images)
            assert again.card["progress"]["matching_steps"] == other.matching_steps


OTHERS: list[dict[str, Any]] = [
    {"embedding_rounds": 4},
    {"teacher_rounds": 3},
    {"teacher": "convnet"},
    {"teacher_args": {"width": 5, "depth": 1}},
    {"teacher_rate": 0.6},
    {"teacher_momentum": 0.8},
    {"refinement_rounds": 4},
    {"network_epochs": 4},
]


def test_the_knobs_of_all_rounds_are_those_of_the_run(tmp_path: Path, reopen: Reopen) -> None:
    method: CollabDM = Phases()
    run(method, reopen(), checkpoint=tmp_path / "run")
    assert {next(iter(changes)) for changes in OTHERS} <= method.identity().keys()
    for changes in OTHERS:
        if changes.keys() == {"teacher"}:
            changes = changes | {"teacher_args": {"width": 4, "depth": 1}}
        ends = reopen()
        before = [client.ledger.to_bytes() for client in ends]
        with pytest.raises(CheckpointError, match=next(iter(changes))):
            dataclasses.replace(method, **changes).fit(ends, info=INFO, checkpoint=tmp_path / "run", resume=True)
        assert [client.ledger.to_bytes() for client in ends] == before


def test_a_release_that_ended_is_had_again(tmp_path: Path, reopen: Reopen) -> None:
    first = run(Phases(), reopen(), checkpoint=tmp_path / "run")
    wire = Wire(reopen())
    again = run(Phases(), wire, checkpoint=tmp_path / "run", resume=True)
    assert not wire.queries
    assert torch.equal(first.dataset.images, again.dataset.images)
    assert first.teacher is not None
    assert again.teacher is not None
    assert all(torch.equal(value, again.teacher.state[name]) for name, value in first.teacher.state.items())
    assert first.card["progress"] == again.card["progress"]


@pytest.mark.parametrize("parametrisation", ["pixels", "convolutional"])
def test_ctrl_c_in_a_resumed_run_releases_the_first_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reopen: Reopen, parametrisation: str
) -> None:
    """It was kept: S is not noise again."""

    def stop(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    method, folder = Phases(parametrisation=parametrisation), tmp_path / "checkpoint"
    with pytest.raises(Killed):
        run(method, Mortal(reopen(), 9, False), checkpoint=folder)  # the first S is there, and nobody was asked since
    monkeypatch.setattr(collabdm_course.CollabDMCourse, "wanted", stop)
    release = interrupted(run, method, reopen(), checkpoint=folder, resume=True)
    assert torch.equal(release.dataset.images, kept(folder)["first"])
    assert release.teacher is not None
    assert release.card["progress"] == {
        "rounds_planned": 6,
        "rounds_done": 4,
        "matching_steps": 4,
        "stopped_early": True,
    }
