"""FedAvg and FedProx: what they train, what it costs, and releases that hold a network alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from private_distdd import Privacy, Release
from private_distdd.baselines import FedAvg, FedProx
from private_distdd.cli.main import main
from private_distdd.data.dataset import ImageDataset
from private_distdd.encoding import sha256
from private_distdd.errors import ConfigurationError, NotPrivateWarning, ReleaseError
from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.events import SampledGaussian
from private_distdd.release.folder import MANIFEST, contents_of, manifest_of
from private_distdd.release.release import verify_folder
from private_distdd.site.client import Client
from private_distdd.synthetic.dataset import SyntheticDataset

MakeImages = Callable[..., ImageDataset]
SMALL = {"rounds": 3, "model": "mlp", "model_args": {"width": 8, "depth": 1}, "local_steps": 2}
PRIVATE = Privacy(noise_multiplier=2.0, sample_rate=0.5, divisor=5.0)


def open_run(method: FedAvg, clients: list[Client]) -> Release:
    with pytest.warns(NotPrivateWarning):
        return method.fit(clients)


def weights(release: Release) -> torch.Tensor:
    assert release.teacher is not None
    return torch.cat([tensor.flatten() for tensor in release.teacher.state.values()])


def test_of_one_client_with_full_batches_it_is_gradient_descent(make_images: MakeImages) -> None:
    data = make_images(30)
    method = FedAvg(**SMALL, batch_size=30, learning_rate=0.2, seed=4)
    release = open_run(method, [Client("a", data)])
    network = method.spec.build(data.info.shape, data.info.num_classes)
    network.load_state_dict(method.first(data.info))
    optimizer = torch.optim.SGD(network.parameters(), 0.2)
    for _ in range(3 * 2):
        optimizer.zero_grad()
        F.cross_entropy(network(data.images), data.labels).backward()
        optimizer.step()
    expected = torch.cat([tensor.flatten() for tensor in network.state_dict().values()])
    assert torch.allclose(weights(release), expected, atol=1e-4)


def test_clients_weigh_by_their_examples(make_images: MakeImages) -> None:
    """One step of full batches: however the examples are split, it is the step on all of them."""
    data = make_images(30)
    one_step = SMALL | {"rounds": 1, "local_steps": 1, "batch_size": 30}

    def split(*sizes: int) -> list[Client]:
        parts = zip(torch.split(data.images, sizes), torch.split(data.labels, sizes), strict=True)
        return [Client(f"c{i}", ImageDataset(*part, data.info)) for i, part in enumerate(parts)]

    whole = weights(open_run(FedAvg(**one_step), split(30)))
    for sizes in ((15, 15), (27, 3)):
        assert torch.allclose(weights(open_run(FedAvg(**one_step), split(*sizes))), whole, atol=1e-5)
    median = weights(open_run(FedAvg(**one_step, aggregator="median"), split(20, 5, 5)))
    assert not torch.allclose(median, whole, atol=1e-4)


def test_the_proximal_term_keeps_clients_near(make_images: MakeImages) -> None:
    clients = [Client("a", make_images(30))]
    near = open_run(FedProx(**SMALL | {"rounds": 1, "local_steps": 50}, proximal=5.0), clients)
    far = open_run(FedAvg(**SMALL | {"rounds": 1, "local_steps": 50}), [Client("a", make_images(30))])
    start = torch.cat([tensor.flatten() for tensor in FedAvg(**SMALL).first(make_images(0).info).values()])
    assert float((weights(near) - start).norm()) < 0.7 * float((weights(far) - start).norm())
    assert FedProx().proximal > 0 == FedAvg().proximal


def test_every_local_step_of_every_round_is_charged(make_images: MakeImages) -> None:
    clients = [Client(f"c{i}", make_images(9, seed=i)) for i in range(2)]
    release = FedAvg(**SMALL, privacy=PRIVATE).fit(clients)
    release.verify()
    for client in clients:
        assert sum(event.count for event in client.ledger.events) == 3 * 2
        assert release.epsilon[client.client_id] == best_epsilon([SampledGaussian(2.0, 0.5, 6)], 1e-5)
        assert release.epsilon[client.client_id] > best_epsilon([SampledGaussian(2.0, 0.5, 3)], 1e-5)


def test_what_contradicts_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="batch_size = 8 with privacy"):
        FedAvg(batch_size=8, privacy=PRIVATE)
    with pytest.raises(ConfigurationError, match="at most 1 / rate"):
        FedProx(proximal=20.0, learning_rate=0.1)
    for participation in (0, 1.1, math.nan):
        with pytest.raises(ConfigurationError, match="participation"):
            FedAvg(participation=participation)


def test_a_step_beyond_all_numbers_leaves_the_network_as_it_was(
    make_images: MakeImages, caplog: pytest.LogCaptureFixture
) -> None:
    def huge(messages: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        return torch.full_like(messages[0], 1e38)

    method = FedAvg(**SMALL, learning_rate=100.0, aggregator=huge, privacy=PRIVATE)
    release = method.fit([Client("a", make_images(9))])
    assert "beyond all numbers" in caplog.text
    release.verify()
    first = torch.cat([tensor.flatten() for tensor in method.first(make_images(0).info).values()])
    assert torch.equal(weights(release), first)


@pytest.fixture
def release(make_images: MakeImages) -> Release:
    return FedAvg(**SMALL, privacy=PRIVATE).fit([Client(f"c{i}", make_images(9, seed=i)) for i in range(2)])


def test_its_release_holds_a_network_and_no_s(release: Release, tmp_path: Path) -> None:
    folder = release.save(tmp_path / "release")
    assert {path.name for path in folder.iterdir()} == {
        "card.json",
        "card.html",
        "ledgers",
        "manifest.json",
        "teacher.safetensors",
    }
    loaded = Release.load(folder)
    loaded.verify()
    assert torch.equal(weights(loaded), weights(release))
    with pytest.raises(ReleaseError, match="Take `teacher`"):
        _ = loaded.dataset
    page = (folder / "card.html").read_text(encoding="utf-8")
    assert "Privacy card of a trained network" in page
    assert "synthetic set" not in page


def test_what_such_a_release_cannot_be_is_found(release: Release, make_images: MakeImages) -> None:
    card, ledgers = dict(release.card), release.ledgers

    def failures(
        changed: dict[str, object] | None = None, s: SyntheticDataset | None = None, bare: bool = False
    ) -> list[str]:
        return Release(s, card | (changed or {}), ledgers, teacher=None if bare else release.teacher).failures()

    assert failures() == []
    assert any("ipc" in line for line in failures({"ipc": 1}))
    assert any("soft_labels" in line for line in failures({"soft_labels": True}))
    assert any("neither S nor a network" in line for line in failures(bare=True))
    data = make_images(3)
    s = SyntheticDataset(data.images, data.labels, data.info)
    assert any("ipc is None" in line for line in failures(s=s))
    settings = json.loads(json.dumps(card["method"]))
    settings["settings"]["batch_size"] = 4
    assert any("batch_size is 4" in line for line in failures({"method": settings}))


@pytest.mark.parametrize(
    ("gone", "come", "text"),
    [
        ("teacher.safetensors", None, "teacher.safetensors is not listed"),
        (None, "preview.png", "synthetic.safetensors is not listed"),
        (None, "synthetic.safetensors", "preview.png is not listed"),
    ],
)
def test_files_that_are_no_whole_release_are_found_whatever_the_manifest_says(
    release: Release, tmp_path: Path, gone: str | None, come: str | None, text: str
) -> None:
    folder = release.save(tmp_path / "release")
    if gone is not None:
        (folder / gone).unlink()
    if come is not None:
        (folder / come).write_bytes(b"")
    contents = contents_of(folder)
    (folder / MANIFEST).write_bytes(manifest_of({name: sha256(data) for name, data in contents.items()}))
    assert text in verify_folder(folder)


def test_the_command_line_trains_and_tests_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--rounds", "2", "--num-clients", "2", "--model", "mlp", "--set", "local_steps=2"]
    private = ["--target-epsilon", "8", "--sample-rate", "0.2", "--divisor", "140"]
    assert main(["distill", "--method", "fedavg", *small, *private, "--output", "out"]) == 0
    assert "a mlp" in capsys.readouterr().out
    assert main(["verify", "out"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "out"]) == 0
    assert "the release's classifier, mlp" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["distill", "--method", "fedavg", "--ipc", "3"])
