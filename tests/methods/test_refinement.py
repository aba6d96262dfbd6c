"""Rounds of refinement: networks that a first S trained, as public as S is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from phases import INFO, NOISY, QUIET, MakeImages, Phases, Wire, kept, members, opinion, run
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.methods import collabdm_course
from private_distdd.methods.refinement import trained_states
from private_distdd.networks.embedding import Embedding, EmbeddingSpec
from private_distdd.networks.spec import ModelSpec
from private_distdd.questions.arguments import weights_of
from private_distdd.questions.class_embeddings import ClassEmbeddings
from private_distdd.site.client import Client
from private_distdd.synthetic.dataset import SyntheticDataset

SPEC = EmbeddingSpec(ModelSpec("mlp", {"width": 8, "depth": 1}), (5, 6), 2, 0.5, 4, True)


def small_s(soft: bool = False, ipc: int = 25) -> SyntheticDataset:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat_interleave(ipc)
    images = (torch.randn((3 * ipc, *INFO.shape), generator=generator) / 3 + labels[:, None, None, None] - 1).clamp(
        -1, 1
    )
    opinion = torch.randn((3 * ipc * 4, 3), generator=generator).softmax(dim=1) if soft else None
    return SyntheticDataset(images, labels, INFO, 2, opinion)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train(dataset: SyntheticDataset, spec: EmbeddingSpec = SPEC, seed: int = 7) -> list[dict[str, Tensor]]:
    return trained_states(spec, dataset, epochs=3, seed=seed, device="cpu")


# The networks


def test_same_s_and_seeds_give_the_same_weights() -> None:
    first = train(small_s())
    torch.manual_seed(99)  # the global generator has no part in it
    assert all(same(a, b) for a, b in zip(first, train(small_s()), strict=True))
    assert not same(first[0], first[1])
    assert not same(first[0], train(small_s(), seed=8)[0])  # another order
    changed = small_s()
    changed.images[0] += 0.1
    assert not same(first[0], train(changed)[0])
    assert not same(first[0], train(small_s(soft=True))[0])
    alone = EmbeddingSpec(SPEC.model, (6,), 2, 0.5, 4, True)
    assert same(train(small_s(), alone)[0], first[1])  # whoever else is trained beside it


@pytest.mark.parametrize("soft", [False, True])
def test_training_by_hand(soft: bool) -> None:
    """SGD on what the network will see of S, against hard labels or a mixture of them with soft ones."""
    dataset = small_s(soft).expanded()
    target = F.one_hot(dataset.labels, 3).float()
    if dataset.soft_labels is not None:
        target = 0.3 * target + 0.7 * dataset.soft_labels
    for seed, state in zip(SPEC.seeds, train(small_s(soft)), strict=True):
        network = SPEC.model.build((1, 4, 4), 3, seed)
        images = Embedding(SPEC, seed, INFO, "cpu").seen(dataset.images)
        assert not torch.allclose(images, F.avg_pool2d(dataset.images, 2), atol=1e-2)  # it is moved, too
        generator, moments = torch.Generator().manual_seed(7), [torch.zeros_like(p) for p in network.parameters()]
        for epoch in range(3):
            order = torch.randperm(300, generator=generator)
            for batch in torch.split(order, 64):
                logits = network(images[batch]).log_softmax(dim=1)
                loss = -(target[batch] * logits).sum(dim=1).mean()
                gradients = torch.autograd.grad(loss, list(network.parameters()))
                with torch.no_grad():
                    for p, g, moment in zip(network.parameters(), gradients, moments, strict=True):
                        moment.mul_(0.9).add_(g + 5e-4 * p)
                        p.sub_((0.01 if epoch < 2 else 0.001) * moment)
        for name, value in network.state_dict().items():
            assert torch.allclose(state[name], value, atol=1e-6)


def test_trained_networks_tell_classes_apart() -> None:
    """Better than random ones do: that is what they are for."""
    dataset = small_s()
    for seed, state in zip(SPEC.seeds, trained_states(SPEC, dataset, epochs=40, seed=0, device="cpu"), strict=True):
        network = SPEC.model.build((1, 4, 4), 3, seed)
        images = Embedding(SPEC, seed, INFO, "cpu").seen(dataset.expanded().images)
        labels = dataset.expanded().labels
        with torch.no_grad():
            before = float(F.cross_entropy(network(images), labels))
            network.load_state_dict(state)
            after = float(F.cross_entropy(network(images), labels))
        assert after < 0.7 * before


def test_rows_of_a_table_train_them_too() -> None:
    info = DatasetInfo("rows", 2, (5,), (0.0,) * 5, (1.0,) * 5)
    rows = torch.randn((8, 5), generator=torch.Generator().manual_seed(0))
    spec = EmbeddingSpec(ModelSpec("mlp", {"width": 8, "depth": 1}), (5,), 1, 0.5, 4, False)
    (state,) = train(SyntheticDataset(rows, torch.arange(2).repeat_interleave(4), info), spec)
    assert not same(state, spec.model.build((5,), 2, 5).state_dict())


# In a run


def test_weights_that_are_sent_were_trained_on_the_first_s_alone(make_images: MakeImages, tmp_path: Path) -> None:
    method, wire = Phases(privacy=NOISY), Wire(members(make_images))
    release = run(method, wire, checkpoint=tmp_path / "run")
    tensors = kept(tmp_path / "run")
    labels = torch.arange(3)
    assert release.teacher is not None
    first = SyntheticDataset(tensors["first"], labels, INFO, 2)
    soft = opinion(release.teacher, first.expanded().images, first.expanded().labels)
    states = trained_states(
        method.embedding(INFO, "refinement"),
        SyntheticDataset(tensors["first"], labels, INFO, 2, soft),
        epochs=3,
        seed=method.public_seed("training"),
        device="cpu",
    )
    for k, t in enumerate((4, 5)):
        query = wire.asked(t)
        own = weights_of(states[k::2])
        assert query.tensors.keys() == own.keys()
        assert all(torch.allclose(query.tensors[name], own[name], atol=1e-6) for name in own)
        assert tuple(query.arguments["seeds"]) == method.embedding(INFO, "refinement").seeds[k::2]
        other = weights_of(states[1 - k :: 2])
        assert not all(torch.allclose(query.tensors[name], other[name], atol=1e-3) for name in own)
    assert {name for name in tensors if name.startswith("networks/")} == {
        f"networks/{name}" for name in weights_of(states)
    }


def test_s_is_matched_with_the_weights_that_were_sent(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    matched: list[tuple[tuple[int, ...], dict[str, Tensor]]] = []

    class Spied(ClassEmbeddings):
        def __init__(self, spec: EmbeddingSpec, info: DatasetInfo, device: str, states: object = None) -> None:
            super().__init__(spec, info, device, states)  # type: ignore[arg-type]
            matched.append((spec.seeds, weights_of(states) if states else {}))  # type: ignore[arg-type]

    monkeypatch.setattr(collabdm_course, "ClassEmbeddings", Spied)
    wire = Wire(members(make_images))
    run(Phases(), wire)
    asked = [wire.asked(t) for t in (0, 1, 0, 1, 4, 5)]  # for the first S, and for the last
    assert [seeds for seeds, _ in matched] == [tuple(query.arguments["seeds"]) for query in asked]
    assert all(same(own, query.tensors) for (_, own), query in zip(matched, asked, strict=True))


def test_the_means_are_those_of_the_trained_networks(make_images: MakeImages, tmp_path: Path) -> None:
    clients, method = members(make_images), Phases(privacy=QUIET, network_epochs=60)
    wire = Wire(clients)
    run(method, wire, checkpoint=tmp_path / "run")
    images, labels = (torch.cat([getattr(client, name) for client in clients]) for name in ("_images", "_labels"))
    for t in (4, 5):
        query = wire.asked(t)
        spec = EmbeddingSpec.from_json(query.arguments)
        states = [{n[2:]: v for n, v in query.tensors.items() if n[0] == str(k)} for k in range(2)]
        expected = ClassEmbeddings(spec, INFO, "cpu", states).class_sums(images, labels, 3).float() / len(clients)
        assert torch.allclose(wire.mean(t), expected, atol=1e-3)
        untrained = ClassEmbeddings(spec, INFO, "cpu").class_sums(images, labels, 3).float() / len(clients)
        assert not torch.allclose(wire.mean(t), untrained, atol=1e-2)


def test_without_rounds_of_refinement_nothing_is_trained(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **named: object) -> None:
        raise AssertionError

    monkeypatch.setattr(collabdm_course, "trained_states", never)
    release = run(Phases(refinement_rounds=0), [Client("c0", make_images(9))])
    assert release.card["progress"]["matching_steps"] == 4


def test_refinement_goes_without_a_teacher(make_images: MakeImages) -> None:
    release = run(Phases(teacher_rounds=0), members(make_images))
    assert release.teacher is None
    assert release.dataset.soft_labels is None
    assert release.card["progress"]["matching_steps"] == 8
