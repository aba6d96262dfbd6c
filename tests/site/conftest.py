"""Fixtures of these tests."""

from __future__ import annotations

import pytest
from answers import PLAN, MakeImages

from private_distdd.data.info import DatasetInfo
from private_distdd.site.client import Client
from private_distdd.wire.run import Run


@pytest.fixture
def run(tiny_info: DatasetInfo) -> Run:
    return Run("run-1", tiny_info, PLAN)


@pytest.fixture
def client(make_images: MakeImages, run: Run) -> Client:
    own = Client("clinic", make_images(12))
    own.enroll(run)
    return own
