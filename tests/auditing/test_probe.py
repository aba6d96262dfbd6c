"""A new question says itself how it is audited: it is probed, checked and attacked without an edit in auditing/."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from private_distdd.auditing import suite
from private_distdd.auditing.attacks.canary import canary_client
from private_distdd.auditing.checks.coins import client_coin_check
from private_distdd.auditing.checks.leaks import client_check
from private_distdd.auditing.checks.noise import client_noise_check
from private_distdd.auditing.checks.observed import observed_check
from private_distdd.auditing.checks.replay import replay_client
from private_distdd.auditing.checks.rows import micro_batch_check
from private_distdd.auditing.mutants.mutants import MUTANTS
from private_distdd.auditing.probe import Probe, attacks_of, every_question, usual_probe
from private_distdd.auditing.setting import Setting
from private_distdd.auditing.stand_ins import digits_like
from private_distdd.auditing.target import Target
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError
from private_distdd.limits import Cost
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.questions import register
from private_distdd.questions.question import MeasuredOnce

INFO = DatasetInfo("noise", 10, (1, 8, 8), (0.5,), (0.5,))
SETTING = Setting()


class WeightedPixels(MeasuredOnce):
    """Pixels, each times a weight of the query's, and half of each again: summed by class."""

    attacks = frozenset({"membership"})

    def __init__(
        self, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor], info: DatasetInfo, device: str
    ) -> None:
        self._weights, self._info = tensors["weights"], info
        self.num_groups, self.dimension = info.num_classes, 2 * math.prod(info.shape)

    @staticmethod
    def cost(arguments: Mapping[str, Any], info: DatasetInfo) -> Cost:
        return Cost(1 << 20, 0)

    @staticmethod
    def examples(info: DatasetInfo, width: int) -> Mapping[str, tuple[Mapping[str, Any], Mapping[str, Tensor]]]:
        size = math.prod(info.shape)
        return {
            "weighted pixels": ({}, {"weights": torch.linspace(0.5, 1.5, size)}),
            "equal pixels": ({}, {"weights": torch.ones(size)}),
        }

    @staticmethod
    def blocks(arguments: Mapping[str, Any], info: DatasetInfo) -> Mapping[str, int]:
        return {"pixels": math.prod(info.shape), "halves": math.prod(info.shape)}

    def public(self) -> WeightedPixels:
        return WeightedPixels({}, {"weights": torch.ones_like(self._weights)}, self._info, "cpu")

    def rows(self, images: Tensor, labels: Tensor) -> Tensor:
        weighted = images.flatten(1) * self._weights
        return torch.cat([weighted, weighted / 2], dim=1)

    def groups(self, labels: Tensor) -> Tensor:
        return labels

    def plain(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


Registers = Callable[[str, type[Any]], None]


@pytest.fixture
def registers(monkeypatch: pytest.MonkeyPatch) -> Registers:
    def one(name: str, made: type[Any]) -> None:
        for known in (register.QUESTIONS, register.PRIVATE_QUESTIONS):
            monkeypatch.setitem(known, name, made)

    return one


@pytest.fixture
def pixels(registers: Registers) -> Probe:
    registers("weighted_pixels", WeightedPixels)
    return usual_probe("weighted_pixels", INFO)


@pytest.fixture
def background() -> ImageDataset:
    images = torch.randn((6, *INFO.shape), generator=torch.Generator().manual_seed(3))
    return ImageDataset(images, 1 + torch.arange(6), INFO)


CANARY = torch.linspace(-1, 1, 64).reshape(1, 8, 8), 0


def test_a_new_question_is_probed(pixels: Probe) -> None:
    forms = {name: probe for name, probe in every_question(INFO).items() if probe.question == "weighted_pixels"}
    assert list(forms) == ["weighted pixels", "equal pixels"]
    assert torch.equal(pixels.tensors["weights"], forms["weighted pixels"].tensors["weights"])  # the first is usual
    assert pixels.blocks(INFO) == {"pixels": slice(0, 64), "halves": slice(64, 128)}
    assert pixels.shape(INFO) == (10, 128)
    assert set(pixels.hostile()) == {"honest", "huge", "NaN"}
    assert attacks_of("weighted_pixels") == {"membership"}
    row, group = pixels.row(*CANARY, INFO)
    assert group == 0
    assert torch.equal(row[64:], row[:64] / 2)


def test_a_new_question_is_checked(pixels: Probe, background: ImageDataset) -> None:
    for record in (
        micro_batch_check(),
        client_check(background, pixels),
        replay_client(background, CANARY, pixels),
        client_noise_check(SETTING, info=INFO, width=8),
        client_coin_check(Setting(sample_rate=0.3)),
        observed_check(),
        canary_client(background, CANARY, pixels, SETTING, 60),
    ):
        assert not record.findings, record.audit
        assert not record.rejected, record.audit


@pytest.mark.parametrize(
    ("fault", "gate", "says"),
    [
        ("micro-batches that are not padded", micro_batch_check, "weighted pixels: micro-batches of several sizes"),
        ("an empty batch computes nothing", micro_batch_check, "weighted pixels: an empty batch computes nothing"),
        (
            "round 1 of a client takes everybody",
            lambda make: client_coin_check(Setting(sample_rate=0.3), make=make),
            "equal pixels: round 0",
        ),
    ],
)
@pytest.mark.usefixtures("pixels")
def test_clients_that_answer_a_new_question_wrongly_are_found(fault: str, gate: Callable[..., Any], says: str) -> None:
    (mutant,) = [one for one in MUTANTS if one.name == fault]
    assert any(says in line for line in gate(mutant.client).findings)


def test_rows_that_know_one_another_are_found(registers: Registers, background: ImageDataset) -> None:
    class Centred(WeightedPixels):
        def rows(self, images: Tensor, labels: Tensor) -> Tensor:
            rows = super().rows(images, labels)
            return rows - rows.mean(dim=0)

        def public(self) -> Centred:
            return self

    registers("centred_pixels", Centred)
    # The client itself refuses it: what a query's rows do is tried on public images first.
    with pytest.raises(ModelError, match="depend on its place"):
        replay_client(background, CANARY, usual_probe("centred_pixels", INFO))


def test_a_target_asks_its_methods_question_and_is_attacked_as_it_says(pixels: Probe) -> None:
    plan = PrivacyPlan(1.5, 1.0, 2.0, 3.0, 3, 1e-5)
    target = Target("pixels", None, plan, INFO, "weighted_pixels")
    assert target.question.question == "weighted_pixels"
    assert target.attacks == {"membership"}
    assert suite.invert(target) == []
    embedded = Target("embeddings", None, plan, INFO, "class_embeddings")
    assert embedded.attacks == frozenset()
    (gate,) = suite._memberships(embedded, Setting(1.5), 40, 0)
    left_out = gate()
    assert "membership_gradient was left out" in left_out.statistic
    assert "class_embeddings" in left_out.assumptions
    assert not left_out.rejected
    assert Target("a plan", None, plan, INFO).attacks == {"membership", "inversion"}


def test_questions_that_do_not_say_how_they_are_audited_are_named(registers: Registers) -> None:
    class Silent:
        pass

    class Twin(WeightedPixels):
        pass

    class Formless(WeightedPixels):
        attacks = frozenset()

        @staticmethod
        def examples(info: DatasetInfo, width: int) -> Mapping[str, tuple[Mapping[str, Any], Mapping[str, Tensor]]]:
            return {}

    with pytest.raises(ConfigurationError, match="class_dreams"):
        usual_probe("class_dreams", INFO)
    registers("silent", Silent)
    with pytest.raises(ConfigurationError, match="'silent', which does not say how it is audited"):
        every_question(INFO)
    registers("silent", Formless)
    registers("formless", Formless)
    assert attacks_of("formless") == frozenset()
    with pytest.raises(ConfigurationError, match="no example"):
        usual_probe("formless", INFO)
    registers("pixels", WeightedPixels)
    registers("pixels_again", Twin)
    with pytest.raises(ConfigurationError, match="'weighted pixels' of two questions"):
        every_question(INFO)


def test_a_table_is_audited_and_pictures_of_it_are_left_out_with_a_reason() -> None:
    info = DatasetInfo("wine", 3, (13,))
    stand_in = digits_like(info)
    assert stand_in.images.shape[1:] == stand_in.info.shape == (64,)
    assert set(stand_in.labels.tolist()) == {0, 1, 2}
    for asks in ("class_gradients", "class_embeddings"):
        probe = usual_probe(asks, info)
        assert probe.shape(info)[1] == list(probe.blocks(info).values())[-1].stop
    target = Target("wine", None, PrivacyPlan(1.5, 1.0, 2.0, 3.0, 3, 1e-5), info)
    assert suite.invert(target) == []
    assert "rows of a table" in suite._unfit(target, "inversion")
    bare, claimed = (gate() for gate in suite._memberships(target, Setting(1.5, 1.0, 2.0, 3.0), 60, 0))
    assert bare.figures["AUC"] > 0.7  # 0.5 is guessing: without privacy the attack works on tables too
    assert not claimed.rejected
