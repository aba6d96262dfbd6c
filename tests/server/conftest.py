"""Fixtures of these tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import NAMES, PRIVATE, Federation, MakeImages

from private_distdd.data.info import DatasetInfo
from private_distdd.privacy.ledger import Ledger
from private_distdd.site.client import Client
from private_distdd.wire.run import Run


@pytest.fixture
def federation(make_images: MakeImages, tmp_path: Path) -> Iterator[Federation]:
    """federation(folder="x"): the clients as a new process finds them, with the ledgers in tmp_path/x."""
    opened: list[Ledger] = []

    def make(folder: str = "x", **ledger: Any) -> list[Client]:
        for old in opened:
            old.close()
        (tmp_path / folder).mkdir(exist_ok=True)
        own = [Ledger(tmp_path / folder / f"{name}.jsonl", **ledger) for name in NAMES]
        opened.extend(own)
        return [
            Client(name, make_images(12, seed), own[seed], allow_without_privacy=True)
            for seed, name in enumerate(NAMES)
        ]

    yield make
    for ledger in opened:
        ledger.close()


@pytest.fixture
def run(tiny_info: DatasetInfo) -> Run:
    return Run("run-1", tiny_info, PRIVATE.privacy.plan(4) if PRIVATE.privacy else None)
