"""The release folder: whole or absent when saved, every changed byte noticed, every forged number recomputed."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import os
import shutil
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import private_distdd.release.folder as folder_module
import private_distdd.release.release as release_module
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import NotPrivateWarning, ReleaseError
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.accountants import bracket
from private_distdd.privacy.events import Event, NotPrivate, SampledGaussian
from private_distdd.privacy.ledger import Budget, Ledger, Open, parse
from private_distdd.privacy.ledger.entries import encode
from private_distdd.privacy.plan import Privacy, PrivacyPlan
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.release.bill import bill_of, epsilons
from private_distdd.release.build import build_release
from private_distdd.release.card import render_card
from private_distdd.release.folder import manifest_of, pretty
from private_distdd.release.release import Release, verify_folder
from private_distdd.site.client import Client
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query, message_id
from private_distdd.wire.run import Run

Edit = Callable[[dict[str, Any]], object]

INFO = DatasetInfo("two grey classes", 2, (1, 4, 4))
PRIVACY = Privacy(noise_multiplier=1.5, delta=1e-5, sample_rate=0.2, max_grad_norm=0.5, divisor=8.0)
ROUNDS, STEPS = 3, 2


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


# Round trip, and what the card says.


def test_a_saved_release_loads_as_it_was_and_verifies(private: Release, saved: Path) -> None:
    loaded = Release.load(saved)
    assert torch.equal(loaded.dataset.images, private.dataset.images)
    assert loaded.card == json.loads(json.dumps(private.card))
    assert loaded.ledgers == private.ledgers
    loaded.verify()
    private.verify()
    assert verify_folder(saved) == []
    assert loaded.private
    assert not list(saved.parent.glob(".*"))


def test_the_card_holds_the_accountants_numbers(private: Release) -> None:
    plan = PRIVACY.plan(ROUNDS)
    for bill in private.card["clients"].values():
        for part in ("claim", "spent", "so_far"):  # one run, to its end: all three are the schedule
            for name in ("rdp", "prv"):
                assert bill[part][name] == bracket([plan.schedule], plan.delta, name).upper
        assert bill["budget"] == {"epsilon": 20.0, "delta": 1e-5}
        assert bill["charges"] == bill["messages_used"] == ROUNDS
    assert private.epsilon == dict.fromkeys(("ann", "bob"), plan.epsilon)


def test_without_privacy_the_release_is_sound_and_says_so(not_private: Release, tmp_path: Path) -> None:
    folder = not_private.save(tmp_path / "run")
    assert verify_folder(folder) == []
    assert not not_private.private
    assert set(not_private.epsilon.values()) == {math.inf}
    assert "NOT PRIVATE" in (folder / "card.html").read_text(encoding="utf-8")


def test_insecure_randomness_is_not_private(tmp_path: Path) -> None:
    release = fit(PRIVACY, insecure=True)
    folder = release.save(tmp_path / "run")
    assert verify_folder(folder) == []
    assert not release.private
    assert set(release.epsilon.values()) == {math.inf}
    assert "NOT PRIVATE" in (folder / "card.html").read_text(encoding="utf-8")


class Built:
    """Releases made directly from ledgers, without a run; `pinned` and `charged` are what the ledger holds."""

    run = Run("r", INFO, PRIVACY.plan(ROUNDS))
    settings: ClassVar[dict[str, Any]] = {"ipc": 1, "rounds": ROUNDS, "matching_steps": STEPS, "privacy": None}

    def __init__(self) -> None:
        plan = self.run.plan
        assert plan is not None
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
            ledger.pin("r", *self.pinned, self.run.terms)
        for server_round in self.rounds:
            ledger.charge(self.charged, message_id("r", server_round))
            ledger.seal(message_id("r", server_round), "0" * 64)
        return ledger.to_bytes()

    def failures(self) -> list[str]:
        privacy = {name: getattr(PRIVACY, name) for name in PRIVACY.__dataclass_fields__}
        return build_release(
            SyntheticDataset(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), INFO),
            self.run,
            {"ann": self.ledger()},
            method="DistDD",
            settings=self.settings | {"privacy": privacy},
            seeds="none",
            progress=self.progress,
            messages={"ann": self.used},
        ).failures()


def test_a_release_stopped_in_the_middle_of_a_round_verifies() -> None:
    built = Built()
    built.rounds, built.used = [0, 1], 2
    built.progress |= {"rounds_done": 1, "matching_steps": 3, "stopped_early": True}
    assert built.failures() == []
    built.progress["rounds_done"] = 0
    assert any("charged for round 2" in line for line in built.failures())


@pytest.mark.parametrize("who", ["ann", "bob"])
def test_a_run_interrupted_between_two_answers_verifies(who: str, tmp_path: Path) -> None:
    class Interrupted(Client):
        def answer(self, query: Query) -> Message:
            message = super().answer(query)
            if self.client_id == who and query.server_round == 1:
                raise KeyboardInterrupt
            return message

    images = ImageDataset(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), INFO)
    clients = [Interrupted(name, images) for name in ("ann", "bob")]
    method = DistDD(ipc=2, rounds=ROUNDS, matching_steps=STEPS, model="mlp", privacy=PRIVACY)
    release = method.fit(clients)
    assert release.card["progress"]["stopped_early"]
    assert release.card["clients"][who]["charges"] == 2
    assert release.card["clients"][who]["messages_used"] == 1
    assert verify_folder(release.save(tmp_path / "run")) == []


def test_a_whole_built_release_verifies() -> None:
    assert Built().failures() == []


def test_a_recovered_charge_counts_for_its_run(tmp_path: Path) -> None:
    path = tmp_path / "ann.jsonl"
    built = Built()
    built.rounds, built.used = [0, 1], 2
    built.progress |= {"rounds_done": 2, "matching_steps": 4, "stopped_early": True}
    path.write_bytes(built.ledger() + b'{"crc":"')
    with Ledger(path) as ledger:
        recovered = ledger.to_bytes()
    bill = bill_of(parse(recovered), built.run)
    assert bill["charges"] == 3
    built.ledger = lambda: recovered  # type: ignore[method-assign]
    assert built.failures() == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"pinned": None}, "never agreed"),
        ({"pinned": (PRIVACY.plan(1).event, 4)}, "agreed to 4 queries, the plan says 3"),
        ({"pinned": (SampledGaussian(1.0, 0.2), 3), "charged": SampledGaussian(1.0, 0.2)}, "noise_multiplier=1.0"),
        ({"client_id": "eve"}, "that of client eve"),
        ({"used": 4}, "4 messages used, but 3 are sealed"),
        ({"used": -1}, "-1 messages used"),
        ({"rounds": [0, 1], "used": 2}, "6 matching steps; by the ledgers, 4 to 4"),
        ({"rounds": [0, 1, 7]}, "charged for round 8"),
    ],
)
def test_a_ledger_that_does_not_fit_the_plan_is_noticed(change: dict[str, Any], line: str) -> None:
    built = Built()
    for name, value in change.items():
        setattr(built, name, value)
    assert any(line in failure for failure in built.failures())


def test_a_ledger_without_noise_makes_the_card_say_not_private() -> None:
    built = Built()
    built.pinned, built.charged = (NotPrivate(), 3), NotPrivate()
    assert built.failures() == []


# Saving.


def test_nothing_is_overwritten(private: Release, folder: Path, tmp_path: Path) -> None:
    before = files_of(folder)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for place in (folder, link, folder / "card.json"):
        with pytest.raises(ReleaseError, match="exists"):
            private.save(place)
    assert files_of(folder) == before


@pytest.mark.parametrize("step", ["sync", "manifest_of", "render_card"])
@pytest.mark.parametrize("trouble", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_ctrl_c_leaves_nothing(
    private: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, trouble: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise trouble

    monkeypatch.setattr(release_module, step, fail)
    with pytest.raises(ReleaseError if isinstance(trouble, OSError) else KeyboardInterrupt):
        private.save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_appears_meanwhile_is_kept(
    private: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def appear(path: Path) -> None:
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "theirs").write_text("x")

    monkeypatch.setattr(release_module, "sync", appear)
    with pytest.raises(ReleaseError, match="cannot be written"):
        private.save(tmp_path / "run")
    assert [str(f.relative_to(tmp_path)) for f in sorted(tmp_path.rglob("*"))] == ["run", "run/theirs"]


def test_client_names_cannot_leave_the_folder(private: Release, tmp_path: Path) -> None:
    ledgers = {"../../evil": private.ledgers["ann"]}
    with pytest.raises(ReleaseError, match="client_id"):
        Release(private.dataset, private.card, ledgers).save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# Integrity: every byte.


def test_every_flipped_byte_is_noticed(folder: Path) -> None:
    for name, data in files_of(folder).items():
        small = len(data) <= 1500
        rng = np.random.default_rng(len(data))
        places = range(len(data)) if small else sorted({0, len(data) - 1, *rng.integers(len(data), size=60).tolist()})
        for place in places:
            flip = 1 << int(rng.integers(8))
            (folder / name).write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            failures = verify_folder(folder)
            assert failures, f"{name} byte {place}"
            assert name == "manifest.json" or f"{name} was changed" in failures
        (folder / name).write_bytes(data)
    assert verify_folder(folder) == []


def test_every_flipped_byte_of_a_ledger_is_noticed_by_its_chain(private: Release) -> None:
    data = private.ledgers["ann"]
    for place in range(0, len(data), 7):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        release = Release(private.dataset, private.card, {**private.ledgers, "ann": changed})
        assert any(line.startswith("ledger ann") for line in release.failures()), place


def test_truncated_missing_and_added_files_are_noticed(folder: Path) -> None:
    for name, data in files_of(folder).items():
        for length in (0, len(data) // 2, len(data) - 1):
            (folder / name).write_bytes(data[:length])
            assert verify_folder(folder), (name, length)
        (folder / name).unlink()
        assert any(name in line for line in verify_folder(folder)), name
        (folder / name).write_bytes(data)
    for name in ("more.txt", "ledgers/eve.jsonl", ".hidden"):
        (folder / name).write_text("x")
        assert verify_folder(folder) == [f"{name} was added"]
        (folder / name).unlink()
    assert verify_folder(folder) == []


def test_files_with_other_names_are_no_part_of_a_release(folder: Path) -> None:
    (folder / "ledgers" / "no ledger.exe").write_text("x")
    seal(folder)
    assert verify_folder(folder) == ["ledgers/no ledger.exe is no part of a release"]


# Forgery: whoever can write the folder redoes the manifest.


def leaves(record: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(record, dict) and record:
        for name in record:
            yield from leaves(record[name], (*path, name))
    else:
        yield path


# What no other part of the folder can contradict; documented at `Release.verify`.
FREE = {
    ("progress", "stopped_early"),  # in the last round, that is; see the forged cards
    ("seeds",),
    ("method", "name"),
    *(("versions", name) for name in ("python", "private-distdd", "torch", "opacus", "numpy")),
}
CHECKED_SETTINGS = {"ipc", "rounds", "matching_steps", "privacy"}


def test_every_number_and_name_on_the_card_is_checked(private: Release, folder: Path) -> None:
    original = files_of(folder)
    tried = 0
    for path in leaves(json.loads(original["card.json"])):
        if path in FREE or (path[:2] == ("method", "settings") and path[2] not in CHECKED_SETTINGS):
            continue
        place = card = json.loads(original["card.json"])
        for name in path[:-1]:
            place = place[name]
        used = path[-1] == "messages_used"  # fewer may be true: a reply can be lost on its way
        place[path[-1]] = ROUNDS + 1 if used else other(place[path[-1]])
        (folder / "card.json").write_bytes(pretty(card))
        seal(folder)  # the page is left: it must be the card that is found wrong, too
        failures = verify_folder(folder)
        assert [line for line in failures if not line.startswith("card.html does not")], (path, failures)
        tried += 1
    assert tried > 60
    assert private.failures() == []


def other(value: Any) -> Any:
    """A value of the same kind, only a little different."""
    match value:
        case bool():
            return not value
        case int():
            return value - 1 if value > 1 else value + 1
        case float():
            return value * 0.999
        case str():
            return value[:-1] + ("0" if value[-1:] != "0" else "1")
        case None:
            return 1.5
    return [*value, 1]


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda c: c["plan"].update(max_queries=2), "agreed to 3 queries, the plan says 2"),
        (lambda c: c["plan"].update(noise_multiplier=3.0), "the plan says SampledGaussian(noise_multiplier=3.0"),
        (lambda c: c["plan"].update(delta=1e-2), "claim.prv"),
        (lambda c: c["clients"].pop("bob"), "ledgers: ['ann', 'bob'] are there"),
        (lambda c: c.update(certified="by eve"), "'certified' is no field"),
        (lambda c: c.pop("unit"), "unit is missing"),
        (lambda c: c.update(plan=None, noise_model="none"), "no plan"),
        (lambda c: c["progress"].update(matching_steps=7), "7 matching steps"),
        (lambda c: c["progress"].update(rounds_done=4), "4 of 3 rounds"),
        (lambda c: c["progress"].update(rounds_done=2), "stopped_early is False with 2 of 3"),
        (lambda c: c["progress"].update(rounds_done=True), "rounds_done is True"),
        (lambda c: c["method"]["settings"]["privacy"].update(target_epsilon=0.5), "more than the target 0.5"),
    ],
)
def test_forged_cards(folder: Path, edit: Edit, line: str) -> None:
    failures = forge(folder, edit)
    assert any(line in failure for failure in failures), failures


def test_a_consistent_forgery_of_the_plan_meets_the_ledgers_pins(private: Release) -> None:
    """The forger rebuilds the whole card for a shorter schedule: only the pin in the ledgers contradicts it."""
    card = copy.deepcopy(dict(private.card))
    card["plan"]["max_queries"] = 2
    plan = PrivacyPlan.from_json(card["plan"])
    for bill in card["clients"].values():
        bill["claim"] = epsilons([plan.schedule], plan.delta)
    failures = Release(private.dataset, card, private.ledgers).failures()
    assert "client ann: its ledger agreed to 3 queries, the plan says 2" in failures


@pytest.mark.parametrize(("name", "value"), [("max_grad_norm", 0.25), ("divisor", 4.0), ("delta", 1e-6)])
def test_a_consistent_forgery_of_the_terms_meets_the_ledgers_pins(private: Release, name: str, value: float) -> None:
    """C, b and delta enter no event; the digest of the terms in each ledger's pin holds them."""
    card = copy.deepcopy(dict(private.card))
    card["plan"][name] = card["method"]["settings"]["privacy"][name] = value
    failures = Release(private.dataset, card, private.ledgers).failures()
    assert any("agreed to other terms" in failure for failure in failures)


def test_a_release_of_nobody_is_not_private(private: Release) -> None:
    card = dict(private.card) | {"clients": {}}
    assert "card: it names no client" in Release(private.dataset, card, {}).failures()


def test_an_overspent_budget_is_noticed() -> None:
    built = Built()
    entries = [Open("ann", Budget(0.5, 1e-5)), *parse(built.ledger()).entries[1:]]
    forged, head = b"", "0" * 64
    for index, entry in enumerate(entries):
        line = encode(entry, index, head)
        forged, head = forged + line + b"\n", hashlib.sha256(line).hexdigest()
    built.ledger = lambda: forged  # type: ignore[method-assign]
    assert any("has spent" in line for line in built.failures())


def test_what_cannot_be_noticed_is_what_the_docstring_says(private: Release) -> None:
    """A client left out with its ledger: nothing else in the folder names it."""
    card = dict(private.card) | {"clients": {"ann": private.card["clients"]["ann"]}}
    assert Release(private.dataset, card, {"ann": private.ledgers["ann"]}).failures() == []
    assert "a client left out with its ledger" in " ".join((Release.verify.__doc__ or "").split())


def test_a_page_or_picture_that_shows_something_else_is_noticed(folder: Path) -> None:
    page = (folder / "card.html").read_text(encoding="utf-8")
    (folder / "card.html").write_text(page.replace("add or remove one", "client level"), encoding="utf-8")
    picture = np.array(Image.open(folder / "preview.png"))
    picture[0, 0] ^= 128
    Image.fromarray(picture).save(folder / "preview.png")
    seal(folder)
    assert verify_folder(folder) == [
        "card.html does not show what card.json says",
        "preview.png does not show the images of synthetic.safetensors",
    ]
    (folder / "preview.png").write_bytes(b"no picture")
    seal(folder)
    assert len(verify_folder(folder)) == 2


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def test_a_picture_that_holds_more_than_pixels_is_noticed(folder: Path) -> None:
    """A picture with the right pixels can carry anything behind its end, between its parts, or in its stream."""
    data = (folder / "preview.png").read_bytes()
    end = chunk(b"IEND", b"")
    assert data.endswith(end)
    pixels = data[data.index(b"IDAT") + 4 : -len(end) - 4]
    head = data[: data.index(b"IDAT") - 4]
    stream = zlib.decompress(pixels)
    secret = b"what nobody should send"
    hidden = {
        "behind the end": data + secret,
        "a text": data[: -len(end)] + chunk(b"tEXt", secret) + end,
        "before the pixels": head + chunk(b"prVt", secret) + chunk(b"IDAT", pixels) + end,
        "behind the stream": head + chunk(b"IDAT", pixels + secret) + end,
        "in the stream": head + chunk(b"IDAT", zlib.compress(stream + secret)) + end,
        "a second end": data + end,
    }
    for changed in hidden.values():
        (folder / "preview.png").write_bytes(changed)
        seal(folder)
        assert verify_folder(folder) == ["preview.png holds more than one picture"]
    huge = chunk(b"IHDR", (2**20).to_bytes(4, "big") + (2**12).to_bytes(4, "big") + bytes([8, 2, 0, 0, 0]))
    bomb = b"\x89PNG\r\n\x1a\n" + huge + chunk(b"IDAT", zlib.compress(bytes(10**8), 9)) + end
    (folder / "preview.png").write_bytes(bomb)
    seal(folder)
    tracemalloc.start()
    assert verify_folder(folder) == ["preview.png does not show the images of synthetic.safetensors"]
    assert tracemalloc.get_traced_memory()[1] < 2 * 10**7
    tracemalloc.stop()
    (folder / "preview.png").write_bytes(head + chunk(b"IDAT", pixels[:9]) + chunk(b"IDAT", pixels[9:]) + end)
    seal(folder)
    assert verify_folder(folder) == []  # the pixels may come in parts


@pytest.mark.parametrize(
    ("name", "value"),
    [("initialization", "real"), ("batch_per_class", 64), ("local_steps", 100), ("memo", "x" * 20_000)],
)
def test_settings_that_contradict_a_private_plan_are_noticed(folder: Path, name: str, value: Any) -> None:
    found = forge(folder, lambda card: card["method"]["settings"].update({name: value}))
    assert any(name in line or "characters" in line for line in found)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("data", "image_shape"), [2**26, 1, 1]),
        (("data", "image_shape"), [1, 2**40, 2**40]),
        (("data", "num_classes"), 2**60),
        (("ipc",), 2**62),
        (("progress", "rounds_planned"), 10**300),
        (("plan", "max_queries"), 10**400),
    ],
)
def test_a_few_bytes_of_a_card_cannot_cost_much(folder: Path, where: tuple[str, ...], value: Any) -> None:
    def edit(card: Any) -> None:
        for key in where[:-1]:
            card = card[key]
        card[where[-1]] = value

    tracemalloc.start()
    try:
        card = json.loads((folder / "card.json").read_bytes())
        edit(card)
        (folder / "card.json").write_bytes(pretty(card))
        seal(folder)
        assert verify_folder(folder)
        assert tracemalloc.get_traced_memory()[1] < 3 * 10**7
    finally:
        tracemalloc.stop()


def test_thin_images_have_no_monstrous_picture() -> None:
    info = DatasetInfo("thin", 2, (1, 1, 100_000))
    thin = SyntheticDataset(torch.zeros(20, 1, 1, 100_000), torch.arange(2).repeat_interleave(10), info)
    assert thin.grid().nbytes < 40 * thin.images.nbytes


@pytest.mark.parametrize("name", ["card.json", "manifest.json", "preview.png", "card.html", "ledgers/ann.jsonl"])
def test_files_of_any_length_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    longest = max(len(data) for data in files_of(folder).values())
    for limit in ("PAGE_BYTES", "LEDGER_BYTES"):
        monkeypatch.setattr(folder_module, limit, longest)
    assert verify_folder(folder) == []
    with open(folder / name, "ab") as file:
        file.truncate(longest + 1)
    (found,) = verify_folder(folder)
    assert f"is longer than {longest} bytes" in found


OLD = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("name", ["release-distdd-1", "release-collabdm-1"])
def test_releases_of_earlier_versions_still_verify(name: str, tmp_path: Path) -> None:
    """Written by version 0.1.0."""
    release = Release.load(OLD / name)
    release.verify()
    assert release.private
    again = Release.load(release.save(tmp_path / "again"))
    assert again.card == release.card
    worse = copy.deepcopy(dict(release.card))
    worse["clients"]["north"]["claim"]["prv"] -= 0.01
    assert Release(release.dataset, worse, release.ledgers).failures()


def test_a_card_of_another_version_may_promise_less_never_more(private: Release) -> None:
    """Accountants get tighter: an old card whose bounds are higher than today's is still true."""

    def failures(version: str, part: str, change: float, note: str = "") -> list[str]:
        card = json.loads(json.dumps(private.card))
        card["versions"]["private-distdd"] = version
        for name in ("prv", "epsilon") if part == "claim" else ("rdp",):
            card["clients"]["ann"][part][name] += change
        card["clients"]["ann"][part]["note"] += note
        return Release(private.dataset, card, private.ledgers).failures()

    here = private.card["versions"]["private-distdd"]
    for part in ("claim", "spent", "so_far"):
        assert failures("0.1.0", part, 0.01, "RDP serves") == []
        assert failures("0.1.0", part, -0.01) != []
        assert failures(here, part, 0.01) != []
        assert failures(here, part, 0.0, "otherwise") != []
    card = json.loads(json.dumps(private.card)) | {"versions": {**private.card["versions"], "private-distdd": "0.1.0"}}
    card["clients"]["ann"]["charges"] += 1
    assert Release(private.dataset, card, private.ledgers).failures()


def test_other_images_under_the_same_card(folder: Path, private: Release) -> None:
    images = private.dataset.images.clone()
    images[0, 0, 0, 0] = 1e30
    (folder / "synthetic.safetensors").unlink()
    dataset = SyntheticDataset(images, private.dataset.labels, INFO)
    dataset.save(folder / "synthetic.safetensors")
    dataset.preview(folder / "preview.png")
    seal(folder)
    assert any("magnitude 1e+30" in line for line in verify_folder(folder))


# Whatever lies in the folder: lines, never a traceback.


def test_odd_places(saved: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    file = tmp_path / "file"
    file.write_text("x")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for place in (empty, file, loop, tmp_path / "absent", Path("nul\0"), Path("x" * 5000)):
        failures = verify_folder(place)
        assert len(failures) == 1, place
        assert failures[0].isprintable()
        with pytest.raises(ReleaseError):
            Release.load(place)


@pytest.mark.parametrize("name", ["card.json", "manifest.json", "synthetic.safetensors", "preview.png", "ledgers"])
@pytest.mark.parametrize("kind", ["directory", "link", "fifo", "link to itself"])
def test_odd_things_under_the_names_of_a_release(saved: Path, folder: Path, name: str, kind: str) -> None:
    place = folder / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    match kind:
        case "directory":
            place.mkdir()
        case "link":
            place.symlink_to(saved / name)
        case "fifo":
            os.mkfifo(place)
        case _:
            place.symlink_to(place)
    failures = verify_folder(folder)
    assert failures
    assert all(line.isprintable() for line in failures)


def test_a_terminal_is_not_steered_by_names(folder: Path) -> None:
    (folder / "\x1b[2J\nall is well").write_text("x")
    failures = verify_folder(folder)
    assert failures == ["\\x1b[2J\\nall is well was added"]
    assert len(forge(folder, lambda card: card.update({"x" * 10000: 1}))[0]) < 500


HOSTILE = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"card"',
    b"NaN",
    b'{"files": NaN}',
    b'{"files": []}',
    b'{"files": [[1, 2]]}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"1" * 10_000,
    b"1e999",
    b"\xff\xfe\x00",
    b"\x80",
    b'{"format": "private_distdd.release/1", "format": 1}',
]


@pytest.mark.parametrize("name", ["card.json", "manifest.json", "synthetic.safetensors", "ledgers/ann.jsonl"])
def test_hostile_bytes(folder: Path, name: str) -> None:
    for data in HOSTILE:
        (folder / name).write_bytes(data)
        if name != "manifest.json":
            seal(folder)
        failures = verify_folder(folder)
        assert failures
        assert all(line.isprintable() and len(line) < 500 for line in failures)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
@given(data=st.data())
def test_hostile_values_anywhere_on_the_card(private: Release, data: st.DataObject) -> None:
    card = json.loads(json.dumps(private.card))
    paths = list(leaves(card))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths))
        path = path[: data.draw(st.integers(1, len(path)))]
        place = card
        for name in path[:-1]:
            place = place.get(name, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place[path[-1]] = data.draw(JSON)
    failures = Release(private.dataset, card, private.ledgers).failures()
    assert all(isinstance(line, str) and line.isprintable() for line in failures)


@settings(max_examples=100)
@given(data=st.binary(max_size=200))
def test_hostile_synthetic_sets(private: Release, saved: Path, data: bytes) -> None:
    folder = saved.parent / "hostile"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    header = len(data).to_bytes(8, "little")
    (folder / "synthetic.safetensors").write_bytes(header + data)
    seal(folder)
    assert len(verify_folder(folder)) == 1
