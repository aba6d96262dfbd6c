"""Releases for tests: of a run, or made directly from ledgers; and what a forger does to them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.events import Event, SampledGaussian
from private_distdd.privacy.ledger import Budget, Entry, Ledger
from private_distdd.privacy.ledger.entries import encode
from private_distdd.privacy.plan import Privacy
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.release.build import build_release
from private_distdd.release.card import render_card
from private_distdd.release.folder import manifest_of, pretty
from private_distdd.release.release import Release, verify_folder
from private_distdd.site.client import Client
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.wire.query import message_id
from private_distdd.wire.run import Run

Edit = Callable[[dict[str, Any]], object]


INFO = DatasetInfo("two grey classes", 2, (1, 4, 4))


PRIVACY = Privacy(noise_multiplier=1.5, delta=1e-5, sample_rate=0.2, max_grad_norm=0.5, divisor=8.0)


ROUNDS, STEPS = 3, 2


def chained(entries: Iterable[Entry]) -> bytes:
    """A ledger of these lines, as a forger writes it."""
    data, head = b"", "0" * 64
    for index, entry in enumerate(entries):
        line = encode(entry, index, head)
        data, head = data + line + b"\n", hashlib.sha256(line).hexdigest()
    return data


def fit(privacy: Privacy | None, insecure: bool = False, budget: Budget | None = None) -> Release:
    rng = np.random.default_rng(0)
    clients = []
    for name in ("ann", "bob"):
        images = torch.from_numpy(rng.standard_normal((6, 1, 4, 4), dtype=np.float32))
        data = ImageDataset(images, torch.arange(6) % 2, INFO)
        randomness = InsecureRandomness(0) if insecure else None
        clients.append(Client(name, data, Ledger(None, budget, client_id=name), randomness=randomness))
    method = DistDD(ipc=2, rounds=ROUNDS, matching_steps=STEPS, model="mlp", privacy=privacy)
    return method.fit(clients)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def seal(folder: Path) -> None:
    """Recompute the manifest, as a forger would."""
    hashes = {n: hashlib.sha256(d).hexdigest() for n, d in files_of(folder).items() if n != "manifest.json"}
    (folder / "manifest.json").write_bytes(manifest_of(hashes))


def forge(folder: Path, edit: Edit) -> list[str]:
    """Change the card, render its page, redo the manifest, verify."""
    card = json.loads((folder / "card.json").read_bytes())
    edit(card)
    (folder / "card.json").write_bytes(pretty(card))
    with contextlib.suppress(KeyError):  # of a card without a field there is no page
        (folder / "card.html").write_text(render_card(card), encoding="utf-8")
    seal(folder)
    return verify_folder(folder)


class Built:
    """Releases made directly from ledgers, without a run; `pinned` and `charged` are what the ledger holds."""

    run = Run("r", INFO, PRIVACY.plan(ROUNDS))

    def __init__(self) -> None:
        plan = self.run.plan
        assert plan is not None
        self.method = "DistDD"
        self.settings: dict[str, Any] = {"ipc": 1, "rounds": ROUNDS, "matching_steps": STEPS}
        self.pinned: tuple[Event, int] | None = (plan.event, plan.max_queries)
        self.charged: Event = plan.event
        self.rounds: list[int] = [0, 1, 2]
        self.client_id: str | None = "ann"
        self.used = 3
        self.progress = {"rounds_planned": 3, "rounds_done": 3, "matching_steps": 6, "stopped_early": False}

    def ledger(self) -> bytes:
        ledger = Ledger(None, client_id=self.client_id)
        ledger.charge(SampledGaussian(9.0, 1.0), "earlier:0")
        if self.pinned is not None:
            ledger.pin("r", *self.pinned, self.run.terms_digest)
        for server_round in self.rounds:
            ledger.charge(self.charged, message_id("r", server_round))
            ledger.seal(message_id("r", server_round), "0" * 64)
        return ledger.to_bytes()

    def failures(self) -> list[str]:
        return self.release().failures()

    def release(self) -> Release:
        return build_release(
            SyntheticDataset(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), INFO),
            self.run,
            {"ann": self.ledger()},
            method=self.method,
            settings=self.settings | {"privacy": asdict(PRIVACY)},
            seeds="none",
            progress=self.progress,
            messages={"ann": self.used},
        )


def leaves(record: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(record, dict) and record:
        for name in record:
            yield from leaves(record[name], (*path, name))
    else:
        yield path
