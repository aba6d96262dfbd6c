"""What a client's memory holds while it computes does not tell how many examples are in the batch (A7)."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.engines.in_process import InProcess
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import Stream
from private_distdd.questions.class_gradients import ClassGradients
from private_distdd.questions.question import OnOutputs
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run

LARGE = DatasetInfo("large", 2, (3, 96, 96), (0.5,) * 3, (0.5,) * 3)
SMALL = DatasetInfo("small", 2, (1, 32, 32), (0.5,), (0.5,))
PIXELS = ModelSpec("mlp", {"width": 1, "depth": 1})  # an image is the largest thing there is
FEATURES = ModelSpec("scatter_linear")  # kept, and handed on in place of images
HELD = 130


def live_bytes() -> int:
    """Of all floating-point tensors that anybody can reach, each storage once."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter) and each.is_floating_point()]
    storages = [each.untyped_storage() for each in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("engine", [False, True], ids=["alone", "in process"])
@pytest.mark.parametrize(
    ("spec", "info", "measured", "values", "most"),
    [(PIXELS, LARGE, ClassGradients, 3 * 96 * 96, 72), (FEATURES, SMALL, OnOutputs, 81 * 8 * 8, 96)],
    ids=["images", "kept features"],
)
def test_live_bytes_do_not_tell_how_many_coins_are_true(
    spec: ModelSpec,
    info: DatasetInfo,
    measured: type[Any],
    values: int,
    most: int,
    engine: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run("run-1", info, PrivacyPlan(1.0, 0.5, 1.0, 1.0, 9, delta=1e-5))
    own = Client("clinic", ImageDataset(torch.rand((HELD, *info.shape)), torch.zeros(HELD, dtype=torch.int64), info))
    own.enroll(run)
    state, rows, true = dict(spec.build(info.shape, info.num_classes, seed=0).state_dict()), measured.rows, 0
    arguments = {"model": spec.to_json(), "granularity": "class"}
    before, meanwhile, handed = list[int](), list[int](), list[int]()

    def coins(_: Stream, size: int, __: float) -> NDArray[np.bool_]:
        return np.arange(size) < true

    def watched(question: Any, images: Tensor, labels: Tensor) -> Tensor:
        handed.append(int(images.flatten(1).any(dim=1).sum()))
        meanwhile.append(live_bytes())
        found: Tensor = rows(question, images, labels)
        return found

    def ask(server_round: int) -> bytes:
        query = Query(run.run_id, server_round, "class_gradients", arguments, state, run.plan)
        before.append(live_bytes())
        if engine:
            return Reply.from_bytes(InProcess([own]).exchange(ASK, {"clinic": query.data})["clinic"] or b"").answer
        return own.answer(query).data

    monkeypatch.setattr(Stream, "coins", coins)
    ask(0)  # the checks of the first query are behind us, and what is kept is there
    monkeypatch.setattr(measured, "rows", watched)
    kept, begun = (values * 4 * HELD if measured is OnOutputs else 0), before.pop()
    for server_round, number in enumerate((0, 1, 32, 64, 130), start=1):
        true = number
        assert ask(server_round) != Refusal("failed").to_bytes()
    assert handed == [0, 1, 32, 64, 64, 64, 2]
    assert len(set(before)) == 1
    assert kept <= before[0] - begun < kept + 64 * 4 * values  # and not a micro-batch of it more
    assert {held - before[0] for held in meanwhile} == {meanwhile[0] - before[0]}
    taken = (meanwhile[0] - before[0]) / (4 * values)  # in examples
    assert 64 <= taken < most  # the micro-batch; noise, sums and network are small
