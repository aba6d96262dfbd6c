"""Attackers among the clients: the round goes on, what can be seen is named, and a robust rule is hardly moved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess
from private_distdd.errors import ConfigurationError
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.plan import Privacy
from private_distdd.release.release import Release
from private_distdd.simulation.attacks import ATTACKS, Attacked
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK, ENROL
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run

pytestmark = pytest.mark.filterwarnings("ignore::private_distdd.errors.NotPrivateWarning")

NAMES = [f"c{i}" for i in range(7)]
BAD = ["c1", "c4"]
PRIVACY = Privacy(noise_multiplier=2.0)
MLP = {"model": "mlp", "model_args": {"width": 8, "depth": 1}}
SEEN = {"nan": 0, "huge": 0, "silent": 0, "replayed": 1}  # messages of an attacker that are used, for it is seen
MakeImages = Callable[..., ImageDataset]


@pytest.fixture
def clients(make_images: MakeImages) -> list[Client]:
    return [Client(name, make_images(9, seed=i)) for i, name in enumerate(NAMES)]


def fit(engine: InProcess, info: DatasetInfo, privacy: Privacy | None, **knobs: Any) -> Release:
    method = DistDD(ipc=1, rounds=4, matching_steps=2, aggregator="median", privacy=privacy, **MLP, **knobs)
    return method.fit(engine, info=info)


def used(release: Release) -> dict[str, int]:
    return {name: bill["messages_used"] for name, bill in release.card["clients"].items()}


@pytest.mark.parametrize("privacy", [PRIVACY, None], ids=["private", "open"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_run_goes_on_and_what_is_no_honest_message_is_named(
    clients: list[Client],
    tiny_info: DatasetInfo,
    privacy: Privacy | None,
    attack: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="private_distdd"):
        release = fit(Attacked(clients, BAD, attack), tiny_info, privacy)
    release.verify()
    asked = 4 + (privacy is None)  # the counts, which are left as they are
    found = used(release)
    assert {name: count for name, count in found.items() if name not in BAD} == dict.fromkeys(
        set(NAMES) - {*BAD}, asked
    )
    assert {found[name] for name in BAD} == {SEEN[attack] + (privacy is None) if attack in SEEN else asked}
    for name in NAMES:
        assert any(f"client {name} " in record.message for record in caplog.records) is (name in BAD and attack in SEEN)


def test_in_one_round_too(clients: list[Client], tiny_info: DatasetInfo) -> None:
    method = CollabDM(ipc=1, networks=2, frequencies=8, matching_steps=2, aggregator="median", privacy=PRIVACY, **MLP)
    for attack in ("huge", "a_little_is_enough"):
        release = method.fit(Attacked(clients, BAD, attack), info=tiny_info)
        release.verify()
        assert [used(release)[name] for name in BAD] == [0 if attack == "huge" else 1] * 2


def test_a_message_without_noise_is_not_used(clients: list[Client], tiny_info: DatasetInfo) -> None:
    """Nor are zeros: nobody that adds the noise is so short."""

    class Clean(InProcess):
        def exchange(self, operation: str, requests: Mapping[str, bytes], **others: Any) -> Mapping[str, bytes | None]:
            found = dict(super().exchange(operation, requests, **others))
            if operation == ASK and (data := found.get("c1")) is not None:
                reply = Reply.from_bytes(data)
                own = Message.from_bytes(reply.answer)
                short = Message(own.client_id, own.message_id, own.query_digest, own.values / 4)
                found["c1"] = Reply(short.data, reply.ledger).to_bytes()
            return found

    assert used(fit(Clean(clients), tiny_info, PRIVACY)) == {name: 4 * (name != "c1") for name in NAMES}


# What is sent


def sent(clients: list[Client], attack: str, privacy: Privacy | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """All values of one round, with an attack and without, and counts."""
    info = clients[0].info
    assert info is not None
    run = Run("run-1", info, None if privacy is None else privacy.plan(1))
    query = Query("run-1", 0, "class_gradients_at_seeds", method_arguments(), {}, run.plan)
    engine = Attacked(clients, BAD, attack, seed=3)
    engine.exchange(ENROL, dict.fromkeys(NAMES, run.to_bytes()))

    def values(of: Mapping[str, bytes | None]) -> list[Message]:
        return [Message.from_bytes(Reply.from_bytes(of[name] or b"").answer) for name in NAMES]

    changed = values(engine.exchange(ASK, dict.fromkeys(NAMES, query.data)))
    honest = values(InProcess.exchange(engine, ASK, dict.fromkeys(NAMES, query.data)))  # stored bytes again
    counts = None if privacy else torch.stack([m.counts for m in honest if m.counts is not None])
    return torch.stack([m.values for m in changed]), torch.stack([m.values for m in honest]), counts


def method_arguments() -> dict[str, Any]:
    return dict(DistDD(ipc=1, rounds=1, **MLP).at_seeds([5]))


@pytest.mark.parametrize("privacy", [PRIVACY, None], ids=["private", "open"])
@pytest.mark.parametrize("attack", ["sign_flip", "inner_product", "a_little_is_enough", "gaussian"])
def test_what_attackers_say(clients: list[Client], privacy: Privacy | None, attack: str) -> None:
    changed, honest, counts = sent(clients, attack, privacy)
    bad = [NAMES.index(name) for name in BAD]
    good = [i for i in range(len(NAMES)) if i not in bad]
    assert torch.equal(changed[good], honest[good])
    if counts is not None:  # means, as the attackers look at them
        changed, honest = (x / counts[:, :, None] for x in (changed, honest))
    mean, spread = honest[good].mean(0), honest[good].std(0, correction=0)
    for i in bad:
        longer = changed[i].norm(dim=1) / honest[i].norm(dim=1)
        if attack == "sign_flip":
            assert torch.allclose(changed[i], -honest[i])
        elif attack == "gaussian":
            assert bool(((longer > 5) & (longer < 20)).all())
        else:
            way = -mean if attack == "inner_product" else mean - 0.2533471 * spread  # 5 honest of 7: z of 3 in 5
            assert bool((torch.nn.functional.cosine_similarity(changed[i], way, dim=1) > 0.9999).all())
            assert bool((longer > 0.9999).all())
    if attack == "gaussian":
        assert not torch.equal(changed[bad[0]], changed[bad[1]])  # each draws its own


def test_bad_arguments(clients: list[Client]) -> None:
    for bad, attack in ((BAD, "shout"), (["who"], "huge")):
        with pytest.raises(ConfigurationError, match="attack"):
            Attacked(clients, bad, attack)
