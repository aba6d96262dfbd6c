"""What a site signs: one text for each attestation, and a signature of that text alone."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from private_distdd.errors import ConfigurationError, PrivateDistDDError, QueryRefusedError
from private_distdd.site.key import SiteKey
from private_distdd.wire.attestation import FORMAT, Attestation, Signed, fingerprint_of

KEY = SiteKey.for_this_process()
names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "client_id": names,
    "run_id": names,
    "terms": hashes,
    "ledger_lines": st.integers(1, 10**9),
    "ledger_head": hashes,
    "epsilon": st.floats(0, allow_infinity=False) | st.just("infinity"),
    "delta": st.floats(0, 1, exclude_min=True, exclude_max=True),
    "day": st.dates().map(str),
    "throwaway": st.booleans(),
}
attestations = st.builds(Attestation, **FIELDS)
ONE = Attestation("a", "r", "0" * 64, 3, "1" * 64, 1.5, 1e-5, "2026-11-27", False)


def test_every_field_is_drawn() -> None:
    assert set(FIELDS) == {field.name for field in dataclasses.fields(Attestation)}


@given(attestations, attestations)
def test_two_attestations_are_two_texts(one: Attestation, other: Attestation) -> None:
    assert (one.to_bytes() == other.to_bytes()) == (one == other)


@given(st.data(), attestations, st.sampled_from(sorted(FIELDS)))
def test_any_other_field_is_another_text_and_breaks_the_signature(
    data: st.DataObject, own: Attestation, field: str
) -> None:
    value = data.draw(FIELDS[field].filter(lambda value: value != getattr(own, field)))
    other = dataclasses.replace(own, **{field: value})
    signed = KEY.sign(own)
    assert other.to_bytes() != own.to_bytes()
    assert signed.is_sound()
    assert not dataclasses.replace(signed, attestation=other).is_sound()


@given(attestations)
def test_both_forms_are_read_as_they_were_written(own: Attestation) -> None:
    signed = KEY.sign(own)
    assert Signed.from_bytes(signed.to_bytes()) == signed
    assert Signed.from_json(json.loads(json.dumps(signed.to_json()))) == signed


def test_the_text_begins_with_its_format() -> None:
    """What the same key may come to sign later begins otherwise, so neither can be taken for the other."""
    assert ONE.to_bytes().startswith(FORMAT.encode() + b"\n{")


@pytest.mark.parametrize(("part", "bits"), [("public_key", 256), ("signature", 512)])
def test_every_bit_of_key_and_signature_counts(part: str, bits: int) -> None:
    signed = KEY.sign(ONE)
    number = int(getattr(signed, part), 16)
    for bit in range(bits):
        changed = f"{number ^ (1 << bit):0{bits // 4}x}"
        assert not dataclasses.replace(signed, **{part: changed}).is_sound(), bit


def test_another_key_s_signature_is_not_sound() -> None:
    other = SiteKey.for_this_process().sign(ONE)
    assert other.is_sound()
    assert not dataclasses.replace(other, public_key=KEY.public_key).is_sound()
    assert other.fingerprint == fingerprint_of(other.public_key) != KEY.fingerprint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("client_id", "a b"),
        ("run_id", ""),
        ("terms", "0" * 63),
        ("ledger_head", "G" * 64),
        ("ledger_lines", 0),
        ("ledger_lines", True),
        ("ledger_lines", 3.0),
        ("epsilon", -0.1),
        ("epsilon", float("nan")),
        ("epsilon", float("inf")),
        ("epsilon", 4),
        ("epsilon", "inf"),
        ("delta", 0.0),
        ("delta", 1.0),
        ("day", "20261127"),
        ("day", "2026-11-31"),
        ("day", "2026-11-27T10:00"),
        ("throwaway", 0),
    ],
)
def test_what_is_of_another_form_cannot_be_signed_or_read(field: str, value: object) -> None:
    with pytest.raises(PrivateDistDDError, match=field):
        dataclasses.replace(ONE, **{field: value})
    record = KEY.sign(ONE).to_json() | {"kind": "signed"}
    record["attestation"][field] = value
    with pytest.raises(QueryRefusedError, match="signed attestation"):
        Signed.from_bytes(json.dumps(record).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"format": "private_distdd.attestation/2"},
        {"kind": "enrolment"},
        {"more": 1},
        {"attestation": []},
        {"attestation": {}},
        {"public_key": "0"},
        {"signature": 7},
        {"signature": "A" * 128},
    ],
)
def test_bytes_of_another_form_are_refused(change: dict[str, Any]) -> None:
    record = KEY.sign(ONE).to_json() | {"kind": "signed"}
    Signed.from_bytes(json.dumps(record).encode())
    with pytest.raises(QueryRefusedError):
        Signed.from_bytes(json.dumps(record | change).encode())
    with pytest.raises(ConfigurationError):
        Signed(ONE, "0" * 64, "0" * 127)
