"""What a client refuses, it refuses for nothing: other constants, networks, budgets, owners' limits."""

from __future__ import annotations

import dataclasses
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from answers import PLAN, SHAPE, SPEC, MakeImages, charges, query
from torch import Tensor, nn

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import (
    BudgetExceededError,
    ConfigurationError,
    ModelError,
    PrivateDistDDError,
    QueryRefusedError,
)
from private_distdd.limits import ComputeLimits
from private_distdd.networks.register import register_model
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.ledger import Budget, Ledger, Pin
from private_distdd.site import client as client_module
from private_distdd.site.client import Client
from private_distdd.wire.run import Run


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": 1.9},
        {"noise_multiplier": 2.1},
        {"sample_rate": 0.6},
        {"sample_rate": 0.4},
        {"max_grad_norm": 2.0},
        {"divisor": 3.0},
        {"max_queries": 6},
        {"max_queries": 4},
        {"delta": 1e-4},
    ],
)
def test_other_constants_are_refused_for_nothing(client: Client, run: Run, changes: dict[str, float]) -> None:
    before = client.ledger.to_bytes()
    other = dataclasses.replace(PLAN, **changes)
    with pytest.raises(QueryRefusedError, match="pinned"):
        client.answer(query(run, plan=other))
    with pytest.raises(QueryRefusedError):
        client.enroll(Run(run.run_id, run.info, other))
    assert client.ledger.to_bytes() == before
    client.answer(query(run))  # still at the values it agreed to


def test_a_query_without_plan_in_a_private_run_is_refused(client: Client, run: Run) -> None:
    before = client.ledger.to_bytes()
    with pytest.raises(QueryRefusedError, match="pinned"):
        client.answer(query(run, plan=None))
    with pytest.raises(QueryRefusedError, match="pinned"):
        client.answer(query(run, plan=None, batch=((1, 1, 1), 0)))
    with pytest.raises(QueryRefusedError):
        client.enroll(Run(run.run_id, run.info, None))
    assert client.ledger.to_bytes() == before


def test_query_t_max_plus_one_is_refused(client: Client, run: Run) -> None:
    for t in range(PLAN.max_queries):
        client.answer(query(run, t))
    before = client.ledger.to_bytes()
    for t in (PLAN.max_queries, 77):
        with pytest.raises(QueryRefusedError):
            client.answer(query(run, t))
    assert client.ledger.to_bytes() == before
    assert len(charges(client.ledger)) == PLAN.max_queries
    client.answer(query(run, PLAN.max_queries - 1))  # the last one's reply may have been lost


def test_t_max_counts_over_restarts(make_images: MakeImages, run: Run, tmp_path: Path) -> None:
    for t in range(PLAN.max_queries):
        with Ledger(tmp_path / "x.jsonl") as ledger:
            own = Client("clinic", make_images(3), ledger)
            own.enroll(run)
            own.answer(query(run, t))
    with Ledger(tmp_path / "x.jsonl") as ledger:
        own = Client("clinic", make_images(3), ledger)
        own.enroll(run)
        with pytest.raises(QueryRefusedError):
            own.answer(query(run, PLAN.max_queries))
        with pytest.raises(PrivateDistDDError):
            own.enroll(Run(run.run_id, run.info, dataclasses.replace(PLAN, max_queries=9)))


def test_unknown_runs_and_strange_infos_are_refused(client: Client, run: Run) -> None:
    before = client.ledger.to_bytes()
    with pytest.raises(QueryRefusedError, match="enrolled"):
        client.answer(query(Run("run-2", run.info, PLAN)))
    for changes in (
        {"num_classes": 4},
        {"name": "other"},
        {"mean": (0.4,)},
        {"std": (0.4,)},
        {"shape": (1, 4, 16)},
    ):
        with pytest.raises(QueryRefusedError, match="owner"):
            client.enroll(Run("run-2", dataclasses.replace(run.info, **changes), PLAN))
    assert client.ledger.to_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "class_examples", "arguments": {"counts": [1, 1, 1]}, "tensors": {}},
        {"question": "class_counts", "arguments": {}, "tensors": {}},
        {"question": "os.system"},
        {"question": ""},
        {"arguments": {}},
        {"arguments": {"model": SPEC.to_json(), "granularity": "example"}},
        {"arguments": {"model": SPEC.to_json(), "granularity": "class", "code": "x"}},
        {"arguments": {"model": "mlp", "granularity": "class"}},
        {"arguments": {"model": {"name": "no such", "arguments": {}}, "granularity": "class"}},
        {"arguments": {"model": {"name": "mlp", "arguments": {"widht": 3}}, "granularity": "class"}},
        {"arguments": {"model": {"name": "mlp", "arguments": {"width": 9}}, "granularity": "class"}},
        {"tensors": {}},
        {"tensors": {"x": torch.zeros(2)}},
    ],
)
def test_queries_that_are_not_the_registered_statistic_cost_nothing(
    client: Client, run: Run, changes: dict[str, Any]
) -> None:
    before = client.ledger.to_bytes()
    with pytest.raises((QueryRefusedError, ModelError)):
        client.answer(query(run, **changes))
    assert client.ledger.to_bytes() == before
    client.answer(query(run))


@register_model("test_client_batchnorm")
def _with_batchnorm(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(math.prod(shape), num_classes))


class _Coupled(nn.Module):
    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(pixels, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer((images - images.mean(dim=0)).flatten(1))


@register_model("test_client_coupled")
def _coupled(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return _Coupled(math.prod(shape), num_classes)


@pytest.mark.parametrize("name", ["test_client_batchnorm", "test_client_coupled"])
def test_networks_that_mix_examples_are_refused_for_nothing(client: Client, run: Run, name: str) -> None:
    bad, before = ModelSpec(name), client.ledger.to_bytes()
    arguments = {"model": bad.to_json(), "granularity": "class"}
    for _ in range(2):  # the second time as well: a cache must not forget the refusal
        with pytest.raises(ModelError):
            client.answer(query(run, arguments=arguments, tensors=dict(bad.build(SHAPE, 3, 0).state_dict())))
    assert client.ledger.to_bytes() == before


def test_budgets(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    own = Client("clinic", make_images(6), Ledger(None, Budget(1.0, 1e-5)))
    before = own.ledger.to_bytes()
    dear = dataclasses.replace(PLAN, noise_multiplier=0.5)
    with pytest.raises(BudgetExceededError):
        own.enroll(Run("run-1", tiny_info, dear))
    with pytest.raises(BudgetExceededError):
        own.enroll(Run("run-1", tiny_info, None))
    with pytest.raises(QueryRefusedError):
        own.answer(query(Run("run-1", tiny_info, dear)))
    assert own.ledger.to_bytes() == before
    cheap = Run("run-2", tiny_info, dataclasses.replace(PLAN, noise_multiplier=30.0, sample_rate=0.1))
    own.enroll(cheap)
    for t in range(PLAN.max_queries):
        own.answer(query(cheap, t))
    assert 0 < own.ledger.epsilon(1e-5) <= 1.0


def test_an_owner_s_plan_is_the_only_one(make_images: MakeImages, run: Run, tiny_info: DatasetInfo) -> None:
    own = Client("clinic", make_images(6), plan=PLAN)
    for plan in (None, dataclasses.replace(PLAN, max_grad_norm=2.0), dataclasses.replace(PLAN, max_queries=4)):
        with pytest.raises(QueryRefusedError, match="owner"):
            own.enroll(Run("run-2", tiny_info, plan))
    own.enroll(run)
    own.answer(query(run))


def test_an_owner_s_plan_is_for_so_many_runs(make_images: MakeImages, tiny_info: DatasetInfo, tmp_path: Path) -> None:
    once = dataclasses.replace(PLAN, max_queries=1)
    for most in (1, 3):
        path = tmp_path / f"{most}.jsonl"
        for number in range(most):
            with Ledger(path) as ledger:  # counted over restarts
                own = Client("clinic", make_images(6), ledger, plan=once, max_runs=most)
                for _ in range(2):  # a run may be resumed
                    own.enroll(offered := Run(f"run-{number}", tiny_info, once))
                own.answer(query(offered))
        with Ledger(path) as ledger:
            own, before = Client("clinic", make_images(6), ledger, plan=once, max_runs=most), ledger.to_bytes()
            for number in range(most, most + 3):
                with pytest.raises(QueryRefusedError, match="as the owner says"):
                    own.enroll(Run(f"run-{number}", tiny_info, once))
            assert ledger.to_bytes() == before
            assert ledger.events == (once.event,) * most
            own.enroll(Run("run-0", tiny_info, once))
    with pytest.raises(ConfigurationError, match="max_runs"):
        Client("clinic", make_images(6), plan=once, max_runs=0)


def test_runs_at_the_same_time_do_not_pass_the_owner_s_number(
    make_images: MakeImages, tiny_info: DatasetInfo, tmp_path: Path
) -> None:
    """Pins are counted where they are written: eight threads once had eight runs of a plan for one."""
    for trial in range(3):
        with Ledger(tmp_path / f"{trial}.jsonl") as ledger:
            own = Client("clinic", make_images(3), ledger, plan=PLAN, max_runs=2)
            start = threading.Barrier(8)

            def enroll(number: int, own: Client = own, start: threading.Barrier = start) -> bool:
                start.wait()
                try:
                    own.enroll(Run(f"run-{number}", tiny_info, PLAN))
                except QueryRefusedError:
                    return False
                return True

            with ThreadPoolExecutor(8) as pool:
                assert sum(pool.map(enroll, range(8))) == 2
            assert sum(isinstance(entry, Pin) for entry in ledger) == 2


def test_a_query_that_cannot_be_paid_costs_no_work(client: Client, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for t in range(PLAN.max_queries):
        client.answer(query(run, t))
    prepared: list[str] = []
    monkeypatch.setattr(client_module, "private_question", lambda name, *_: prepared.append(name))
    for width in (9, 10, 11):
        spec = ModelSpec("mlp", {"width": width, "depth": 1})
        with pytest.raises(QueryRefusedError, match="charge 6"):
            client.answer(query(run, 77, arguments={"model": spec.to_json(), "granularity": "class"}))
    assert prepared == []


@pytest.mark.parametrize("allowed", [None, False])
def test_a_client_is_private_unless_its_owner_said_otherwise(
    make_images: MakeImages, tiny_info: DatasetInfo, allowed: bool | None
) -> None:
    own, opened = Client("clinic", make_images(6), allow_without_privacy=allowed), Run("run-1", tiny_info, None)
    before = own.ledger.to_bytes()
    with pytest.raises(QueryRefusedError, match="without privacy"):
        own.enroll(opened)
    with pytest.raises(QueryRefusedError, match="enrolled"):
        own.answer(query(opened))
    assert own.ledger.to_bytes() == before
    told = Client("clinic", make_images(6), allow_without_privacy=True)
    told.enroll(opened)
    assert told.answer(query(opened)).counts is not None
    told.allow_without_privacy = False  # an owner may think again
    with pytest.raises(QueryRefusedError, match="without privacy"):
        told.answer(query(opened, 1))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mlp", {"width": 16000, "depth": 2}),
        ("mlp", {"width": 4096, "depth": 60}),
        ("convnet", {"width": 4096, "depth": 2}),
    ],
)
def test_networks_beyond_the_owner_s_limits_are_refused_before_they_are_made(
    client: Client, run: Run, monkeypatch: pytest.MonkeyPatch, name: str, arguments: dict[str, int]
) -> None:
    before = client.ledger.to_bytes()
    asked = query(run, arguments={"model": ModelSpec(name, arguments).to_json(), "granularity": "class"})

    made: list[nn.Parameter] = []
    for layer in (nn.Linear, nn.modules.conv._ConvNd):
        monkeypatch.setattr(layer, "reset_parameters", lambda own: made.append(own.weight))
    with pytest.raises(QueryRefusedError, match="GiB"):
        client.answer(asked)
    assert client.ledger.to_bytes() == before
    assert made
    assert all(weight.is_meta for weight in made)


def test_an_owner_may_set_other_limits(make_images: MakeImages, run: Run) -> None:
    for limits in (ComputeLimits(memory=1e5), ComputeLimits(work=100)):
        own = Client("clinic", make_images(6), limits=limits)
        own.enroll(run)
        with pytest.raises(QueryRefusedError, match="owner"):
            own.answer(query(run))
        assert own.ledger.events == ()
    for wrong in (0, -1.0, math.inf, math.nan, True, "8"):
        with pytest.raises(ConfigurationError, match="memory"):
            ComputeLimits(memory=wrong)  # type: ignore[arg-type]


def test_enrolling_again_changes_nothing(client: Client, run: Run) -> None:
    client.answer(query(run))
    before = client.ledger.to_bytes()
    assert client.enroll(run).client_id == "clinic"
    assert client.ledger.to_bytes() == before


@pytest.mark.parametrize("client_id", ["", "a b", "../x", "a/b", "ä", "x" * 65, "a\n", None, 3])
def test_malformed_names(make_images: MakeImages, client_id: Any) -> None:
    with pytest.raises(QueryRefusedError, match="client_id"):
        Client(client_id, make_images(1))
