"""What a client's own log says of a pass: a share in coarse steps, now and then, in fixed words."""

from __future__ import annotations

import logging
import re

import pytest
import torch

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.site import share
from private_distdd.site.client import Client
from private_distdd.site.share import Share
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

LOG = "private_distdd_client.clinic"
LINE = r"round \d+: \d+ % of the (pass|features)"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(share.time, "monotonic", lambda: now[0])
    return now


def test_a_line_at_most_every_ten_seconds_in_steps_of_five_percent(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOG)
    own = Share(logging.getLogger(LOG), 3, 2)
    for done in range(1, 101):  # two measurements of 100 micro-batches, one a second
        clock[0] += 1
        own.at(done, 100)
    own.measured()
    for done in range(1, 101):
        clock[0] += 1
        own.at(done, 100)
    assert caplog.messages == [f"round 3: {percent} % of the pass" for percent in range(5, 101, 5)]


def test_a_quick_answer_leaves_no_line(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    caplog.set_level(logging.INFO, LOG)
    own = Share(logging.getLogger(LOG), 0, 1)
    for done in range(1, 101):
        clock[0] += 0.09
        own.at(done, 100)
    assert caplog.messages == []


@pytest.mark.parametrize("held", [0, 1, 130])
@pytest.mark.parametrize("spec", [ModelSpec("mlp", {"width": 1, "depth": 1}), ModelSpec("scatter_linear")])
def test_lines_of_a_client_tell_no_number_of_examples(
    held: int, spec: ModelSpec, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, LOG)
    monkeypatch.setattr(share, "EVERY", 0.0)
    info = DatasetInfo("small", 2, (1, 32, 32), (0.5,), (0.5,))
    run = Run("run-1", info, PrivacyPlan(1.0, 0.5, 1.0, 1.0, 9, delta=1e-5))
    client = Client("clinic", ImageDataset(torch.rand(held, 1, 32, 32), torch.zeros(held, dtype=torch.int64), info))
    client.enroll(run)
    arguments = {"model": spec.to_json(), "granularity": "class"}
    client.answer(
        Query("run-1", 4, "class_gradients", arguments, dict(spec.build((1, 32, 32), 2, 0).state_dict()), run.plan)
    )
    lines = [text for text in caplog.messages if "%" in text]
    assert all(re.fullmatch(LINE, text) for text in lines)
    assert lines[-1] == "round 4: 100 % of the pass"
    assert all(int(text.split()[2]) % 5 == 0 for text in lines)
    assert any("features" in text for text in lines) == (spec.name == "scatter_linear")
