"""Releases that tests share, and copies to be changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from releases import PRIVACY, fit

from private_distdd.errors import NotPrivateWarning
from private_distdd.privacy.ledger import Budget
from private_distdd.release.release import Release


@pytest.fixture(scope="session")
def private() -> Release:
    return fit(PRIVACY, budget=Budget(20.0, 1e-5))


@pytest.fixture(scope="session")
def not_private() -> Release:
    with pytest.warns(NotPrivateWarning):
        return fit(None)


@pytest.fixture(scope="session")
def saved(private: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return private.save(tmp_path_factory.mktemp("release") / "run")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))
