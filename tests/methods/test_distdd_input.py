"""DistDD: bad values and contradictions are refused with value and range."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from small_distdd import MakeImages, Small, members, open_fit

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError
from private_distdd.privacy.plan import Privacy
from private_distdd.site.client import Client

BAD: list[tuple[str, Any]] = [
    *(
        (name, value)
        for name in ("ipc", "rounds", "matching_steps", "memory")
        for value in (0, -1, 1.5, True, None, "1")
    ),
    *(("batch_per_class", value) for value in (0, -5, 2.5, "3")),
    *(("networks_per_query", value) for value in (0, -1, 0.5, None, True, 4097)),
    *(("reinit_every", value) for value in (0, -1, 0.5)),
    *(("network_steps", value) for value in (-1, 0.5, None)),
    *(("seed", value) for value in (-1, 0.5, None)),
    *((n, v) for n in ("matching_rate", "network_rate") for v in (0, -1, math.nan, math.inf, "1", None)),
    *(("network_momentum", value) for value in (-0.1, 1, math.nan, math.inf, "1", None)),
    *(("participation", value) for value in (0, -0.5, 1.01, math.nan, "1", None)),
    *(
        (name, value)
        for name in (
            "granularity",
            "distance",
            "matching_optimizer",
            "matching_schedule",
            "network_update",
            "network_events",
            "initialization",
        )
        for value in ("other", "", None, 3)
    ),
    ("privacy", 8.0),
    ("privacy", {"target_epsilon": 8}),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_refused_with_value_and_range(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Small(**({"privacy": None} | {name: value}))
    assert f"{name} = {value!r}" in str(caught.value)
    assert caught.value.allowed in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"batch_per_class": 5}, "batch_per_class = 5"),
        ({"initialization": "real"}, "initialization = 'real' with privacy"),
        ({"network_update": "aggregated", "network_steps": 2}, "network_steps = 2"),
        ({"networks_per_query": 2, "reinit_every": 2}, "reinit_every = 2"),
        ({"networks_per_query": 2, "reinit_every": None}, "reinit_every = None"),
        ({"networks_per_query": 2, "network_steps": 1}, "network_steps = 1"),
        ({"networks_per_query": 4097}, "networks_per_query = 4097"),
    ],
)
def test_contradictions_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Small(**arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"participation": 0.1}, "participation = 0.1 of 3 clients"),
        ({"aggregator": "trimmed_mean"}, "trimmed_mean"),
        ({"aggregator": "median", "participation": 0.67}, "median of 2 clients"),
        ({"aggregator": "krummest"}, "aggregator = 'krummest'"),
        ({"aggregator": "trimmed_mean(share=0.5)"}, "share = 0.5"),
        ({"device": "toaster"}, "device = 'toaster'"),
        ({"device": "meta:x"}, "device"),
        ({"privacy": Privacy(target_epsilon=1e-9, delta=1e-12)}, "2\\^20"),
        ({"privacy": Privacy(target_epsilon=1e-9, delta=1e-12, sample_rate=0.1)}, "epsilon|2\\^20"),
    ],
)
def test_what_only_the_clients_show_is_found_before_they_are_asked(
    make_images: MakeImages, arguments: dict[str, Any], text: str
) -> None:
    clients = members(make_images, ledger=None)
    with pytest.raises(ConfigurationError, match=text):
        Small(**arguments).fit(clients)
    assert all(len(client.ledger) == 1 for client in clients)  # nothing spent, nothing reserved


@pytest.mark.parametrize("model", [("no such", {}), ("mlp", {"width": 0}), ("mlp", {"color": 1}), ("lenet", {})])
def test_bad_models_are_found_before_the_clients_are_asked(make_images: MakeImages, model: tuple[str, Any]) -> None:
    clients = members(make_images)
    with pytest.raises(ModelError):
        Small(model=model[0], model_args=model[1]).fit(clients)
    assert all(len(client.ledger) == 1 for client in clients)


def test_clients_must_agree_on_what_is_public(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    other = dataclasses.replace(tiny_info, mean=(0.1,))
    clients = [*members(make_images, 1), Client("x", make_images(3), info=other)]
    with pytest.raises(ConfigurationError, match="info"):
        Small().fit(clients)
    with pytest.raises(ConfigurationError, match="clients"):
        Small().fit([], info=tiny_info)
    with pytest.raises(ConfigurationError, match="clients"):
        Small().fit([clients[0], clients[0]])


def test_a_second_run_is_charged_on_top(make_images: MakeImages) -> None:
    clients = members(make_images, 1)
    Small().fit(clients)
    release = Small().fit(clients)
    release.verify()
    bill = release.card["clients"]["c0"]
    assert bill["charges"] == 4
    assert bill["so_far"]["epsilon"] > bill["spent"]["epsilon"]
    assert len(clients[0].ledger.events) == 8


def test_callbacks_and_progress_do_not_touch_the_result(
    make_images: MakeImages, capsys: pytest.CaptureFixture[str]
) -> None:
    method = Small(privacy=None)
    plain = open_fit(method, members(make_images)).dataset.images
    shown = open_fit(method, members(make_images), progress=True).dataset.images
    assert torch.equal(plain, shown)
    assert "NOT PRIVATE" in capsys.readouterr().err
    Small().fit(members(make_images), progress=True)
    assert "epsilon so far" in capsys.readouterr().err
