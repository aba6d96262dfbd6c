"""Every method: nothing but noisy values depends on the data, and nothing on the order of clients."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance import NOISY, Case, MakeImages, Wire, checked, fit, made, members

from private_distdd.privacy.plan import Privacy
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.site.client import Client
from private_distdd.site.key import SiteKey
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query


def test_private_runs_differ_and_open_runs_do_not(make_images: MakeImages, case: Case) -> None:
    private = [made(fit(case.make(privacy=NOISY, seed=3), members(make_images))) for _ in range(2)]
    assert not torch.equal(*private)
    opened = []
    for junk in (0, 1):
        torch.manual_seed(junk), np.random.seed(junk)
        state = torch.get_rng_state(), np.random.get_state()[1].copy()
        opened.append(made(fit(case.make(privacy=None, seed=3), members(make_images))))
        assert torch.equal(torch.get_rng_state(), state[0])
        assert (np.random.get_state()[1] == state[1]).all()
    assert torch.equal(*opened)
    assert not torch.equal(opened[0], made(fit(case.make(privacy=None, seed=4), members(make_images))))


def test_the_order_of_clients_does_not_matter(make_images: MakeImages, case: Case) -> None:
    def opened(order: Sequence[int]) -> torch.Tensor:
        clients = [Client(f"c{i}", make_images(9 + 3 * i, seed=i)) for i in range(3)]
        return made(fit(case.make(privacy=None), [clients[i] for i in order]))

    first = opened((0, 1, 2))
    for order in () if case.draws else ((2, 0, 1), (1, 0, 2)):
        assert float((opened(order) - first).abs().max()) < 1e-4
    assert float((opened((0, 1)) - first).abs().max()) > 1e-3  # it is not that the clients do not matter
    bills = []
    for step in (1, -1):
        clients = [*members(make_images, 2), Client("x", make_images(9), randomness=InsecureRandomness(0))][::step]
        release = fit(case.make(privacy=NOISY), clients)
        own = ("charges", "claim", "spent", "so_far", "messages_used")
        bills.append({name: [bill[part] for part in own] for name, bill in release.card["clients"].items()})
    assert bills[0] == bills[1]


HOLDINGS: dict[str, dict[str, Any]] = {
    "nothing": {"n": 0},
    "one example": {"n": 1},
    "one class": {"n": 9, "labels": [2] * 9},
    "more than a micro-batch": {"n": 70},
}


def asked(query: Query) -> bytes:
    """A query's bytes, where it carries weights but for these: they follow from noisy messages."""
    return dataclasses.replace(
        query, tensors={name: torch.zeros_like(tensor) for name, tensor in query.tensors.items()}
    ).data


def test_nothing_but_the_noisy_values_depends_on_the_data(make_images: MakeImages, case: Case) -> None:
    """Sizes, enrolments, the queries' number and their bytes: the same for all data."""
    seen, keys = set(), [SiteKey.for_this_process(), SiteKey.for_this_process()]
    for holding in HOLDINGS.values():
        wire = Wire([Client("a", make_images(**holding), key=keys[0]), Client("b", make_images(9), key=keys[1])])
        release = fit(case.make(privacy=NOISY), wire)
        release.verify()
        run_id = release.card["run_id"].encode()
        assert {query.question for _, query, _ in wire.answers} == case.questions  # no counts, no images
        assert all(query.batch is None for _, query, _ in wire.answers)
        assert any(query.tensors for _, query, _ in wire.answers) == case.weights
        own = [(asked(query).replace(run_id, b""), len(data)) for name, query, data in wire.answers if name == "a"]
        assert len(own) == case.queries
        assert all(len(data) == size for (_, size), (_, _, data) in zip(own, wire.answers[1::2], strict=True))
        values = [Message.from_bytes(data).values for name, _, data in wire.answers if name == "a"]
        assert all(bool((value != 0).any(dim=1).all()) for value in values)  # every class carries noise
        seen.add((tuple(own), tuple(wire.enrolments), *(value.shape for value in values)))
    assert len(seen) == 1


@pytest.mark.parametrize("privacy", [NOISY, None], ids=["private", "open"])
@pytest.mark.parametrize("holding", ["nothing", "one class"])
def test_clients_with_little_take_part(
    make_images: MakeImages, tmp_path: Path, case: Case, privacy: Privacy | None, holding: str
) -> None:
    clients = [Client("a", make_images(**HOLDINGS[holding])), Client("b", make_images(9))]
    release = checked(fit(case.make(privacy=privacy), clients), tmp_path)
    bills = release.card["clients"]
    assert bills["a"]["messages_used"] == bills["b"]["messages_used"] >= case.queries
    assert bills["a"]["spent"] == bills["b"]["spent"]
    if privacy or not case.draws:
        alone = checked(fit(case.make(privacy=privacy), clients[:1]), tmp_path / "alone")
        assert not alone.card["progress"]["stopped_early"]
