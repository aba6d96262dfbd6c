"""Trained networks as files: every bit of the weights, the same logits, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ModelError
from private_distdd.networks import trained
from private_distdd.networks.register import FACTORIES, register_model
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.trained import FORMAT, TrainedNetwork

INFO = DatasetInfo("pets", 3, (2, 8, 8), (0.1, 1 / 3), (0.5,))
SPEC = ModelSpec("convnet", {"width": 4, "depth": 1})
SPECS = [SPEC, ModelSpec("mlp", {"width": 5}), ModelSpec("resnet", {"width": 8})]


def make(spec: ModelSpec = SPEC) -> TrainedNetwork:
    return TrainedNetwork(spec, spec.build(INFO.shape, 3, seed=1).state_dict(), INFO)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_file_keeps_every_bit(tmp_path: Path, spec: ModelSpec) -> None:
    network = spec.build(INFO.shape, 3, seed=1)
    with torch.no_grad():
        next(network.parameters()).view(-1)[:3] = torch.tensor([1e-45, -0.0, 3e38])
    made = TrainedNetwork(spec, network.state_dict(), INFO)
    made.save(tmp_path / "a")
    loaded = TrainedNetwork.load(tmp_path / "a")
    assert (loaded.spec, loaded.info) == (spec, INFO)
    assert list(loaded.state) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state[name].view(torch.int32), tensor.view(torch.int32))
    loaded.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_is_built_computes_the_same_and_touches_nothing() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    network = SPEC.build(INFO.shape, 3, seed=1).eval()
    built = TrainedNetwork(SPEC, network.state_dict(), INFO).build()
    examples = torch.randn((4, *INFO.shape), generator=torch.Generator().manual_seed(0))
    assert torch.equal(built(examples), network(examples))
    assert not built.training
    assert torch.equal(torch.get_rng_state(), state)


def test_it_holds_copies() -> None:
    network = SPEC.build(INFO.shape, 3, seed=1)
    made = TrainedNetwork(SPEC, network.state_dict(), INFO)
    before = {name: tensor.clone() for name, tensor in made.state.items()}
    with torch.no_grad():
        for parameter in (*network.parameters(), *made.build().parameters()):
            parameter.add_(1)
    assert all(torch.equal(made.state[name], before[name]) for name in before)
    with pytest.raises(AttributeError):
        made.spec = ModelSpec("mlp")  # type: ignore[misc]


STATE = dict(make().state)
FIRST = "0.weight"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (STATE | {"more": torch.zeros(1)}, r"differs from convnet's in \['more'\]"),
        ({name: tensor for name, tensor in STATE.items() if name != FIRST}, r"\['0.weight'\]"),
        (
            STATE | {FIRST: torch.zeros(4, 2, 3, 4)},
            r"\[4, 2, 3, 4\]; allowed: torch.float32 \[4, 2, 3, 3\]",
        ),
        (STATE | {FIRST: torch.zeros(4, 2, 3, 3, dtype=torch.float64)}, "float64"),
        (STATE | {FIRST: torch.full((4, 2, 3, 3), float("nan"))}, "0.weight has a NaN or infinite weight"),
        (STATE | {FIRST: torch.full((4, 2, 3, 3), float("inf"))}, "infinite weight"),
        (STATE | {FIRST: [1.0]}, "not tensors by name"),
        ({}, "differs from"),
        (None, "not tensors by name"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        TrainedNetwork(SPEC, state, INFO)


def test_the_kind_of_examples_belongs_to_it() -> None:
    state = make().state
    for other in (DatasetInfo("pets", 4, (2, 8, 8)), DatasetInfo("pets", 3, (3, 8, 8)), DatasetInfo("pets", 3, (8,))):
        with pytest.raises(ModelError):
            TrainedNetwork(SPEC, state, other)
    with pytest.raises(ModelError, match="registered name"):
        TrainedNetwork(ModelSpec("vgg"), state, INFO)


def test_large_networks_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make().save(tmp_path / "n")
    size = sum(tensor.numel() * 4 for tensor in make().state.values())
    monkeypatch.setattr(trained, "TRAINED_BYTES", size)
    make()
    monkeypatch.setattr(trained, "TRAINED_BYTES", size - 1)
    with pytest.raises(ModelError, match=f"weights of {size} bytes; allowed: at most {size - 1}"):
        make()
    monkeypatch.setattr(trained, "HEADER_BYTES", 0)
    with pytest.raises(ModelError, match=f"longer than {size - 1} bytes"):
        TrainedNetwork.load(tmp_path / "n")


HEADER = {"format": FORMAT, "spec": SPEC.to_json(), "info": INFO.to_json()}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"format": "private_distdd.network/2"}, "allowed: format 'private_distdd.network/1'"),
        ({"format": [FORMAT]}, "allowed: format"),
        ({"more": 1}, "allowed: format"),
        ({"spec": None}, "model record"),
        ({"spec": {"name": "vgg", "arguments": {}}}, "registered name"),
        ({"spec": {"name": "convnet", "arguments": {"width": 5, "depth": 1}}}, "allowed: torch.float32"),
        ({"spec": {"name": "convnet", "arguments": {"width": 1 << 14, "depth": 1}}}, "allowed: torch.float32"),
        ({"spec": {"name": "mlp", "arguments": {"width": 1 << 14, "depth": 64}}}, "differs from mlp's"),  # 67 GB
        ({"spec": {"name": "convnet", "arguments": {"width": 1 << 20}}}, "width"),
        ({"info": {}}, "data set info"),
        ({"info": INFO.to_json() | {"num_classes": 4}}, "allowed: torch.float32"),
        ({"info": INFO.to_json() | {"num_classes": 1 << 16, "image_shape": [2, 2048, 2048]}}, "allowed: torch.float32"),
    ],
)
def test_doctored_headers_are_refused_and_nothing_is_built(tmp_path: Path, header: dict[str, Any], says: str) -> None:
    path = tmp_path / "n"
    make().save(path)
    save_file(load_file(path), path, {"json": json.dumps(HEADER | header)})
    with pytest.raises(ModelError, match=says):
        TrainedNetwork.load(path)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "n"
    with pytest.raises(ModelError, match="No such file"):
        TrainedNetwork.load(path)
    make().save(path)
    whole = path.read_bytes()
    for content in (b"", b"hello, world", whole[:-1], whole + b"x", b"\xff" * 16):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="readable safetensors"):
            TrainedNetwork.load(path)
    for metadata in (None, {"json": "[]"}, {"json": "{"}, {"json": "{}"}):
        save_file(dict(make().state), path, metadata)
        with pytest.raises(ModelError, match="allowed"):
            TrainedNetwork.load(path)


def test_a_network_of_ones_own_that_looks_at_its_weights(tmp_path: Path) -> None:
    @register_model("peeking")
    def peeking(shape: tuple[int, ...], num_classes: int) -> nn.Module:
        network = nn.Sequential(nn.Flatten(), nn.Linear(128, num_classes))
        assert network[1].weight.detach().abs().max().item() > 0  # no storage, no number
        return network

    try:
        spec = ModelSpec("peeking")
        made = TrainedNetwork(spec, spec.build(INFO.shape, 3, seed=0).state_dict(), INFO)
        made.save(tmp_path / "n")
        assert TrainedNetwork.load(tmp_path / "n").build()(torch.zeros(1, *INFO.shape)).shape == (1, 3)
    finally:
        del FACTORIES["peeking"]
    with pytest.raises(ModelError, match="registered name"):  # whoever receives it has to register it, too
        TrainedNetwork.load(tmp_path / "n")
