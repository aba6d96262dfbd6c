"""Runs that go on from their checkpoint, after a crash and after clients left."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import (
    NAMES,
    PLAIN,
    PRIVATE,
    WITH_MEMORY,
    Federation,
    Killed,
    MakeImages,
    Mortal,
    Refusing,
    fit,
    ledgers,
)
from interrupts import interrupted

from private_distdd.cli import main
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import QueryRefusedError
from private_distdd.privacy.ledger import Budget, Charge, parse
from private_distdd.release.release import Release
from private_distdd.site.client import Client
from private_distdd.wire.query import Query

pytestmark = pytest.mark.filterwarnings("ignore::private_distdd.errors.NotPrivateWarning")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        WITH_MEMORY,
        WITH_MEMORY | {"initialization": "real", "batch_per_class": 3},
        {"matching_optimizer": "sgd", "participation": 0.7, "reinit_every": None, "network_steps": 1},
        {"granularity": "joint", "aggregator": "median", "network_update": "aggregated", "network_steps": 1},
    ],
)
def test_killed_before_any_query_the_run_ends_with_the_same_bits_and_bill(
    federation: Federation, tiny_info: DatasetInfo, tmp_path: Path, changes: dict[str, Any]
) -> None:
    method = dataclasses.replace(PLAIN, rounds=3, **changes)
    whole = Mortal(federation("whole"))
    expected = fit(method, whole, tiny_info, tmp_path / "whole" / "run")
    for at in range(1, len(whole.queries) + 1):
        name = f"{at}"
        first = Mortal(federation(name), at)
        with pytest.raises(Killed):
            fit(method, first, tiny_info, tmp_path / name / "run")
        second = Mortal(federation(name))
        release = fit(method, second, tiny_info, tmp_path / name / "run")
        assert torch.equal(release.dataset.images, expected.dataset.images)
        assert not release.failures()
        for client_id, bill in release.card["clients"].items():
            assert bill["charges"] == expected.card["clients"][client_id]["charges"]
            assert bill["messages_used"] == expected.card["clients"][client_id]["messages_used"]
        assert release.card["progress"] == expected.card["progress"]
        repeated = set(first.queries) & set(second.queries)
        rounds = {(client_id, Query.from_bytes(data).server_round) for client_id, data in repeated}
        assert len(rounds) == len(first.queries) + len(second.queries) - len(whole.queries)  # same round, same bytes


@pytest.mark.parametrize("answered", [False, True], ids=["before the answer", "after the answer"])
def test_with_privacy_killed_at_every_query_in_turn_every_round_is_paid_once(
    federation: Federation, tiny_info: DatasetInfo, tmp_path: Path, answered: bool
) -> None:
    method = dataclasses.replace(PRIVATE, **WITH_MEMORY)
    sent: list[bytes] = []
    lives = 0
    while True:
        lives += 1
        # Dying at the fourth query (before the answer: the fifth) lets each life end one round of three clients.
        transport = Mortal(federation(), 4 + (not answered), answered=answered)
        try:
            release = fit(method, transport, tiny_info, tmp_path / "run")
        except Killed:
            sent += transport.messages
            continue
        sent += transport.messages
        break
    assert lives == 4
    release.verify()
    assert len(sent) > len(set(sent)) == 4 * 3  # what was sent again was the same bytes
    for bill in release.card["clients"].values():
        assert bill["charges"] == bill["messages_used"] == 4


def test_a_finished_run_gives_its_release_again(federation: Federation, tiny_info: DatasetInfo, tmp_path: Path) -> None:
    first = fit(PRIVATE, Mortal(federation()), tiny_info, tmp_path / "run")
    transport = Mortal(federation())
    again = fit(PRIVATE, transport, tiny_info, tmp_path / "run")
    assert not transport.queries
    assert torch.equal(again.dataset.images, first.dataset.images)
    assert again.card | {"traffic": first.traffic} == first.card
    # Nothing is asked again but the run and, twice, the ledgers; the counts go on from those before.
    for name, counts in again.traffic.items():
        assert 0 < counts["received"] - first.traffic[name]["received"] < 1000
        assert counts["sent"] > first.traffic[name]["sent"] + 2 * len(again.ledgers[name])
    assert again.ledgers == first.ledgers


def test_after_an_exception_the_same_clients_go_on_in_one_process(
    make_images: MakeImages, tiny_info: DatasetInfo, tmp_path: Path
) -> None:
    clients = [Client(name, make_images(12, seed)) for seed, name in enumerate(NAMES)]  # ledgers in memory

    def stop(record: Any) -> None:
        if record.server_round == 2:
            raise RuntimeError("looked at it long enough")

    with pytest.raises(RuntimeError, match="long enough"):
        PRIVATE.fit(clients, checkpoint=tmp_path, on_round_end=stop)
    release = PRIVATE.fit(clients, checkpoint=tmp_path, resume=True)
    release.verify()
    assert {bill["charges"] for bill in release.card["clients"].values()} == {4}


def test_ctrl_c_gives_a_release_and_the_run_can_still_go_on(
    federation: Federation, tiny_info: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fit(PLAIN, Mortal(federation("whole")), tiny_info, tmp_path / "whole" / "run")
    real, asked = Client.answer, 0

    def stop(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 3 + 3 + 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "answer", stop)
        early = interrupted(fit, PLAIN, Mortal(federation()), tiny_info, tmp_path / "run")
    assert not early.failures()
    assert Release.load(tmp_path / "run" / "interrupted-001").card == early.card
    assert early.card["progress"]["stopped_early"]
    release = fit(PLAIN, Mortal(federation()), tiny_info, tmp_path / "run")
    assert torch.equal(release.dataset.images, expected.dataset.images)
    assert not release.failures()


def test_a_client_that_left_stays_out(federation: Federation, tiny_info: DatasetInfo, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(PRIVATE, Refusing(federation(), {"b": 1}, at=7), tiny_info, tmp_path / "run")  # a b c, a b(refuses) c, a
    second = Refusing(federation(), {})
    release = fit(PRIVATE, second, tiny_info, tmp_path / "run")
    assert second.invited == ["a", "c"]
    assert "b" not in {client_id for client_id, _ in second.queries}
    assert {name: bill["messages_used"] for name, bill in release.card["clients"].items()} == {"a": 4, "b": 1, "c": 4}
    assert not release.failures()


def test_a_client_that_does_not_enrol_again_takes_nobody_with_it(
    federation: Federation, tiny_info: DatasetInfo, tmp_path: Path
) -> None:
    # Without privacy the queries depend on who is active; "a" has sealed its answer to the interrupted round.
    with pytest.raises(Killed):
        fit(PLAIN, Mortal(federation(), 3 + 3 + 2), tiny_info, tmp_path / "run")
    release = fit(PLAIN, Refusing(federation(), {"c": -1}), tiny_info, tmp_path / "run")
    used = {name: bill["messages_used"] for name, bill in release.card["clients"].items()}
    assert used == {"a": 5, "b": 5, "c": 2}
    assert not release.failures()


def test_a_run_that_nobody_is_left_of_gives_its_release_again(
    federation: Federation, tiny_info: DatasetInfo, tmp_path: Path
) -> None:
    first = fit(PRIVATE, Refusing(federation(), dict.fromkeys(NAMES, 2)), tiny_info, tmp_path / "run")
    second = Refusing(federation(), {})
    again = fit(PRIVATE, second, tiny_info, tmp_path / "run")
    assert not second.queries
    assert not second.invited
    assert again.card | {"traffic": first.traffic} == first.card
    assert first.card["progress"]["rounds_done"] == 3


def test_a_budget_is_reserved_once(federation: Federation, tiny_info: DatasetInfo, tmp_path: Path) -> None:
    assert PRIVATE.privacy is not None
    plan = PRIVATE.privacy.plan(PRIVATE.rounds)
    budget = Budget(plan.epsilon * 1.01, plan.delta)  # room for one run, not for two
    for at in (1, 2, 3, 4, 5):
        with pytest.raises(Killed):
            fit(PRIVATE, Mortal(federation(budget=budget), at), tiny_info, tmp_path / "run")
    release = fit(PRIVATE, Mortal(federation(budget=budget)), tiny_info, tmp_path / "run")
    release.verify()
    with pytest.raises(QueryRefusedError, match="no client agrees"):
        PRIVATE.fit(federation(), checkpoint=tmp_path / "other")


QUICK = ["distill", "--rounds", "4", "--num-clients", "3", "--noise-multiplier", "2", "--set", "matching_steps=1"]
QUICK += ["--model", "mlp", "--set", 'model_args={"width":4,"depth":1}']


def test_the_command_goes_on_after_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [*QUICK, "--checkpoint", "state/run"]
    real, asked = Client.answer, 0

    def stop(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "answer", stop)
        assert main([*command, "--output", "early"]) == 130
    said = capsys.readouterr()
    assert "state/run can go on, with --resume and another --output" in said.out
    assert said.err.endswith("stopped by Ctrl-C; the release of what was paid for is in early\n")
    assert json.loads(Path("early/card.json").read_text())["progress"]["rounds_done"] == 2
    kept = ledgers(tmp_path / "state" / "run" / "ledgers")
    for wrong, said in (
        ([], "nothing is overwritten"),
        (["--resume", "--dirichlet", "1"], "other data"),
        (["--resume", "--seed", "1"], "other data"),
        (["--resume", "--ipc", "3"], "ipc: 10 there, 3 here"),
        (["--resume", "--checkpoint", "nowhere"], "nowhere"),
    ):
        assert main([*command, *wrong, "--output", "late"]) == 2
        assert said in capsys.readouterr().err
    assert main([*QUICK, "--resume", "--output", "late"]) == 2
    assert "--resume without --checkpoint" in capsys.readouterr().err
    assert ledgers(tmp_path / "state" / "run" / "ledgers") == kept
    assert main([*command, "--resume", "--output", "late"]) == 0
    assert "stopped early" not in capsys.readouterr().out
    assert main(["verify", "late"]) == 0
    for path in Path("state/run/ledgers").glob("*.jsonl"):
        assert Path("late/ledgers", path.name).read_bytes() == path.read_bytes()
        assert sum(isinstance(entry, Charge) for entry in parse(path.read_bytes())) == 4
    assert len(list(Path("late/ledgers").iterdir())) == 3
