"""Every method: bad input is refused before anybody is asked."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conformance import NOISY, Case, MakeImages, fit, members

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError
from private_distdd.privacy.plan import Privacy
from private_distdd.site.client import Client


def test_bad_knobs_are_refused_with_value_and_range(case: Case) -> None:
    bad: list[tuple[str, Any]] = [
        *((name, value) for name in case.counts for value in (0, -1, 1.5, True, "1")),
        *((name, value) for name in case.numbers for value in (0, -1, math.nan, math.inf, "1", None, True)),
        *(("seed", value) for value in (-1, 0.5, None, True)),
        ("aggregator", "krummest"),
        ("privacy", 8.0),
        ("privacy", {"target_epsilon": 8}),
    ]
    for name, value in bad:
        with pytest.raises(ConfigurationError) as caught:
            case.make(**({"privacy": None} | {name: value}))
        assert f"{name} = {value!r}" in str(caught.value)
        assert caught.value.allowed
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"aggregator": "trimmed_mean"}, "trimmed_mean"),
        ({"aggregator": "trimmed_mean(share=0.5)"}, "share = 0.5"),
        ({"device": "toaster"}, "device = 'toaster'"),
        ({"privacy": Privacy(target_epsilon=1e-9, delta=1e-12)}, "2\\^20"),
        ({"model": "no such", "model_args": {}}, "no such"),
        ({"model": "mlp", "model_args": {"width": 0}}, "width = 0"),
        ({"model": "mlp", "model_args": {"colour": 1}}, "colour"),
        ({"model": "lenet", "model_args": {}}, "12 x 12"),
    ],
)
def test_what_only_the_clients_show_is_found_before_they_are_asked(
    make_images: MakeImages, case: Case, arguments: dict[str, Any], text: str
) -> None:
    clients = members(make_images)
    with pytest.raises((ConfigurationError, ModelError), match=text):
        case.make(**({"privacy": NOISY} | arguments)).fit(clients)
    assert all(len(client.ledger) == 1 for client in clients)  # nothing spent, nothing reserved


def test_what_is_public_comes_from_the_clients_or_the_caller(
    make_images: MakeImages, tiny_info: DatasetInfo, case: Case
) -> None:
    data = make_images(9)
    bare = torch.utils.data.TensorDataset(data.images, data.labels)
    method = case.make(privacy=NOISY)
    fit(method, [Client("a", bare), Client("b", bare)], info=tiny_info).verify()
    with pytest.raises(ConfigurationError, match="info"):
        method.fit([Client("a", bare)])
    with pytest.raises(ConfigurationError, match="clients"):
        method.fit([], info=tiny_info)
    twin = Client("a", data)
    with pytest.raises(ConfigurationError, match="clients"):
        method.fit([twin, twin])
