"""From a cell's settings to what is run: each section is the arguments of one function, and is checked against it."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from private_distdd import baselines as _baselines  # noqa: F401 - they register themselves
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.load import load_dataset, require_public_classes
from private_distdd.data.normalised import split_off_test
from private_distdd.errors import ConfigurationError, PrivateDistDDError
from private_distdd.evaluation import Evaluation, evaluate
from private_distdd.experiments.cell import SECTIONS, Cell
from private_distdd.methods import method_named
from private_distdd.methods.method import Method
from private_distdd.networks.device import require_device
from private_distdd.networks.scores import Scores
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.privacy.plan import Privacy
from private_distdd.protocol import scores_of
from private_distdd.simulation.mislabelling import mislabel
from private_distdd.simulation.splits import dirichlet_split, shard_split
from private_distdd.site.client import Client
from private_distdd.synthetic.dataset import SyntheticDataset
from private_distdd.validate import is_whole, require_count, require_flag

HELD_OUT, TEST = "held-out", "test"


@dataclass(frozen=True)
class Built:
    """What one cell is run with.

    Args:
        method: the method.
        federations: of fresh clients, with ledgers of their own: one of all of them, or one of each alone.
        on: which examples are scored: `HELD_OUT` or `TEST`.
        scored: these examples; no client holds one of them.
        networks: fresh networks that are trained on S.
        evaluation: other arguments of `evaluate`.
    """

    method: Method
    federations: list[list[Client]]
    on: str
    scored: ImageDataset
    networks: int
    evaluation: Mapping[str, Any]

    def evaluate(self, dataset: ImageDataset) -> Evaluation:
        """The score of S."""
        return evaluate(dataset, self.scored, seeds=range(self.networks), **self.evaluation)

    def score(self, teacher: TrainedNetwork) -> Scores:
        """How well a release's own classifier does."""
        device = self.evaluation["device"]
        return scores_of(teacher.build().to(device), self.scored, device=device)


def build(cell: Cell) -> Built:
    """Everything that the cell needs, made anew; nothing is asked of a client.

    Raises:
        PrivateDistDDError: a knob is unknown, missing or out of range, or the data cannot be had.
    """
    settings, seed = {name: dict(cell.settings[name]) for name in SECTIONS}, cell.settings["seed"]
    evaluation, split = settings["evaluation"], settings["split"]
    _require("privacy", settings["privacy"], Privacy)
    privacy = Privacy(**settings["privacy"]) if settings["privacy"] else None
    make_method = method_named(str(settings["method"].pop("name", None)))
    _require("method", settings["method"], make_method, others=("privacy", "seed"))
    method: Method = make_method(**settings["method"], privacy=privacy, seed=seed)
    on, networks = evaluation.pop("on", HELD_OUT), evaluation.pop("networks", 3)
    _require("evaluation", evaluation, evaluate, others=("dataset", "test", "seeds"), own=("on", "networks"))
    if on not in (HELD_OUT, TEST):
        raise ConfigurationError(f"evaluation.on = {on!r}", f"{HELD_OUT!r} or {TEST!r}", "Choose one.")
    require_count("evaluation.networks", networks, "3 is usual.")
    data, limit = settings["data"], settings["data"].pop("limit", None)
    _require("data", {"name_or_path": data.pop("dataset", None), **data}, load_dataset, own=("limit",))
    if limit is not None:
        require_count("data.limit", limit, "Leave it out for all of the training set.")
    alone = require_flag("split.alone", split.pop("alone", False))
    train, scored = _data(json.dumps(cell.settings["data"], sort_keys=True), on, privacy is not None)
    make_clients = shard_split if "shards_per_client" in split else dirichlet_split
    _require("split", split, make_clients, others=("dataset", "seed", "make_client"), own=("alone",))
    clients = make_clients(train, **split, seed=seed, make_client=functools.partial(Client, device=method.device))
    if settings["mislabel"]:
        _require("mislabel", settings["mislabel"], mislabel, others=("clients", "seed"))
        clients = mislabel(clients, **settings["mislabel"], seed=seed)
    federations = [[client] for client in clients] if alone else [clients]
    return Built(method, federations, on, scored, networks, {"device": method.device, **evaluation})


def validate(cell: Cell) -> None:
    """Everything that can be known to fail before the first client is asked, fails here.

    Raises:
        ConfigurationError: it does, with the cell's settings.
    """
    try:
        built = build(cell)
        info = built.scored.info
        require_device(built.method.device)
        for clients in built.federations:
            built.method.plan([client.client_id for client in clients])
        built.method.check(info)
        _rehearse(built)
    except PrivateDistDDError as error:
        raise ConfigurationError(f"{error.given}, in the cell {cell}", error.allowed, error.remedy) from error


def _rehearse(built: Built) -> None:
    """The evaluation in a blink: one network, one blank example a class, one epoch."""
    info = built.scored.info
    count = info.num_classes
    blank = SyntheticDataset(
        torch.zeros(count, *info.shape), torch.arange(count), info, soft_labels=torch.full((count, count), 1 / count)
    )
    epochs = built.evaluation.get("epochs", 1)
    evaluate(blank, blank, seeds=[0], **{**built.evaluation, "epochs": min(epochs, 1) if is_whole(epochs) else epochs})


@functools.lru_cache(maxsize=1)  # cells of one data set follow one another
def _data(section: str, on: str, private: bool) -> tuple[ImageDataset, ImageDataset]:
    """(what the clients share, what is scored) of the section "data", as JSON."""
    given = json.loads(section)
    name, limit = given.pop("dataset"), given.pop("limit", None)
    if private:
        named = {"num_classes", "classes"} & set(given)
        require_public_classes(name, bool(named), "add num_classes, or classes for an image folder or a .csv.")
    train, test = load_dataset(name, **given)
    if limit is not None:
        train = _some(train, limit)
    if on == TEST:
        return train, test
    return split_off_test(train.info.denormalise(train.images), train.labels, train.info)


def _some(dataset: ImageDataset, limit: int) -> ImageDataset:
    """So many examples, the same ones for every cell and seed."""
    if limit > len(dataset):
        raise ConfigurationError(f"data.limit = {limit}", f"at most {len(dataset)} examples", "Leave it out.")
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:limit]
    return ImageDataset(dataset.images[chosen], dataset.labels[chosen], dataset.info)


def _require(
    section: str,
    given: Mapping[str, Any],
    call: Callable[..., Any],
    others: Collection[str] = (),
    own: Collection[str] = (),
) -> None:
    """Refuse names that are no arguments of `call`, and the absence of those that it needs.

    Args:
        section: the section's name.
        given: its knobs.
        call: what takes them.
        others: arguments that come from elsewhere.
        own: knobs of the section that are not the function's.
    """
    parameters = {n: p for n, p in inspect.signature(call).parameters.items() if n not in others}
    shown = {"name_or_path": "dataset"}
    for name in given:
        if name not in parameters:
            allowed = sorted({shown.get(known, known) for known in parameters} | set(own))
            raise ConfigurationError(f"{section}.{name}", f"one of {allowed}", "Correct the name.")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and given.get(name) is None:
            missing = shown.get(name, name)
            raise ConfigurationError(f"[{section}] without {missing!r}", "one", f"Add {missing} = ...")
