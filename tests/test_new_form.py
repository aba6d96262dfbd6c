"""A form that the library does not know, registered by this test alone, goes all the way to a verified release."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from private_distdd import CollabDM, DatasetInfo, DistDD, Privacy, Release, dirichlet_split, evaluate, from_torch
from private_distdd.data import form as form_module
from private_distdd.data.form import Form, form_of, register_form
from private_distdd.errors import DataError, ModelError


@dataclass(frozen=True)
class SignalForm(Form):
    """(sensors, moments): a constant for each sensor."""

    name: ClassVar[str] = "signal"
    rank: ClassVar[int] = 2
    layout: ClassVar[str] = "(sensors, moments)"
    key: ClassVar[str] = "shape"
    one: ClassVar[str] = "signal"
    many: ClassVar[str] = "signals"
    value: ClassVar[str] = "value"
    spatial: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float] | None] = None
    usual_mean: ClassVar[float] = 0.0
    usual_std: ClassVar[float] = 1.0

    def _check_size(self) -> None:
        if self.shape[0] > 8:
            raise DataError(f"shape = {self.shape}", "at most 8 sensors", "Leave some out.")

    @property
    def lanes(self) -> int:
        return self.shape[0]

    @property
    def words(self) -> str:
        return f"{self.shape[0]} sensors at {self.shape[1]} moments"

    def spread(self, constants: Sequence[float]) -> Tensor:
        return torch.tensor(constants)[:, None]

    def augment(self, examples: Tensor, lowest: Tensor | None, generator: torch.Generator) -> Tensor:
        return examples.roll(int(torch.randint(self.shape[1], (1,), generator=generator)), dims=-1)

    def picture(
        self, examples: Tensor, num_classes: int, denormalise: Callable[[Tensor], Tensor]
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        grey = (examples.flatten(1).clamp(-2, 2) * 50 + 128).to(torch.uint8)
        return grey[:, :, None].expand(-1, -1, 3).contiguous().numpy()


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form_module, "_FORMS", dict(form_module._FORMS))
    register_form(SignalForm)


@pytest.mark.parametrize("method", [DistDD, CollabDM])
def test_a_new_form_is_one_class_and_one_registration(method: type[DistDD | CollabDM], tmp_path: Path) -> None:
    labels = torch.arange(60) % 2
    signals = torch.randn((60, 2, 6), generator=torch.Generator().manual_seed(0)) + 3 * labels[:, None, None] + 7
    data = from_torch(TensorDataset(signals, labels), num_classes=2, name="pulse", mean=[8, 9], std=2)
    info = data.info
    assert form_of((2, 6)) == info.form == SignalForm((2, 6))
    assert torch.allclose(data.images[:, 1], (signals[:, 1] - 9) / 2)
    assert DatasetInfo.from_json(info.to_json()) == info
    rounds = {"embedding_rounds": 1, "teacher_rounds": 1, "teacher": "mlp", "refinement_rounds": 1}
    options = {"rounds": 2} if method is DistDD else {"networks": 4, "frequencies": 16, **rounds}
    run = method(ipc=2, matching_steps=30, model="mlp", privacy=Privacy(target_epsilon=8.0, delta=1e-5), **options)
    release = run.fit(dirichlet_split(data, 2))
    release.save(tmp_path / "run")
    loaded = Release.load(tmp_path / "run")
    loaded.verify()
    assert torch.equal(loaded.dataset.images, release.dataset.images)
    assert loaded.dataset.info == info
    assert "2 sensors at 6 moments" in (tmp_path / "run" / "card.html").read_text()
    assert evaluate(loaded.dataset, data, model="mlp", augment=True, seeds=[0], epochs=50).mean > 0.6
    with pytest.raises(ModelError, match="'convnet' for signals of 2 sensors at 6 moments"):
        evaluate(loaded.dataset, data)
