"""Each table and figure as sweeps: one for each of its lines, over the knob that it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from examples.paper.sizes import Size

Config = dict[str, Any]
FLAT = 100.0  # Dirichlet's alpha where the paper says nothing of skew: nearly even


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Args:
        title: what the paper calls it, and what it shows.
        knob: "section.name" of what is varied; "" in a table.
        axis: what the picture says below it.
        lines: a sweep for each label; one that does not vary the knob is drawn as a level.
        logarithmic: are decades of the knob equally long?
    """

    title: str
    knob: str
    axis: str
    lines: Mapping[str, Config]
    logarithmic: bool = field(default=False, kw_only=True)


def experiments(size: Size) -> dict[str, Experiment]:
    """All of them, by the name that the command line takes."""
    (data, *_) = size.datasets.values()

    def config(method: Mapping[str, Any], split: Mapping[str, Any] | None = None, **sections: Any) -> Config:
        return {
            "data": dict(data),
            "split": {"num_clients": size.clients_of_figures, "alpha": FLAT, "min_size": 0} | dict(split or {}),
            "method": dict(method),
            "evaluation": {"on": "test"} | dict(size.evaluation),
            "seeds": size.seeds,
            **sections,
        }

    def distdd(**knobs: Any) -> Config:
        return {
            "name": "distdd",
            "ipc": size.ipc_of_figures,
            "participation": size.participation,
            "parametrisation": "pixels",  # as in the paper, with privacy too
            **size.distdd,
        } | knobs

    fedavg = {"name": "fedavg", "participation": size.participation, **size.fedavg}
    whole = {"name": "fedavg", **size.central}  # of one client: training in one place
    centre, each = {"num_clients": 1}, {"alone": True}
    alone = distdd(participation=1.0)  # gradient matching in one place, or by each client itself
    skews = {"alpha": size.alphas}

    table: dict[str, Config] = {}
    for name, section in size.datasets.items():
        federated = {"num_clients": size.clients, **skews}
        rows = {
            "Whole Dataset": config(whole, centre),
            f"GM (IPC={size.ipc[-1]})": config(alone | {"ipc": size.ipc[-1]}, centre),
            "FedAvg": config(fedavg, federated),
            "FedProx": config(fedavg | {"name": "fedprox"}, federated),
            **{f"DistDD (IPC={ipc})": config(distdd(ipc=ipc), federated) for ipc in size.ipc},
        }
        table |= {f"{row} on {name}": each_row | {"data": dict(section)} for row, each_row in rows.items()}

    wrong = {"mislabel": {"fraction": size.shares}}
    noisy = {"privacy": {"noise_multiplier": size.sigmas, "delta": 1e-5}}
    return {
        "table1": Experiment("Table 1: DistDD beside training in one place, FedAvg and FedProx", "", "", table),
        "fig2": Experiment(
            "Fig. 2: clients whose labels are wrong, all in the same way",
            "mislabel.fraction",
            "share of the clients whose labels are wrong",
            {
                "DistDD, mean": config(distdd(), **wrong),
                "DistDD, median": config(distdd(aggregator="median"), **wrong),
                "DistDD, geometric median": config(distdd(aggregator="geometric_median"), **wrong),
                "FedAvg": config(fedavg, **wrong),
                "local matching": config(alone, each, **wrong),
            },
        ),
        "fig3": Experiment(
            "Fig. 3: skew",
            "split.alpha",
            "Dirichlet's alpha: less is more skewed",
            {
                "gradient matching in one place": config(alone, centre),
                "DistDD": config(distdd(), skews),
                "local matching": config(alone, skews | each),
                "FedAvg": config(fedavg, skews),
            },
            logarithmic=True,
        ),
        "fig6": Experiment(
            "Figs 6 and 10: rounds",
            "method.rounds",
            "rounds",
            {
                "DistDD, all clients": config(distdd(rounds=size.rounds, participation=1.0)),
                "DistDD, half of the clients": config(distdd(rounds=size.rounds, participation=0.5)),
            },
        ),
        "fig7": Experiment(
            "Figs 7 and 11: participation",
            "method.participation",
            "share of the clients asked in a round",
            {
                "DistDD": config(distdd(participation=size.participations), {"alpha": 1.0}),
                "local matching": config(alone, {"alpha": 1.0, **each}),
            },
        ),
        "fig12": Experiment(
            "Fig. 12: number of clients",
            "split.num_clients",
            "clients that share the same data",
            {
                "DistDD, all clients": config(distdd(participation=1.0), {"num_clients": size.client_numbers}),
                "DistDD, half of the clients": config(distdd(participation=0.5), {"num_clients": size.client_numbers}),
                "local matching": config(alone, {"num_clients": size.client_numbers, **each}),
            },
        ),
        "fig13": Experiment(
            "Fig. 13: images a class",
            "method.ipc",
            "images a class",
            {
                "DistDD": config(distdd(ipc=size.ipcs)),
                "local matching": config(alone | {"ipc": size.ipcs}, each),
            },
        ),
        "fig14": Experiment(
            "Fig. 14: noise, and what it costs",
            "privacy.noise_multiplier",
            "noise multiplier, and below it the epsilon of each client",
            {"DistDD with noise": config(distdd(), **noisy), "DistDD without": config(distdd())},
            logarithmic=True,
        ),
    }
