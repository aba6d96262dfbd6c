"""An owner who wants to be asked: no run without consent to exactly its terms."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from answers import MakeImages

from private_distdd.errors import BudgetExceededError, ConfigurationError, ConsentPendingError, QueryRefusedError
from private_distdd.privacy.ledger import Budget, Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.site import consents as consents_module
from private_distdd.site.client import Client
from private_distdd.site.consents import Consents
from private_distdd.site.endpoint import Endpoint
from private_distdd.site.key import SiteKey
from private_distdd.wire.engine import ENROL
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run


@pytest.fixture
def key(tmp_path: Path) -> SiteKey:
    return SiteKey.create(tmp_path / "key.pem")


@pytest.fixture
def consents(tmp_path: Path, key: SiteKey) -> Consents:
    return Consents(tmp_path / "consents", "clinic", key)


def test_an_offer_waits_until_it_is_agreed_to(consents: Consents, run: Run, key: SiteKey, tmp_path: Path) -> None:
    assert not consents(run)
    assert consents.waiting() == [run]
    assert not consents(run)  # offered again, it waits once
    assert consents.waiting() == [run]
    consents.approve(consents.find("run-1"))
    assert consents(run)
    assert consents.waiting() == []
    assert Consents(tmp_path / "consents", "clinic", key)(run)  # after a restart, too


def test_consent_is_to_these_terms_alone(consents: Consents, run: Run) -> None:
    consents(run)
    consents.approve(run)
    assert run.plan is not None
    for other in (
        replace(run, run_id="run-2"),
        replace(run, plan=replace(run.plan, max_queries=run.plan.max_queries + 1)),
        replace(run, plan=replace(run.plan, noise_multiplier=1.9)),
        replace(run, info=replace(run.info, name="other")),
    ):
        assert not consents(other)


def test_consent_of_another_key_or_client_or_none_at_all_does_not_count(
    consents: Consents, run: Run, key: SiteKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Consents(tmp_path / "consents", "clinic", SiteKey.for_this_process()).approve(run)
    assert not consents(run)
    assert "not what this site's key signed" in caplog.text
    Consents(tmp_path / "consents", "another", key).approve(run)
    assert not consents(run)
    given = next((tmp_path / "consents").glob("*.consent"))
    for text in ("yes", "00" * 64, "ü"):
        given.write_text(text)
        assert not consents(run)
    consents.approve(run)
    assert consents(run)


def test_a_consent_copied_to_other_terms_does_not_count(consents: Consents, run: Run, tmp_path: Path) -> None:
    consents.approve(run)
    other = replace(run, run_id="run-2")
    (given,) = (tmp_path / "consents").glob("*.consent")
    given.with_name(f"{other.terms_digest}.consent").write_bytes(given.read_bytes())
    assert not consents(other)


def test_an_offer_can_be_declined(consents: Consents, run: Run) -> None:
    consents(run)
    consents.decline(run)
    assert consents.waiting() == []
    assert not consents(run)


def test_offers_do_not_fill_the_disk(
    consents: Consents, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(consents_module, "MOST_WAITING", 3)
    for i in range(10):
        assert not consents(replace(run, run_id=f"run-{i}"))
    assert [offer.run_id for offer in consents.waiting()] == ["run-0", "run-1", "run-2"]
    consents.decline(consents.find("run-1"))
    consents(replace(run, run_id="run-9"))
    assert [offer.run_id for offer in consents.waiting()] == ["run-0", "run-2", "run-9"]


def test_offers_are_found_by_name_and_by_terms(consents: Consents, run: Run) -> None:
    assert run.plan is not None
    other = replace(run, plan=replace(run.plan, max_queries=4))
    consents(run)
    consents(other)
    assert consents.find(run.terms_digest) == run
    for name in ("run-1", "run-3", "", run.terms_digest[:63]):  # two of them, and none thrice
        with pytest.raises(ConfigurationError, match=other.terms_digest):
            consents.find(name)


def test_a_run_that_is_named_like_another_s_terms_is_not_found_by_them(consents: Consents, run: Run) -> None:
    consents(replace(run, run_id=run.terms_digest))
    with pytest.raises(ConfigurationError, match="0 runs"):
        consents.find(run.terms_digest)


def test_an_old_key_s_consent_hides_no_offer(consents: Consents, run: Run, tmp_path: Path) -> None:
    Consents(tmp_path / "consents", "clinic", SiteKey.for_this_process()).approve(run)
    assert not consents(run)
    assert consents.waiting() == [run]


def test_files_are_for_their_owner_and_damaged_ones_are_passed_over(
    consents: Consents, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    consents(run)
    folder = tmp_path / "consents"
    assert {os.stat(path).st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}
    (folder / "damaged.offer").write_text("{")
    assert consents.waiting() == [run]
    assert "damaged.offer" in caplog.text


def test_a_client_waits_for_consent_and_promises_nothing_until_then(
    make_images: MakeImages, consents: Consents, run: Run, key: SiteKey
) -> None:
    client = Client("clinic", make_images(12), key=key, consent=consents)
    before = client.ledger.to_bytes()
    with pytest.raises(ConsentPendingError, match="run-1"):
        client.enroll(run)
    refusal = Refusal.from_bytes(Reply.from_bytes(Endpoint(client).handle(ENROL, run.to_bytes())).answer)
    assert refusal == Refusal("waiting")
    assert client.ledger.to_bytes() == before
    consents.approve(run)
    client.enroll(run)
    assert client.ledger.remaining("run-1") == run.plan.max_queries  # type: ignore[union-attr]


def test_what_is_refused_anyway_does_not_wait(
    make_images: MakeImages, consents: Consents, run: Run, key: SiteKey
) -> None:
    own = Privacy(noise_multiplier=9.0).plan(1)
    with pytest.raises(QueryRefusedError, match="the owner's"):
        Client("clinic", make_images(12), key=key, plan=own, consent=consents).enroll(run)
    with pytest.raises(QueryRefusedError, match="without privacy"):
        Client("clinic", make_images(12), key=key, consent=consents).enroll(Run("run-1", run.info, None))
    assert consents.waiting() == []


def test_consent_does_not_widen_the_budget(make_images: MakeImages, consents: Consents, run: Run) -> None:
    client = Client("clinic", make_images(12), Ledger(None, Budget(0.01, 1e-5)), consent=consents)
    consents.approve(run)
    with pytest.raises(BudgetExceededError, match="can pay no more"):
        client.enroll(run)


def test_a_folder_that_cannot_be_is_said(tmp_path: Path, key: SiteKey) -> None:
    with pytest.raises(ConfigurationError, match="none"):
        Consents(tmp_path / "none" / "consents", "clinic", key)
