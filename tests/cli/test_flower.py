"""The Flower app that `private-distdd flower init` writes: between sites, and in Flower's simulation."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("flwr")  # it needs Python 3.11

import tomllib
from flwr.app import Context, RecordDict
from grid import FakeGrid, Node
from small_distdd import charged

from private_distdd.cli import main
from private_distdd.data.dataset import ImageDataset
from private_distdd.engines import flower
from private_distdd.release.release import Release
from private_distdd.site.client import Client
from private_distdd.site.key import SiteKey

pytestmark = pytest.mark.usefixtures("flower_task")


@pytest.fixture
def app(here: Path) -> Path:
    assert main(["flower", "init", "app"]) == 0
    return here / "app"


def config_of(app: Path) -> dict[str, Any]:
    config: dict[str, Any] = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    return config


def module_of(path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def context_of(config: dict[str, Any], **node_config: Any) -> Context:
    return Context(run_id=17, node_id=1, node_config=node_config, state=RecordDict(), run_config=config)


def test_it_is_written_whole_and_never_over_another(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.name for path in app.iterdir()} == {"pyproject.toml", "server_app.py", "client_app.py"}
    components = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]
    for component in components.values():
        module, name = component.split(":")
        assert hasattr(module_of(app / f"{module}.py"), name)
    assert main(["flower", "init", "app"]) == 2
    assert main(["flower", "init", "none/app"]) == 2
    assert main(["flower", "init", 'a"b']) == 2
    assert not (app.parent / 'a"b').exists()
    assert "a new folder" in capsys.readouterr().err


@pytest.mark.parametrize("clients", [2, "c1 c0"])
def test_the_server_runs_what_its_configuration_says(
    app: Path, clients: Any, make_images: Callable[..., ImageDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "POLL", 0.001)
    info = {"name": "tiny", "num_classes": 3, "shape": [1, 8, 8]}
    knobs = {"ipc": 1, "networks": 2, "matching_steps": 2, "model_args": {"width": 4}}
    config = config_of(app) | {
        "clients": clients,
        "info": json.dumps(info),
        "knobs": json.dumps(knobs),
        "patience": 5.0,
    }
    grid = FakeGrid(*[Client(f"c{i}", make_images(6, seed=i)) for i in range(2)])
    module_of(app / "server_app.py").app(grid=grid, context=context_of(config))
    release = Release.load(app / "releases" / "17")
    release.verify()
    assert release.card["method"]["name"] == "CollabDM"
    assert {name: round(epsilon, 3) for name, epsilon in release.epsilon.items()} == {"c0": 1.0, "c1": 1.0}


def test_in_simulation_clients_are_made_from_a_data_set(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the node's state and the ledgers outlives a message: each may come in another process."""
    monkeypatch.setattr(flower, "POLL", 0.001)
    knobs = {"rounds": 2, "ipc": 1, "model": "mlp", "model_args": {"width": 4, "depth": 1}, "matching_steps": 1}
    config = config_of(app) | {"method": "distdd", "knobs": json.dumps(knobs)}
    client_app, grid = module_of(app / "client_app.py").app, FakeGrid()

    def node(number: int) -> Node:
        context = context_of(config, **{"partition-id": number, "num-partitions": 3})
        return Node(fault=lambda _, __, message: client_app(message, context))

    grid.nodes |= {number + 1: node(number) for number in range(3)}
    module_of(app / "server_app.py").app(grid=grid, context=context_of(config))
    release = Release.load(app / "releases" / "17")
    release.verify()
    for name in ("client-00", "client-01", "client-02"):
        assert len(charged((app / "ledgers" / f"{name}.jsonl").read_bytes())) == 2
        assert release.signers({})[name].fingerprint == SiteKey.load(app / "ledgers" / f"{name}.pem").fingerprint
