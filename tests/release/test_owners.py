"""`verify --owners`: releases that a cheating server forged, whole and consistent, against keys got by another way."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from releases import INFO, PRIVACY, ROUNDS, STEPS, chained

from private_distdd.cli import main
from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import PrivateDistDDError, ReleaseError
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.ledger import Budget, Charge, Entry, Ledger, Open, Pin, Sealed, parse
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.bill import bill_of, run_of
from private_distdd.release.release import Release, verify_folder
from private_distdd.release.signatures import read_owners
from private_distdd.site.client import Client
from private_distdd.site.key import SiteKey
from private_distdd.wire.attestation import Attestation, Signed

NAMES = ("ann", "bob", "cleo")
FORGER = SiteKey.for_this_process()
Lines = Sequence[Entry]


class World(NamedTuple):
    """Two runs of the same owners, and what everybody has been told of their keys."""

    release: Release
    earlier: Release
    owners: dict[str, str]
    clients: list[Client]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("keys")
    keys = {name: SiteKey.create(folder / name) for name in NAMES}
    images = ImageDataset(torch.zeros(4, 1, 4, 4), torch.arange(4) % 2, INFO)
    ledgers = {name: Ledger(None, Budget(50.0, 1e-5), client_id=name) for name in NAMES}
    clients = [Client(name, images, ledgers[name], key=keys[name]) for name in NAMES]
    method = DistDD(ipc=1, rounds=ROUNDS, matching_steps=STEPS, model="mlp", privacy=PRIVACY)
    earlier, release = method.fit(clients), method.fit(clients)
    return World(release, earlier, {name: key.fingerprint for name, key in keys.items()}, clients)


def forged(release: Release, ledgers: Mapping[str, bytes], card: Mapping[str, Any] | None = None) -> Release:
    """All that follows from these ledgers made anew: bills, traffic and, when it is saved, page and manifest."""
    new: dict[str, Any] = copy.deepcopy(dict(release.card if card is None else card))
    run, old = run_of(new), new["clients"]
    new["clients"], new["traffic"] = {}, {}
    for name, data in ledgers.items():
        history = parse(data)
        sealed = {e.message_id for e in history if isinstance(e, Sealed) and e.message_id.startswith(f"{run.run_id}:")}
        kept = {"signed": old[name]["signed"]} if name in old and "signed" in old[name] else {}
        new["clients"][name] = bill_of(history, run) | {"messages_used": len(sealed)} | kept
        new["traffic"][name] = {"sent": 10**6, "received": 10**6}
    new["private"] = all(bill["claim"]["epsilon"] != "infinity" for bill in new["clients"].values())
    return Release(release.dataset, new, dict(ledgers))


def without(kind: type[Entry], *which: int) -> Callable[[Lines, str], Lines]:
    def change(lines: Lines, run_id: str) -> Lines:
        own = [i for i, e in enumerate(lines) if isinstance(e, kind) and run_id in getattr(e, "message_id", "")]
        return [e for i, e in enumerate(lines) if i not in {own[k] for k in which}]

    return change


def first_line(**changes: Any) -> Callable[[Lines, str], Lines]:
    return lambda lines, run_id: [replaced(lines[0], **changes), *lines[1:]]


def only_this_run(lines: Lines, run_id: str) -> Lines:
    names = ((e.run_id if isinstance(e, Pin) else getattr(e, "message_id", run_id)) for e in lines)
    return [e for e, name in zip(lines, names, strict=True) if name.startswith(run_id)]


def replaced(entry: Any, **changes: Any) -> Any:
    return dataclasses.replace(entry, **changes)


def other_digests(lines: Lines, run_id: str) -> Lines:
    return [replaced(e, digest="5" * 64) if isinstance(e, Sealed) else e for e in lines]


def cheaper_past(lines: Lines, run_id: str) -> Lines:
    cheap = SampledGaussian(50.0, 0.01)
    own = {id(e) for e in only_this_run(lines, run_id)}
    return [replaced(e, event=cheap) if hasattr(e, "event") and id(e) not in own else e for e in lines]


def longer(lines: Lines, run_id: str) -> Lines:
    return [*lines, Charge(SampledGaussian(1.0, 0.1), "later:0")]


# What the forger makes of one client's ledger: lines in, lines out, with numbers, hashes and checksums made anew.
LEDGERS: dict[str, Callable[[Lines, str], Lines]] = {
    "as it was": lambda lines, run_id: lines,
    "its last line cut": lambda lines, run_id: lines[:-1],
    "its last message cut": lambda lines, run_id: lines[:-2],
    "two messages cut": lambda lines, run_id: lines[:-4],
    "one line dropped": without(Sealed, 1),
    "fewer charges": lambda lines, run_id: without(Charge, 1)(without(Sealed, 1)(lines, run_id), run_id),
    "rewritten": other_digests,
    "the past left out": only_this_run,
    "a cheaper past": cheaper_past,
    "a larger budget": first_line(budget=Budget(500.0, 1e-5)),
    "no budget": first_line(budget=None),
    "no name": first_line(client_id=None),
    "lines invented": longer,
}


class Signing(NamedTuple):
    """What a forger, who has no owner's key, knows: the attestation that would fit, and signatures that were seen."""

    fitting: Attestation
    own: Signed
    neighbour: Signed
    earlier: Signed


# What it puts beside the ledger.
SIGNATURES: dict[str, Callable[[Signing], Signed | None]] = {
    "kept": lambda s: s.own,
    "none": lambda s: None,
    "a key of its own": lambda s: FORGER.sign(s.fitting),
    "its signature under the owner's key": lambda s: dataclasses.replace(
        FORGER.sign(s.fitting), public_key=s.own.public_key
    ),
    "the attestation edited": lambda s: dataclasses.replace(s.own, attestation=s.fitting),
    "the key exchanged": lambda s: dataclasses.replace(s.own, attestation=s.fitting, public_key=FORGER.public_key),
    "the neighbour's": lambda s: s.neighbour,
    "the neighbour's, renamed": lambda s: dataclasses.replace(s.neighbour, attestation=s.fitting),
    "the neighbour's key": lambda s: dataclasses.replace(s.own, public_key=s.neighbour.public_key),
    "replayed from another run": lambda s: s.earlier,
    "replayed, edited": lambda s: dataclasses.replace(s.earlier, attestation=s.fitting),
}


def fitting(release: Release, name: str) -> Attestation:
    """What an honest owner of this ledger would sign."""
    bill, run = release.card["clients"][name], run_of(release.card)
    claim = bill["claim"]["epsilon"]
    head = bill["ledger_lines"], bill["ledger_head"]
    return Attestation(name, run.run_id, run.terms_digest, *head, claim, 1e-5, "2001-01-01", False)


def beside(release: Release, name: str, signed: Signed | None) -> Release:
    card = copy.deepcopy(dict(release.card))
    card["clients"][name].pop("signed", None)
    if signed is not None:
        card["clients"][name]["signed"] = signed.to_json()
    return Release(release.dataset, card, release.ledgers)


def signed_of(release: Release, name: str) -> Signed:
    return Signed.from_json(release.card["clients"][name]["signed"])


def forgeries(world: World) -> Iterator[tuple[str, Release]]:
    honest, run_id = world.release, world.release.card["run_id"]

    def variants(what: str, release: Release, name: str = "ann") -> Iterator[tuple[str, Release]]:
        seen = signed_of(honest, "ann"), signed_of(honest, "bob"), signed_of(world.earlier, "ann")
        for how, sign in SIGNATURES.items():
            yield f"{what}; {how}", beside(release, name, sign(Signing(fitting(release, name), *seen)))

    for what, change in LEDGERS.items():
        lines = list(change(parse(honest.ledgers["ann"]).entries, run_id))
        release = forged(honest, dict(honest.ledgers) | {"ann": chained(lines)})
        yield from (case for case in variants(what, release) if case[0] != "as it was; kept")

    others = {name: data for name, data in honest.ledgers.items() if name != "ann"}
    yield "left out", forged(honest, others)
    lines = [Open("dora", None), *only_this_run(parse(honest.ledgers["ann"]).entries, run_id)[1:]]
    yield from variants("invented", forged(honest, dict(honest.ledgers) | {"dora": chained(lines)}), "dora")
    yield from variants("replaced", forged(honest, others | {"dora": chained(lines)}), "dora")

    ann, bob = (parse(honest.ledgers[name]).entries[1:] for name in ("ann", "bob"))
    swapped = {"ann": chained([Open("ann", None), *bob]), "bob": chained([Open("bob", None), *ann])}
    both = forged(honest, dict(honest.ledgers) | swapped)
    yield "swapped; with their signatures", both
    for one, other in itertools.permutations(("ann", "bob")):
        card = copy.deepcopy(dict(both.card))
        card["clients"][one]["signed"] = honest.card["clients"][other]["signed"]
        yield f"swapped; {other}'s signature at {one}'s", Release(both.dataset, card, both.ledgers)
    yield "swapped files", forged(honest, dict(honest.ledgers) | {"ann": honest.ledgers["bob"]})
    yield "another run's ledger", forged(honest, dict(honest.ledgers) | {"ann": world.earlier.ledgers["ann"]})

    # Another run's name, or another plan, on the card and in all ledgers.
    for what, edit in {
        "another run_id": lambda card: card.update(run_id="f" * 16),
        "less noise": lambda card: card["plan"].update(noise_multiplier=0.9),
        "more noise": lambda card: card["plan"].update(noise_multiplier=9.0),
        "another norm": lambda card: card["plan"].update(max_grad_norm=5.0),
        "another delta": lambda card: card["plan"].update(delta=1e-3),
    }.items():
        card = copy.deepcopy(dict(honest.card))
        edit(card)
        card["method"]["settings"]["privacy"] |= {
            name: card["plan"][name] for name in ("noise_multiplier", "max_grad_norm", "delta")
        }
        run, event = run_of(card), PrivacyPlan.from_json(card["plan"]).event
        ledgers = {}
        for name, data in honest.ledgers.items():
            lines = []
            for e in parse(data).entries:
                if isinstance(e, Pin) and e.run_id == run_id:
                    e = replaced(e, run_id=run.run_id, event=event, terms=run.terms_digest)
                elif getattr(e, "message_id", "").startswith(run_id):
                    e = replaced(e, message_id=e.message_id.replace(run_id, run.run_id))
                    e = replaced(e, event=event) if isinstance(e, Charge) else e
                lines.append(e)
            ledgers[name] = chained(lines)
        release = forged(honest, ledgers, card)
        yield f"{what}; kept", release
        for how in ("none", "a key of its own", "the attestation edited"):
            for name in NAMES:
                seen = (signed_of(honest, name),) * 3
                release = beside(release, name, SIGNATURES[how](Signing(fitting(release, name), *seen)))
            yield f"{what}; {how}", release

    for field, value in {
        "client_id": "bob",
        "run_id": "f" * 16,
        "terms": "0" * 64,
        "ledger_lines": 1,
        "ledger_head": "0" * 64,
        "epsilon": 0.1,
        "delta": 1e-9,
        "day": "2000-01-01",
        "throwaway": True,
    }.items():
        own = signed_of(honest, "ann")
        edited = dataclasses.replace(own, attestation=dataclasses.replace(own.attestation, **{field: value}))
        yield f"{field} edited", beside(honest, "ann", edited)
        yield f"{field} edited; a key of its own", beside(honest, "ann", FORGER.sign(edited.attestation))
    for name, bill in honest.card["clients"].items():
        card = copy.deepcopy(dict(honest.card))
        card["clients"][name]["claim"] = {**bill["claim"], "epsilon": 0.1, "prv": 0.1, "prv_lower": 0.1}
        card["versions"]["private-distdd"] = "0.0.1"  # whose accountants may have said otherwise
        yield f"{name}'s claim on the card", Release(honest.dataset, card, honest.ledgers)


def test_the_honest_release_is_accepted(world: World, tmp_path: Path) -> None:
    world.release.verify(world.owners)
    assert verify_folder(world.release.save(tmp_path / "run"), world.owners) == []
    world.earlier.verify(world.owners)
    assert {str(signer) for signer in world.release.signers(world.owners).values()} == {"signed by its known owner"}


def test_no_forged_release_is_accepted(world: World, tmp_path: Path) -> None:
    kinds, unseen = set(), set()
    for number, (what, release) in enumerate(forgeries(world)):
        assert release.failures(world.owners), what
        kinds.add(what)
        if what.endswith(("none", "a key of its own", "left out")) and not release.failures():
            unseen.add(what)
        if number % 20 == 0:
            assert verify_folder(release.save(tmp_path / str(number)), world.owners), what
    assert len(kinds) > 150
    assert len(unseen) > 25  # nothing but the owners' fingerprints shows these
    for what in ("left out", "rewritten; none", "invented; a key of its own", "less noise; a key of its own"):
        assert what in unseen


def test_who_signed_is_said_of_each_client(world: World) -> None:
    release = beside(world.release, "bob", FORGER.sign(fitting(world.release, "bob")))
    release = beside(release, "cleo", None)
    assert release.failures(world.owners) == [
        f"client bob: signed by an unknown key, {FORGER.fingerprint}",
        "client cleo: not signed",
    ]
    assert release.failures() == []
    assert [signer.known for signer in release.signers(world.owners).values()] == [True, False, False]


def test_an_owner_whose_client_is_not_there_and_a_client_without_a_known_owner(world: World) -> None:
    assert world.release.failures(world.owners | {"dora": "0" * 64}) == [
        "client dora: it has a known owner, and is not in this release"
    ]
    fewer = {name: digits for name, digits in world.owners.items() if name != "ann"}
    assert world.release.failures(fewer) == [f"client ann: signed by an unknown key, {world.owners['ann']}"]
    assert len(world.release.failures({})) == 3


def test_a_client_that_is_unaccounted_without_a_ledger_has_not_signed(world: World) -> None:
    card = copy.deepcopy(dict(world.release.card))
    del card["clients"]["cleo"]
    card |= {"unaccounted": {"cleo": 3}, "private": False}
    ledgers = {name: world.release.ledgers[name] for name in ("ann", "bob")}
    release = Release(world.release.dataset, card, ledgers)
    assert release.failures() == []
    assert release.failures(world.owners) == ["client cleo: not signed"]


def test_what_was_signed_in_the_middle_of_a_run_fits_a_cut_ledger_and_the_claim_is_the_same() -> None:
    """The limit of a signature, as docs/verifying.md says: it is of one moment.  The claim counts all queries."""
    own = Client("ann", ImageDataset(torch.zeros(4, 1, 4, 4), torch.arange(4) % 2, INFO))
    early: list[tuple[Signed, bytes]] = []
    method = DistDD(ipc=1, rounds=ROUNDS, matching_steps=STEPS, model="mlp", privacy=PRIVACY)
    release = method.fit([own], on_round_end=lambda record: early.append(own.attest(*own._runs.values())))
    signed, ledger = early[0]
    cut = beside(forged(release, {"ann": ledger}), "ann", signed)
    cut.card["progress"].update(stopped_early=True, rounds_done=1, matching_steps=STEPS)
    owners = {"ann": own.key.fingerprint}
    assert release.failures(owners) == cut.failures(owners) == []
    assert cut.epsilon == release.epsilon
    assert cut.card["clients"]["ann"]["charges"] == 1 < release.card["clients"]["ann"]["charges"]


SOUND = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "7",
        '{"ann": 7}',
        '{"ann": "ab"}',
        f'{{"a b": "{SOUND}"}}',
        f'{{"ann": "{SOUND.upper()}"}}',
        f'{{"ann": "{SOUND}", "ann": "{SOUND}"}}',
        "[" * 100_000,
        '[["ann", "x"]]',
    ],
)
def test_keys_that_cannot_be_read_are_said(world: World, tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(ReleaseError, match=r"keys\.json"):
        read_owners(tmp_path / "keys.json")
    with pytest.raises(ReleaseError, match=r"none\.json"):
        read_owners(tmp_path / "none.json")


def test_keys_are_read_as_they_are_written(tmp_path: Path) -> None:
    for owners in ({}, {"ann": SOUND, "bob": SOUND}):
        (tmp_path / "keys.json").write_text(json.dumps(owners))
        assert read_owners(tmp_path / "keys.json") == owners


def test_owners_that_are_no_fingerprints_are_refused(world: World) -> None:
    for wrong in ({"ann": "abc"}, {"a b": SOUND}):
        with pytest.raises(PrivateDistDDError):
            world.release.verify(wrong)


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda s: s.update(signature="xyz"), "cannot be read"),
        (lambda s: s.update(format="private_distdd.attestation/2"), "cannot be read"),
        (lambda s: s["attestation"].update(day="yesterday"), "cannot be read"),
        (lambda s: s.pop("signature"), "signature is missing"),
        (lambda s: s.update(more=1), "'more' is no field"),
        (lambda s: s["attestation"].update(ledger_lines="9"), "not a int"),
        (lambda s: s.update(public_key="0" * 64), "not one of the key"),
        (lambda s: s.update(public_key="zz"), "cannot be read"),
    ],
)
def test_a_signature_of_another_form_is_a_finding(world: World, edit: Any, line: str) -> None:
    card = copy.deepcopy(dict(world.release.card))
    edit(card["clients"]["ann"]["signed"])
    release = Release(world.release.dataset, card, world.release.ledgers)
    for owners in (None, world.owners):
        assert any(line in failure for failure in release.failures(owners))


def test_the_command_says_it_of_each_client(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, keys = str(world.release.save(tmp_path / "run")), tmp_path / "keys.json"
    keys.write_text(json.dumps(world.owners))
    assert main(["verify", folder, "--owners", str(keys)]) == 0
    said = capsys.readouterr().out
    assert [f"client {name}: signed by its known owner" in said for name in NAMES] == [True] * 3
    assert "unconfirmed" not in said
    assert main(["verify", folder]) == 0
    assert "3 of 3 ledgers are signed; whose keys these are is unconfirmed (--owners)" in capsys.readouterr().out
    mixed = beside(beside(world.release, "bob", FORGER.sign(fitting(world.release, "bob"))), "cleo", None)
    folder = str(mixed.save(tmp_path / "mixed"))
    assert main(["verify", folder, "--owners", str(keys)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "client ann: signed by its known owner",
        f"FAILED client bob: signed by an unknown key, {FORGER.fingerprint}",
        "FAILED client cleo: not signed",
    ]
    keys.write_text("{")
    assert main(["verify", folder, "--owners", str(keys)]) == 2
    assert str(keys) in capsys.readouterr().err
