"""A release is saved whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from releases import files_of

import private_distdd.release.release as release_module
from private_distdd.errors import ReleaseError
from private_distdd.release.release import Release


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
