"""A site's key: made once, for its owner's eyes only, and the same ever after."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from private_distdd.errors import ConfigurationError
from private_distdd.site.key import SiteKey


def test_a_key_is_made_once_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    made = SiteKey.create(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    again = SiteKey.load(path)
    assert (again.public_key, again.fingerprint) == (made.public_key, made.fingerprint)
    assert not made.throwaway
    assert not again.throwaway
    data = path.read_bytes()
    with pytest.raises(ConfigurationError, match="never overwritten"):
        SiteKey.create(path)
    assert path.read_bytes() == data
    assert repr(made) == f"SiteKey({made.fingerprint})"  # and nothing of the secret


def test_every_key_is_another_one(tmp_path: Path) -> None:
    keys = [SiteKey.for_this_process(), SiteKey.for_this_process(), *(SiteKey.create(tmp_path / n) for n in "ab")]
    assert len({key.fingerprint for key in keys}) == 4
    assert [key.throwaway for key in keys] == [True, True, False, False]


def test_no_folder_no_key_and_a_full_disk_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        SiteKey.create(tmp_path / "none" / "site.key")

    def full(file: int, data: bytes) -> None:
        os.write(file, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("private_distdd.site.key.write_durably", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        SiteKey.create(tmp_path / "site.key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_read_or_write_is_not_used(tmp_path: Path, mode: int) -> None:
    SiteKey.create(tmp_path / "site.key")
    os.chmod(tmp_path / "site.key", mode)
    with pytest.raises(ConfigurationError, match=f"{mode:04o}"):
        SiteKey.load(tmp_path / "site.key")


def pem(key: Ed25519PrivateKey, password: bytes | None = None) -> bytes:
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    closed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(*form, closed)


ELLIPTIC = generate_private_key(SECP256R1()).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", pem(Ed25519PrivateKey.generate())[:-40], pem(Ed25519PrivateKey.generate(), b"x"), ELLIPTIC],
    ids=["empty", "text", "cut", "with a password", "of another kind"],
)
def test_what_is_no_key_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "site.key").write_bytes(data)
    os.chmod(tmp_path / "site.key", 0o600)
    with pytest.raises(ConfigurationError, match="cannot be read as a key"):
        SiteKey.load(tmp_path / "site.key")


def test_a_file_that_is_too_long_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 5000)
    for name in ("long", "none"):
        with pytest.raises(ConfigurationError, match="the file of a key"):
            SiteKey.load(tmp_path / name)
