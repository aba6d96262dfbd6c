"""What a client's memory holds while it computes does not tell how many examples are in the batch (A7)."""

from __future__ import annotations

import gc

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
from private_distdd.site.client import Client
from private_distdd.wire.engine import ASK
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Run

INFO = DatasetInfo("large", 2, (3, 96, 96), (0.5,) * 3, (0.5,) * 3)
SPEC = ModelSpec("mlp", {"width": 1, "depth": 1})  # an image is the largest thing there is
ARGUMENTS = {"model": SPEC.to_json(), "granularity": "class"}
HELD = 130


def live_bytes() -> int:
    """Of all floating-point tensors that anybody can reach, each storage once."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter) and each.is_floating_point()]
    storages = [each.untyped_storage() for each in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("engine", [False, True], ids=["alone", "in process"])
def test_live_bytes_do_not_tell_how_many_coins_are_true(engine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("run-1", INFO, PrivacyPlan(1.0, 0.5, 1.0, 1.0, 9, delta=1e-5))
    own = Client("clinic", ImageDataset(torch.rand((HELD, *INFO.shape)), torch.zeros(HELD, dtype=torch.int64), INFO))
    own.enroll(run)
    state, rows, true = dict(SPEC.build(INFO.shape, INFO.num_classes, seed=0).state_dict()), ClassGradients.rows, 0
    before, meanwhile, handed = list[int](), list[int](), list[int]()

    def coins(_: Stream, size: int, __: float) -> NDArray[np.bool_]:
        return np.arange(size) < true

    def watched(question: ClassGradients, images: Tensor, labels: Tensor) -> Tensor:
        handed.append(int(images.flatten(1).any(dim=1).sum()))
        meanwhile.append(live_bytes())
        return rows(question, images, labels)

    def ask(server_round: int) -> bytes:
        query = Query(run.run_id, server_round, "class_gradients", ARGUMENTS, state, run.plan)
        before.append(live_bytes())
        if engine:
            return Reply.from_bytes(InProcess([own]).exchange(ASK, {"clinic": query.data})["clinic"] or b"").answer
        return own.answer(query).data

    monkeypatch.setattr(Stream, "coins", coins)
    ask(0)  # the checks of the first query are behind us
    monkeypatch.setattr(ClassGradients, "rows", watched)
    before.clear()
    for server_round, number in enumerate((0, 1, 32, 64, 130), start=1):
        true = number
        assert ask(server_round) != Refusal("failed").to_bytes()
    assert handed == [0, 1, 32, 64, 64, 64, 2]
    assert len(set(before)) == 1
    image = torch.zeros(INFO.shape).nbytes
    assert {held - before[0] for held in meanwhile} == {meanwhile[0] - before[0]}
    assert 64 * image <= meanwhile[0] - before[0] < 72 * image  # the micro-batch; noise, sums and network are small
