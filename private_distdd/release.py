"""The release: S with its card and its ledgers, as one folder that whoever receives it can check."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from private_distdd.data.synthetic import SyntheticDataset
from private_distdd.errors import PrivateDistDDError, ReleaseError
from private_distdd.federation.messages import Run
from private_distdd.privacy.accountants import bracket
from private_distdd.privacy.events import RELATION, UNIT, Event, NotPrivate, merge
from private_distdd.privacy.ledger import Charge, History, parse
from private_distdd.privacy.spec import PrivacyPlan
from private_distdd.reporting.card import render_card
from private_distdd.storage import sync_folder, to_json

FORMAT = "private_distdd.release/1"
SYNTHETIC, CARD, CARD_PAGE, PREVIEW = "synthetic.safetensors", "card.json", "card.html", "preview.png"
MANIFEST = "manifest.json"
_DELTA_WITHOUT_PRIVACY = 1e-5  # epsilon is infinite there at every delta


@dataclass(frozen=True)
class Release:
    """What is handed on: the synthetic data set, its card, and the ledgers that the card's numbers follow from.

    Args:
        dataset: S.
        card: the record described in docs/verifying.md; plain JSON values.
        ledgers: each client's ledger file as it stood at the end, by client_id.
    """

    dataset: SyntheticDataset
    card: Mapping[str, Any]
    ledgers: Mapping[str, bytes]

    @property
    def private(self) -> bool:
        """Does every client have a finite bill?"""
        return bool(self.card["private"])

    @property
    def epsilon(self) -> dict[str, float]:
        """The claim of this run: epsilon(T_max) of each client at the card's delta; infinite without privacy."""
        return {name: _number(bill["claim"]["epsilon"]) for name, bill in self.card["clients"].items()}

    def save(self, path: str | Path) -> Path:
        """Write the folder, whole or not at all.

        Raises:
            ReleaseError: the folder exists, or it cannot be written (a full disk, for example); nothing stays behind.
        """
        folder = Path(path)
        if folder.exists() or folder.is_symlink():
            raise ReleaseError(f"{folder} exists", "a new folder", "Choose another name; nothing is ever overwritten.")
        partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            (partial / "ledgers").mkdir(parents=True)
            self.dataset.save(partial / SYNTHETIC)
            self.dataset.preview(partial / PREVIEW)
            (partial / CARD).write_bytes(_pretty(self.card))
            (partial / CARD_PAGE).write_text(render_card(self.card), encoding="utf-8")
            for client_id, data in self.ledgers.items():
                (partial / "ledgers" / f"{client_id}.jsonl").write_bytes(data)
            (partial / MANIFEST).write_bytes(_manifest(_hashes(partial)))
            for file in _files(partial):
                _sync(partial / file)
            sync_folder(partial)
            os.rename(partial, folder)
            sync_folder(folder.parent)
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise ReleaseError(
                f"{folder} cannot be written: {error}", "a writable place with room", "Free some, or save elsewhere."
            ) from error
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return folder

    @classmethod
    def load(cls, path: str | Path) -> Release:
        """Read a release folder after checking every file against its manifest.

        Raises:
            ReleaseError: not a release, files missing, added or changed, or contents that cannot be read.
        """
        folder = Path(path)
        failures = _folder_failures(folder)
        if failures:
            raise ReleaseError(
                f"{folder}: " + "; ".join(failures), "a release folder as it was saved", "Ask for it again."
            )
        try:
            card = json.loads((folder / CARD).read_bytes())
            ledgers = {file.stem: file.read_bytes() for file in sorted((folder / "ledgers").glob("*.jsonl"))}
            return cls(SyntheticDataset.load(folder / SYNTHETIC), card, ledgers)
        except (OSError, ValueError, PrivateDistDDError) as error:
            raise ReleaseError(f"{folder}: {error}", "a release that this version can read", "Upgrade?") from error

    def verify(self) -> None:
        """Recompute, from the ledgers, every number on the card, and check that card, ledgers and S fit together.

        Formal guarantee: arithmetic and integrity only.  That the noise was really drawn, and that a client's ledger is
        complete, is trusted (and audited); see docs/verifying.md.

        Raises:
            ReleaseError: one line for each failure.
        """
        failures = self.failures()
        if failures:
            raise ReleaseError("\n".join(failures), "a release whose numbers follow from its ledgers", "Do not use it.")

    def failures(self) -> list[str]:
        """What `verify` finds wrong, a line each; empty for a sound release."""
        try:
            return list(_card_failures(self))
        except (KeyError, TypeError, ValueError, AttributeError, PrivateDistDDError) as error:
            return [f"card: cannot be checked: {type(error).__name__}: {error}"]


def verify_folder(path: str | Path) -> list[str]:
    """All that is wrong with a release folder, a line each; empty for a sound one."""
    try:
        return Release.load(path).failures()
    except ReleaseError as error:
        return _folder_failures(Path(path)) or [str(error)]


def build_release(
    dataset: SyntheticDataset,
    run: Run,
    ledgers: Mapping[str, bytes],
    *,
    method: str,
    settings: Mapping[str, Any],
    seeds: str,
    progress: Mapping[str, Any],
    messages: Mapping[str, int],
) -> Release:
    """Assemble a release; every epsilon on its card is computed from the ledgers.

    Args:
        dataset: S.
        run: what the clients agreed to.
        ledgers: each client's ledger file.
        method, settings: name and JSON-able knobs of the method.
        seeds: what a seed steered and what it did not, in words.
        progress: rounds planned and done, matching steps, and whether the run stopped early.
        messages: messages used, by client.
    """
    bills = {name: _bill(parse(data), run.run_id, run.plan) for name, data in sorted(ledgers.items())}
    card = {
        "format": FORMAT,
        "private": run.plan is not None and all(math.isfinite(_number(b["claim"]["epsilon"])) for b in bills.values()),
        "unit": UNIT,
        "relation": RELATION,
        "noise_model": "none" if run.plan is None else "local",
        "run_id": run.run_id,
        "method": {"name": method, "settings": dict(settings)},
        "data": run.info.to_json(),
        "ipc": dataset.ipc,
        "plan": None if run.plan is None else run.plan.to_json(),
        "progress": dict(progress),
        "seeds": seeds,
        "clients": {name: bill | {"messages_used": messages[name]} for name, bill in bills.items()},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("private-distdd", "torch", "opacus", "numpy")},
    }
    return Release(dataset, card, ledgers)


def _bill(history: History, run_id: str, plan: PrivacyPlan | None) -> dict[str, Any]:
    """One client's lines of the card: the claim and the spending of this run, and the ledger's total so far."""
    delta = _DELTA_WITHOUT_PRIVACY if plan is None else plan.delta
    charges = [e.event for e in history if isinstance(e, Charge) and e.message_id.startswith(f"{run_id}:")]
    honest = plan is not None and all(event == plan.event for event in charges)
    claim: list[Event] = [plan.schedule] if plan is not None and honest else [NotPrivate()]
    return {
        "charges": len(charges),
        "claim": _epsilons(claim if plan is not None or charges else [], delta),
        "spent": _epsilons(charges, delta),
        "so_far": _epsilons(history.events, delta),
        "budget": None
        if history.opening.budget is None
        else {"epsilon": history.opening.budget.epsilon, "delta": history.opening.budget.delta},
        "ledger_lines": len(history),
        "ledger_head": history.head,
    }


def _epsilons(events: Iterable[Event], delta: float) -> dict[str, Any]:
    """Upper bounds by both accountants, the smaller of them, and what the numerics had to say."""
    merged = merge(events)
    rdp, prv = bracket(merged, delta, "rdp"), bracket(merged, delta, "prv")
    return {
        "rdp": _text(rdp.upper),
        "prv": _text(prv.upper),
        "prv_lower": _text(prv.lower),
        "epsilon": _text(min(rdp.upper, prv.upper)),
        "note": prv.note,
    }


def _text(value: float) -> float | str:
    return value if math.isfinite(value) else "infinity"  # JSON has no infinity


def _number(value: float | str) -> float:
    return math.inf if value == "infinity" else float(value)


def _card_failures(release: Release) -> Iterable[str]:
    card, dataset = release.card, release.dataset
    if card["format"] != FORMAT:
        yield f"card: format {card['format']!r} is not {FORMAT!r}"
    for name, expected in (("unit", UNIT), ("relation", RELATION)):
        if card[name] != expected:
            yield f"card: {name} is {card[name]!r}, but the accountants compute for {expected!r}"
    plan = None if card["plan"] is None else PrivacyPlan.from_json(card["plan"])
    if card["noise_model"] != ("none" if plan is None else "local"):
        yield f"card: noise model {card['noise_model']!r} does not fit the plan"
    if card["data"] != dataset.info.to_json() or card["ipc"] != dataset.ipc:
        yield "card: shape, classes, normalisation or ipc differ from synthetic.safetensors"
    if set(card["clients"]) != set(release.ledgers):
        yield f"ledgers: {sorted(release.ledgers)} are there, the card names {sorted(card['clients'])}"
        return
    private = plan is not None
    for name, data in sorted(release.ledgers.items()):
        try:
            history = parse(data)
        except PrivateDistDDError as error:
            yield f"ledger {name}: {error}"
            continue
        stated = dict(card["clients"][name])
        used = stated.pop("messages_used")
        bill = _bill(history, card["run_id"], plan)
        for field in bill.keys() | stated.keys():
            if not _close(stated.get(field), bill.get(field)):
                yield f"client {name}: {field} is {stated.get(field)!r} on the card, {bill.get(field)!r} by its ledger"
        private &= math.isfinite(_number(bill["claim"]["epsilon"]))
        if not 0 <= used <= bill["charges"]:
            yield f"client {name}: {used} messages used, {bill['charges']} charged"
        if plan is not None and bill["charges"] > plan.max_queries:
            yield f"client {name}: {bill['charges']} charges, at most {plan.max_queries} were agreed"
        if plan is not None and used > card["progress"]["rounds_done"]:
            yield f"client {name}: {used} messages used in {card['progress']['rounds_done']} rounds"
    if card["private"] is not private:
        yield f"card: private is {card['private']!r}, the ledgers say {private!r}"
    progress, settings = card["progress"], card["method"]["settings"]
    if not 0 <= progress["rounds_done"] <= progress["rounds_planned"]:
        yield f"card: {progress['rounds_done']} of {progress['rounds_planned']} rounds done"
    if progress["matching_steps"] > progress["rounds_done"] * settings["matching_steps"]:
        yield f"card: {progress['matching_steps']} matching steps are more than its rounds allow"


def _close(stated: Any, computed: Any) -> bool:
    """Equal, but for the last digits that another version of a numerical library may give."""
    if isinstance(stated, dict) and isinstance(computed, dict):
        return stated.keys() == computed.keys() and all(_close(stated[k], computed[k]) for k in computed)
    if isinstance(stated, float) and isinstance(computed, float):
        return math.isclose(stated, computed, rel_tol=1e-6, abs_tol=1e-9)
    return type(stated) is type(computed) and bool(stated == computed)


def _pretty(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _manifest(hashes: Mapping[str, str]) -> bytes:
    """Names and SHA-256 of all other files, and the SHA-256 of this very statement."""
    record = {"format": FORMAT, "files": dict(hashes)}
    return _pretty(record | {"self": hashlib.sha256(to_json(record).encode()).hexdigest()})


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir() and p.name != MANIFEST)


def _hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _files(folder)}


def _folder_failures(folder: Path) -> list[str]:
    manifest = folder / MANIFEST
    try:
        data = manifest.read_bytes()
        record = json.loads(data)
        files = dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{MANIFEST} cannot be read: {error}"]
    if data != _manifest(files):
        return [f"{MANIFEST} was changed"]
    found = _hashes(folder)
    failures = [f"{name} is missing" for name in sorted(files.keys() - found.keys())]
    failures += [f"{name} was added" for name in sorted(found.keys() - files.keys())]
    failures += [f"{name} was changed" for name in sorted(files) if found.get(name, files[name]) != files[name]]
    failures += [f"{name} is not listed" for name in (SYNTHETIC, CARD, CARD_PAGE, PREVIEW) if name not in files]
    return failures


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
