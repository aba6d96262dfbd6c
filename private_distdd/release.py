"""The release: S with its card and its ledgers, as one folder that whoever receives it can check."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
import stat
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from private_distdd.data.datasets import DatasetInfo
from private_distdd.data.synthetic import LARGEST_PIXEL, SyntheticDataset
from private_distdd.errors import PrivateDistDDError, ReleaseError
from private_distdd.federation.messages import IDENTIFIER, Run, require_identifier
from private_distdd.limits import LEDGER_BYTES, PAGE_BYTES, RELEASE_LEDGERS_BYTES, SYNTHETIC_BYTES
from private_distdd.privacy.accountants import best_epsilon, bracket
from private_distdd.privacy.events import RELATION, UNIT, Event, NotPrivate, merge
from private_distdd.privacy.ledger import Charge, History, Pin, Recovered, Sealed, parse
from private_distdd.privacy.spec import PrivacyPlan
from private_distdd.reporting.card import render_card
from private_distdd.storage import read_file, sync, to_json

_log = logging.getLogger("private_distdd")

FORMAT = "private_distdd.release/1"
SYNTHETIC, CARD, CARD_PAGE, PREVIEW = "synthetic.safetensors", "card.json", "card.html", "preview.png"
MANIFEST, LEDGERS = "manifest.json", "ledgers"
_DELTA_WITHOUT_PRIVACY = 1e-5  # epsilon is infinite there at every delta
_LONGEST_LINE = 400  # of a failure, in characters
_PACKAGES = ("private-distdd", "torch", "opacus", "numpy")


@dataclass(frozen=True)
class Release:
    """What is handed on: the synthetic data set, its card, and the ledgers that the card's numbers follow from.

    Args:
        dataset: S.
        card: the record described in docs/verifying.md; plain JSON values.
        ledgers: each client's ledger file as it stood at the end, by client_id.
        folder: where it was loaded from; `verify` then also checks the page and the picture there.
    """

    dataset: SyntheticDataset
    card: Mapping[str, Any]
    ledgers: Mapping[str, bytes]
    folder: Path | None = field(default=None, compare=False)

    @property
    def private(self) -> bool:
        """Does every client have a finite bill?"""
        return bool(self.card["private"])

    @property
    def epsilon(self) -> dict[str, float]:
        """The claim of this run: epsilon(T_max) of each client at the card's delta.

        Infinite without privacy, and for a client whose ledger does not account for its messages.
        """
        claims = {name: _number(bill["claim"]["epsilon"]) for name, bill in self.card["clients"].items()}
        return claims | dict.fromkeys(self.card.get("unaccounted", ()), math.inf)

    def save(self, path: str | Path) -> Path:
        """Write the folder, whole or not at all; missing parent folders are made.

        Raises:
            ReleaseError: the folder exists, or it cannot be written (a full disk, for example); nothing stays behind.
        """
        folder = Path(path)
        if os.path.lexists(folder):
            raise ReleaseError(f"{folder} exists", "a new folder", "Choose another name; nothing is ever overwritten.")
        partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
        try:
            (partial / LEDGERS).mkdir(parents=True)
            self._write(partial)
            os.rename(partial, folder)
        except BaseException as error:  # Ctrl-C too
            shutil.rmtree(partial, ignore_errors=True)
            if not isinstance(error, Exception):
                raise
            raise ReleaseError(
                f"{folder} cannot be written: {error}", "a writable place with room", "Free some, or save elsewhere."
            ) from error
        with contextlib.suppress(OSError):  # the release is whole by now, whatever this file system can flush
            sync(folder.parent)
        return folder

    def _write(self, folder: Path) -> None:
        self.dataset.save(folder / SYNTHETIC)
        self.dataset.preview(folder / PREVIEW)
        (folder / CARD).write_bytes(_pretty(self.card))
        (folder / CARD_PAGE).write_bytes(render_card(self.card).encode())
        for client_id, data in self.ledgers.items():
            name = require_identifier("client_id", client_id)
            with open(folder / LEDGERS / f"{name}.jsonl", "xb") as file:  # "a" and "A" may be one file
                file.write(data)
        shutil.copymode(folder / CARD, folder / SYNTHETIC)  # safetensors writes for the owner's eyes only
        contents = _contents(folder)
        (folder / MANIFEST).write_bytes(_manifest({name: _sha256(data) for name, data in contents.items()}))
        for name in (*contents, MANIFEST):
            sync(folder / name)
        sync(folder / LEDGERS)
        sync(folder)

    @classmethod
    def load(cls, path: str | Path) -> Release:
        """Read a release folder after checking every file against its manifest.

        Raises:
            ReleaseError: not a release, files missing, added or changed, or contents that cannot be read.
        """
        found = _read(Path(path))
        if isinstance(found, Release):
            return found
        raise ReleaseError(f"{path}: " + "; ".join(found), "a release folder as it was saved", "Ask for it again.")

    def verify(self) -> None:
        """Recompute, from the ledgers, every number on the card, and check that card, ledgers and S fit together.

        Formal guarantee: arithmetic and integrity only.  A release that passes has, in every ledger it holds, an
        unbroken chain; in each, this run's pin of exactly the card's sigma, q and T_max, and no more charges; on its
        card, the epsilons that both accountants compute from these; files as in its manifest; and, where it was loaded
        from a folder, a page and a picture that show this card (where this version of the library wrote it) and S.

        Whoever can write the whole folder can forge what follows from nothing else in it, and no check of the folder
        alone can tell: a client left out with its ledger; ledgers written anew, or cut and their chain and card redone
        with them; names, versions, seeds and other settings; rounds in which nobody answered; fewer messages used than
        were sent; another S of the same shape with its picture; a page when the card names another version of the
        library.  Against that: get the manifest's hash from the maker by another way, and let each owner look up the
        head of their own ledger on the card.  That noise and coins were really drawn is trusted (and audited); see
        docs/verifying.md.

        Raises:
            ReleaseError: one line for each failure.
        """
        failures = self.failures()
        if failures:
            raise ReleaseError("\n".join(failures), "a release whose numbers follow from its ledgers", "Do not use it.")

    def failures(self) -> list[str]:
        """What `verify` finds wrong, a line each; empty for a sound release."""
        found: list[str] = []
        for part, checks in (("card", _card_failures), ("folder", _folder_failures)):
            try:
                found.extend(map(_line, checks(self)))
            except Exception as error:  # the card is anybody's text: whatever it breaks is a finding, not a crash
                found.append(_line(f"{part}: cannot be checked: {type(error).__name__}: {error}"))
        return found


def manifest_hash(folder: Path) -> str:
    """SHA-256 of a release's manifest, in hexadecimal: it fixes every byte of the release."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def verify_folder(path: str | Path) -> list[str]:
    """All that is wrong with a release folder, a line each, whatever lies there; empty for a sound one.

    What can be noticed and what cannot: see `Release.verify`.
    """
    found = _read(Path(path))
    return found.failures() if isinstance(found, Release) else found


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
    unaccounted: Mapping[str, int] | None = None,
) -> Release:
    """Assemble a release; every epsilon on its card is computed from the ledgers.

    Args:
        dataset: S.
        run: what the clients agreed to.
        ledgers: each client's ledger file.
        method: its name.
        settings: its JSON-able knobs.
        seeds: what a seed steered and what it did not, in words.
        progress: rounds planned and done, matching steps, and whether the run stopped early.
        messages: messages used, by client.
        unaccounted: the same of clients whose ledger does not account for them; the release is then not private.
    """
    bills = {name: _bill(parse(data), run) for name, data in sorted(ledgers.items())}
    finite = bool(bills) and all(math.isfinite(_number(bill["claim"]["epsilon"])) for bill in bills.values())
    card: dict[str, Any] = {
        "format": FORMAT,
        "private": run.plan is not None and finite and not unaccounted,
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
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
    }
    if unaccounted:
        card["unaccounted"] = dict(unaccounted)
    return Release(dataset, card, ledgers)


def build_sound_release(
    dataset: SyntheticDataset,
    run: Run,
    ledgers: Mapping[str, bytes],
    *,
    messages: Mapping[str, int],
    unaccounted: Mapping[str, int],
    **others: Any,
) -> Release:
    """`build_release` without the ledgers that would fail at whoever verifies: their clients are unaccounted.

    What has been paid for is released, whatever a single client makes of its own ledger.  Arguments are those of
    `build_release`.
    """
    kept, lost = dict(ledgers), dict(unaccounted)
    for name, data in ledgers.items():
        try:
            alone = build_release(dataset, run, {name: data}, messages=messages, unaccounted=lost, **others)
            failure = next(_client_failures(alone.card, run.plan, name, parse(data)), None)
        except PrivateDistDDError as error:  # events that nobody can price, or lines that break a rule
            failure = str(error)
        if failure is not None:
            _log.warning("the ledger of client %s is left out: %s", name, failure)
            del kept[name]
            if messages[name]:
                lost[name] = messages[name]
    return build_release(dataset, run, kept, messages=messages, unaccounted=lost, **others)


def _bill(history: History, run: Run) -> dict[str, Any]:
    """One client's lines of the card: the claim and the spending of this run, and the ledger's total so far.

    The claim is the plan's schedule only where the ledger pinned exactly that; recoveries count as charges.
    """
    run_id, plan = run.run_id, run.plan
    delta = _DELTA_WITHOUT_PRIVACY if plan is None else plan.delta
    pin = _pin(history, run_id)
    if pin is None:
        spent = [e.event for e in history if isinstance(e, Charge) and e.message_id.startswith(f"{run_id}:")]
    else:
        spent = [pin.event] * (pin.max_queries - history.remaining(run_id))
    claim: list[Event] = [NotPrivate()] if spent or plan is not None else []
    if plan is not None and pin == Pin(run_id, plan.event, plan.max_queries, run.terms):
        claim = [plan.schedule]
    return {
        "charges": len(spent),
        "claim": _epsilons(claim, delta),
        "spent": _epsilons(spent, delta),
        "so_far": _epsilons(history.events, delta),
        "budget": None
        if history.opening.budget is None
        else {"epsilon": history.opening.budget.epsilon, "delta": history.opening.budget.delta},
        "ledger_lines": len(history),
        "ledger_head": history.head,
    }


def _run(card: Mapping[str, Any]) -> Run:
    """What the clients were asked to agree to, as the card tells it."""
    plan = None if card["plan"] is None else PrivacyPlan.from_json(card["plan"])
    return Run(card["run_id"], DatasetInfo.from_json(card["data"]), plan)


def _pin(history: History, run_id: str) -> Pin | None:
    return next((entry for entry in history if isinstance(entry, Pin) and entry.run_id == run_id), None)


def _rounds(history: History, run_id: str, kind: type[Charge] | type[Sealed]) -> set[int]:
    """The rounds of the run in which the ledger has such a line."""
    entries = (entry for entry in history if isinstance(entry, kind))
    parts = (entry.message_id.split(":") for entry in entries)
    return {int(server_round) for run, server_round in parts if run == run_id}


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


# The form of a card: the types allowed for each field, or the fields below it; more or fewer fields are a failure.
_Form: TypeAlias = Mapping[str, Any] | tuple[type, ...]
_EPSILONS: _Form = dict.fromkeys(("rdp", "prv", "prv_lower", "epsilon"), (float, str)) | {"note": (str,)}
_BILL: _Form = {
    "charges": (int,),
    "messages_used": (int,),
    "claim": _EPSILONS,
    "spent": _EPSILONS,
    "so_far": _EPSILONS,
    "budget": (dict, type(None)),
    "ledger_lines": (int,),
    "ledger_head": (str,),
}
_CARD: Mapping[str, _Form] = {
    "format": (str,),
    "private": (bool,),
    "unit": (str,),
    "relation": (str,),
    "noise_model": (str,),
    "run_id": (str,),
    "method": {"name": (str,), "settings": (dict,)},
    "data": (dict,),
    "ipc": (int,),
    "plan": (dict, type(None)),
    "progress": {
        "rounds_planned": (int,),
        "rounds_done": (int,),
        "matching_steps": (int,),
        "stopped_early": (bool,),
    },
    "seeds": (str,),
    "clients": (dict,),
    "versions": dict.fromkeys(("python", *_PACKAGES), (str,)),
}
_SETTINGS = ("ipc", "rounds", "matching_steps", "privacy")  # every method states these
# Settings under which clients' data would leave them beside the mechanism, with what they are under a plan.
_CLOSED = {"initialization": "noise", "batch_per_class": None, "local_steps": 0}
_LONGEST_SETTINGS = 1 << 14  # characters of JSON


def _form_failures(value: object, form: _Form, where: str) -> Iterator[str]:
    if isinstance(form, tuple):
        if type(value) not in form:
            yield f"{where} is {value!r}, not a {' or '.join(kind.__name__ for kind in form)}"
        return
    if not isinstance(value, Mapping):
        yield f"{where} is not an object"
        return
    yield from (f"{where}: {name} is missing" for name in sorted(form.keys() - value.keys()))
    yield from (f"{where}: {name!r} is no field of it" for name in sorted(value.keys() - form.keys()))
    for name in sorted(form.keys() & value.keys()):
        yield from _form_failures(value[name], form[name], f"{where}: {name}")


def _malformed(card: object) -> list[str]:
    lost = card.get("unaccounted") if isinstance(card, Mapping) else None
    form = _CARD if lost is None else {**_CARD, "unaccounted": dict.fromkeys(lost, (int,))}
    failures = list(_form_failures(card, form, "card"))
    if isinstance(card, Mapping) and not failures:
        failures += [f"card: settings: {n} is missing" for n in _SETTINGS if n not in card["method"]["settings"]]
        for name, bill in sorted(card["clients"].items()):
            failures += _form_failures(bill, _BILL, f"client {name}")
    return failures


def _card_failures(release: Release) -> Iterator[str]:
    card = release.card
    if malformed := _malformed(card):
        yield from malformed
        return
    plan = None if card["plan"] is None else PrivacyPlan.from_json(card["plan"])
    yield from _statement_failures(release, plan)
    if set(card["clients"]) != set(release.ledgers):
        yield f"ledgers: {sorted(release.ledgers)} are there, the card names {sorted(card['clients'])}"
        return
    histories: dict[str, History] = {}
    for name, data in sorted(release.ledgers.items()):
        try:
            histories[name] = parse(data)
        except PrivateDistDDError as error:
            yield f"ledger {name}: {error}"
            continue
        yield from (f"client {name}: {line}" for line in _client_failures(card, plan, name, histories[name]))
    yield from _progress_failures(card, plan, histories)


def _statement_failures(release: Release, plan: PrivacyPlan | None) -> Iterator[str]:
    """What the card says, against S, the accountants, and itself."""
    card, dataset = release.card, release.dataset
    settings, clients = card["method"]["settings"], card["clients"]
    expected = {
        "format": FORMAT,
        "unit": UNIT,
        "relation": RELATION,
        "noise_model": "none" if plan is None else "local",
        "data": dataset.info.to_json(),
        "ipc": dataset.ipc,
    }
    for name, value in expected.items():
        if not _close(card[name], value):
            yield f"card: {name} is {card[name]!r}, but it must be {value!r}"
    largest = float(dataset.images.abs().max())
    if not largest <= LARGEST_PIXEL:
        yield f"synthetic.safetensors: a pixel of magnitude {largest:.3g} is beyond {LARGEST_PIXEL:g}"
    if not clients:
        yield "card: it names no client"
    private = bool(clients) and all(math.isfinite(_number(bill["claim"]["epsilon"])) for bill in clients.values())
    if card["private"] is not (private and plan is not None and not card.get("unaccounted")):
        yield f"card: private is {card['private']!r}, which does not follow from its plan and claims"
    if settings.get("partition", 1) != dataset.partition:
        yield f"card: partition is {settings.get('partition', 1)!r} in the settings, S has {dataset.partition}"
    if settings["ipc"] != card["ipc"]:
        yield f"card: ipc is {settings['ipc']!r} in the settings, {card['ipc']!r} beside them"
    if len(to_json(settings)) > _LONGEST_SETTINGS:
        yield f"card: settings of more than {_LONGEST_SETTINGS} characters"
    asked = settings["privacy"]
    if plan is None or asked is None:
        if plan is not None or asked is not None:
            yield "card: plan and settings disagree on whether the run had privacy"
        return
    for name, closed in _CLOSED.items():
        if settings.get(name, closed) != closed:
            yield f"card: {name} is {settings[name]!r} in the settings, but with privacy it must be {closed!r}"
    for name in ("noise_multiplier", "sample_rate", "max_grad_norm", "divisor", "delta"):
        if asked[name] != getattr(plan, name) and not (name == "noise_multiplier" and asked[name] is None):
            yield f"card: {name} is {asked[name]!r} in the settings, {getattr(plan, name)!r} in the plan"
    if asked["relation"] != RELATION:
        yield f"card: relation is {asked['relation']!r} in the settings, but it must be {RELATION!r}"
    target = asked["target_epsilon"]
    if target is not None and not plan.epsilon <= target * (1 + 1e-6):
        yield f"card: the plan costs epsilon {plan.epsilon!r}, more than the target {target!r}"


def _client_failures(card: Mapping[str, Any], plan: PrivacyPlan | None, name: str, history: History) -> Iterator[str]:
    """One client's bill against its ledger."""
    run_id, opening, pin = card["run_id"], history.opening, _pin(history, card["run_id"])
    if opening.client_id not in (None, name):
        yield f"the ledger is that of client {opening.client_id}"
    if plan is None and pin is not None:
        yield "its ledger agreed to privacy in this run, the card has no plan"
    if plan is not None and pin is None:
        yield f"its ledger never agreed to run {run_id!r}"
    if plan is not None and pin is not None:
        if pin.event not in (plan.event, NotPrivate()):
            yield f"its ledger agreed to {pin.event} a query, the plan says {plan.event}"
        if pin.max_queries != plan.max_queries:
            yield f"its ledger agreed to {pin.max_queries} queries, the plan says {plan.max_queries}"
        if pin.terms != _run(card).terms:
            yield "its ledger agreed to other terms than the card's data, clipping norm, divisor or delta"
    bill = _bill(history, _run(card))
    stated = _flat(card["clients"][name])
    used = stated.pop("messages_used")
    computed = _flat(bill)
    own = card["versions"]["private-distdd"] == version("private-distdd")
    for line in sorted(stated.keys() | computed.keys()):
        if not own and _is_weaker(line, stated.get(line), computed.get(line)):
            continue
        if not _close(stated.get(line), computed.get(line)):
            yield f"{line} is {stated.get(line)!r} on the card, {computed.get(line)!r} by its ledger"
    sealed = _rounds(history, run_id, Sealed)
    if not 0 <= used <= len(sealed) and name not in card.get("unaccounted", {}):
        yield f"{used} messages used, but {len(sealed)} are sealed in its ledger"
    last = max(_rounds(history, run_id, Charge), default=-1)
    if plan is not None and last >= _begun(card):
        yield f"its ledger is charged for round {last + 1}, the card has {card['progress']['rounds_done']} rounds done"
    budget = opening.budget
    # A recovery outside every pin may pass the budget on paper (see `Ledger`).
    if budget is not None and not any(isinstance(entry, Recovered) for entry in history):
        spent = best_epsilon(history.events, budget.delta)
        if not spent <= budget.epsilon * (1 + 1e-6):
            yield f"its ledger has spent {spent!r} of its {budget}"


def _begun(card: Mapping[str, Any]) -> int:
    """Rounds in which clients may have been asked: those done, and one that was interrupted."""
    return int(min(card["progress"]["rounds_done"] + 1, card["progress"]["rounds_planned"]))


def _progress_failures(
    card: Mapping[str, Any], plan: PrivacyPlan | None, histories: Mapping[str, History]
) -> Iterator[str]:
    """Rounds and matching steps against the ledgers: steps are taken in rounds in which somebody answered."""
    progress, settings, run_id = card["progress"], card["method"]["settings"], card["run_id"]
    done, planned, steps = progress["rounds_done"], progress["rounds_planned"], progress["matching_steps"]
    if not 0 <= done <= planned:
        yield f"card: {done} of {planned} rounds done"
    if done < planned and not progress["stopped_early"]:
        yield f"card: stopped_early is False with {done} of {planned} rounds done"
    if settings["rounds"] != planned:
        yield f"card: rounds is {settings['rounds']!r} in the settings, {planned} were planned"
    if plan is not None and plan.max_queries > planned:
        yield f"card: at most {plan.max_queries} queries a client in {planned} rounds"
    possible: set[int] = set()
    certain: set[int] = set()
    for name, history in histories.items():
        sealed = _rounds(history, run_id, Sealed)
        possible |= {t for t in sealed if t < _begun(card)}
        if card["clients"][name]["messages_used"] == len(sealed):
            certain |= {t for t in sealed if t < done - progress["stopped_early"]}  # the last one may be unfinished
    answers = sum(bill["messages_used"] for bill in card["clients"].values())
    if lost := card.get("unaccounted"):
        # Their ledgers do not say in which rounds they answered; those also billed were counted above.
        answers += sum(count for name, count in lost.items() if name not in histories)
        possible |= set(range(_begun(card)))
    least, most = (n * settings["matching_steps"] for n in (len(certain), min(len(possible), answers)))
    if not least <= steps <= most:
        yield f"card: {steps} matching steps; by the ledgers, {least} to {most} were taken"


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the fields of its parts as "part.field"."""
    parts = {name: value for name, value in record.items() if isinstance(value, Mapping)}
    return {name: value for name, value in record.items() if name not in parts} | {
        f"{name}.{field}": value for name, part in parts.items() for field, value in part.items()
    }


def _is_weaker(line: str, stated: Any, computed: Any) -> bool:
    """Does a card of another version claim less than is computed here?  Accountants get tighter, and word notes anew.

    A stated bound above the computed one promises less, and holds.
    """
    if line.endswith((".note", ".prv_lower")):  # no claims
        return type(stated) is type(computed)
    bound = line.endswith((".rdp", ".prv", ".epsilon")) and not line.startswith("budget")
    return bound and isinstance(stated, float) and isinstance(computed, float) and stated >= computed


def _close(stated: Any, computed: Any) -> bool:
    """Equal, but for the last digits that another version of a numerical library may give."""
    if isinstance(stated, float) and isinstance(computed, float):
        return math.isclose(stated, computed, rel_tol=1e-6, abs_tol=1e-9)
    return type(stated) is type(computed) and bool(stated == computed)


def _folder_failures(release: Release) -> Iterator[str]:
    """Page and picture must show this card and this S: many a reader looks at nothing else."""
    if release.folder is None:
        return
    own = release.card["versions"]["private-distdd"] == version("private-distdd")  # another's page looks otherwise
    if own and (release.folder / CARD_PAGE).read_bytes() != render_card(release.card).encode():
        yield f"{CARD_PAGE} does not show what {CARD} says"
    grid = release.dataset.grid()
    if not _plain_png(read_file(release.folder / PREVIEW, PAGE_BYTES), *grid.shape[:2]):
        yield f"{PREVIEW} holds more than one picture"
    elif not _same_picture(release.folder / PREVIEW, grid):
        yield f"{PREVIEW} does not show the images of {SYNTHETIC}"


def _same_picture(path: Path, expected: np.ndarray[Any, Any]) -> bool:
    """Are the PNG's pixels these, [height, width, 3]?  Within one grey level: roundings differ between processors."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.mode != "RGB" or picture.size != (expected.shape[1], expected.shape[0]):
                return False
            return int(np.abs(np.asarray(picture, dtype=np.int16) - expected).max()) <= 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _plain_png(data: bytes, height: int, width: int) -> bool:
    """Is it a PNG of this size, of nothing but head, pixels and end, with nothing behind, between or inside them?

    One of another size, or none at all, passes: `_same_picture` knows it.
    """
    signature, place, kinds, pixels = b"\x89PNG\r\n\x1a\n", 8, [], list[bytes]()
    if not data.startswith(signature) or data[16:24] != width.to_bytes(4, "big") + height.to_bytes(4, "big"):
        return True
    while place < len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        kinds.append(kind)
        pixels += [data[place + 8 : place + 8 + length]] if kind == b"IDAT" else []
        place += length + 12
    if place != len(data) or kinds != [b"IHDR", *[b"IDAT"] * (len(kinds) - 2), b"IEND"]:
        return False
    packed, size = zlib.decompressobj(), height * (1 + 3 * width)
    try:
        whole = len(packed.decompress(b"".join(pixels), size + 1)) == size
    except zlib.error:
        return False
    return whole and packed.eof and not packed.unused_data


def _line(failure: str) -> str:
    """One printable line of bounded length, whatever names and values it quotes."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in failure)
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]} ..."


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _pretty(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _manifest(hashes: Mapping[str, str]) -> bytes:
    """Names and SHA-256 of all other files, and the SHA-256 of this very statement."""
    record = {"format": FORMAT, "files": dict(hashes)}
    return _pretty(record | {"self": _sha256(to_json(record).encode())})


def _contents(folder: Path, listed: Collection[str] | None = None) -> dict[str, bytes]:
    """Every file of a release but the manifest, by name; of those that are not `listed` nothing is read.

    Raises:
        ValueError: something else lies there: a link, a device, another folder.
        OSError: something cannot be read, or is longer than it may be.
    """
    contents: dict[str, bytes] = {}
    room = RELEASE_LEDGERS_BYTES
    for place in ("", f"{LEDGERS}/"):
        for name in sorted(os.listdir(folder / place)):
            path = folder / place / name
            if place + name == LEDGERS and path.is_dir() and not path.is_symlink():
                continue
            _plain(path)
            if listed is not None and place + name not in listed:
                contents[place + name] = b""
                continue
            contents[place + name] = read_file(path, min(room, _longest(place + name)))
            room -= len(contents[place + name]) if place else 0
    contents.pop(MANIFEST, None)
    return contents


def _plain(path: Path) -> Path:
    """The path, if it is a file: no link, pipe or device, whose reading may never end.

    Raises:
        ValueError: it is not.
        FileNotFoundError: nothing is there.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise ValueError(f"{path.name} is not a plain file")
    return path


def _longest(name: str) -> int:
    """The most bytes that a file of this name is read of."""
    if name.startswith(f"{LEDGERS}/"):
        return LEDGER_BYTES
    return SYNTHETIC_BYTES if name == SYNTHETIC else PAGE_BYTES


def _read(folder: Path) -> Release | list[str]:
    """The release in the folder, or what is wrong with its files, a line each."""
    try:
        data = read_file(_plain(folder / MANIFEST), PAGE_BYTES)
        contents = _contents(folder, json.loads(data)["files"])
        failures = _file_failures(contents, data)
        if failures:
            return list(map(_line, failures))
        card = json.loads(contents[CARD])
        if _pretty(card) != contents[CARD]:
            return [f"{CARD} is not written as this library writes it"]
        if malformed := _malformed(card):
            return list(map(_line, malformed))
        ledgers = {Path(name).stem: data for name, data in contents.items() if name.startswith(f"{LEDGERS}/")}
        return Release(SyntheticDataset.load(folder / SYNTHETIC), card, ledgers, folder)
    except Exception as error:  # the folder is anybody's: whatever it breaks is a finding, not a crash
        return [_line(f"it cannot be read as a release: {type(error).__name__}: {error}")]


def _file_failures(contents: Mapping[str, bytes], manifest: bytes) -> list[str]:
    files = json.loads(manifest)["files"]
    if manifest != _manifest(files):
        return [f"{MANIFEST} was changed"]
    own = re.compile(rf"{LEDGERS}/{IDENTIFIER.pattern}\.jsonl")
    required = {SYNTHETIC, CARD, CARD_PAGE, PREVIEW}
    failures = [f"{name} is missing" for name in sorted(files.keys() - contents.keys())]
    failures += [f"{name} was added" for name in sorted(contents.keys() - files.keys())]
    failures += [f"{n} was changed" for n in sorted(files.keys() & contents.keys()) if files[n] != _sha256(contents[n])]
    failures += [f"{name} is not listed" for name in sorted(required - files.keys())]
    failures += [f"{n} is no part of a release" for n in sorted(files) if n not in required and not own.fullmatch(n)]
    return failures
