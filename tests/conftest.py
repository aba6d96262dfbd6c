"""What all tests share: hypothesis profiles, one thread, real data only where it was asked for, small fixtures."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from private_distdd.auditing import suite
from private_distdd.auditing.checks.restart import restart_check
from private_distdd.auditing.mutants import gates
from private_distdd.auditing.report.records import AuditRecord
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset
from private_distdd.site.client import Client

_SLOW_HOSTS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("ci", derandomize=True, print_blob=True, **_SLOW_HOSTS)
settings.register_profile("dev", **_SLOW_HOSTS)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

torch.set_num_threads(1)

DATA_ROOT = "PRIVATE_DISTDD_DATA"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `data` need a folder with real data sets; nothing is downloaded."""
    if os.environ.get(DATA_ROOT):
        return
    skip = pytest.mark.skip(
        reason=f"set {DATA_ROOT} to a folder with torchvision's MNIST, "
        "for example one made by `python ../shared/datasets/prepare.py ROOT`"
    )
    for item in items:
        if "data" in item.keywords and item.get_closest_marker("data") is not None:
            item.add_marker(skip)


@pytest.fixture
def data_root() -> Path:
    """The folder that PRIVATE_DISTDD_DATA names; for tests marked `data`."""
    return Path(os.environ[DATA_ROOT])


@pytest.fixture(scope="session")
def tiny_info() -> DatasetInfo:
    """Three classes of grey 8 x 8 images."""
    return DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.5,))


MakeImages = Callable[..., ImageDataset]


@pytest.fixture(scope="session")
def make_images(tiny_info: DatasetInfo) -> MakeImages:
    """make_images(n, seed=0, labels=None): n random images of `tiny_info`, labels 0, 1, 2, 0, ... unless given."""

    def make(n: int, seed: int = 0, labels: list[int] | None = None) -> ImageDataset:
        images = torch.randn((n, *tiny_info.shape), generator=torch.Generator().manual_seed(seed))
        own = torch.arange(n) % tiny_info.num_classes if labels is None else torch.tensor(labels, dtype=torch.int64)
        return ImageDataset(images, own.to(torch.int64), tiny_info)

    return make


@pytest.fixture
def flower_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's messages say whose task made them: outside its processes, somebody must say so."""
    from flwr.supercore.task_identity import TaskIdentity  # there is no public way

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(scope="session")
def restarted() -> AuditRecord:
    """`restart_check` of the library: its fresh interpreters take seconds, and are asked once for all tests."""
    return restart_check()


@pytest.fixture
def restarted_once(restarted: AuditRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever checks the library's restarts gets that one record."""
    for module in (suite, gates):
        monkeypatch.setattr(module, "restart_check", lambda client=Client: _of_the_library(client, restarted))


@pytest.fixture
def short_audit(restarted_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`suite.audit` with fewer and smaller messages end to end: the usual ones take ten seconds."""
    canary, noise = suite.canary_client, suite.client_noise_check

    def fewer(*arguments: Any) -> AuditRecord:
        return canary(*arguments[:4], 60, arguments[5])

    @functools.wraps(noise)
    def smaller(*arguments: Any) -> AuditRecord:
        return noise(*arguments, width=8)

    monkeypatch.setattr(suite, "canary_client", fewer)
    monkeypatch.setattr(suite, "client_noise_check", smaller)


def _of_the_library(client: type[Client], record: AuditRecord) -> AuditRecord:
    assert client is Client
    return record


@pytest.fixture(scope="session")
def digits() -> ImageDataset:
    """The training part of scikit-learn's digits."""
    return load_dataset("digits")[0]
