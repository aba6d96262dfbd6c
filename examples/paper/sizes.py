"""How large the evaluation is run: in minutes on digits, in an evening on two cores, or as the paper has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """What all of its experiments share; where the paper is silent, the choice is ours.

    Args:
        datasets: of Table 1, by the paper's names, as a sweep's section "data"; the figures take the first.
        seeds: of splits, networks and S.
        clients: of Table 1.
        clients_of_figures: of the figures, where nothing else is said.
        alphas: Dirichlet's, of Table 1 and Fig. 3.
        ipc: of Table 1.
        ipc_of_figures: of the figures, and of gradient matching in one place.
        participation: share of clients asked in a round.
        distdd: its other knobs.
        fedavg: those of FedAvg and FedProx.
        central: those of training in one place, which is FedAvg with one client.
        evaluation: of S.
        shares: of mislabelling clients (Fig. 2).
        rounds: Fig. 6.
        participations: Fig. 7.
        client_numbers: Fig. 12.
        ipcs: Fig. 13.
        sigmas: Fig. 14.
    """

    datasets: Mapping[str, Mapping[str, Any]]
    seeds: list[int]
    clients: int
    clients_of_figures: int
    alphas: list[float]
    ipc: list[int]
    ipc_of_figures: int
    participation: float
    distdd: Mapping[str, Any]
    fedavg: Mapping[str, Any]
    central: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    shares: list[float]
    rounds: list[int]
    participations: list[float]
    client_numbers: list[int]
    ipcs: list[int]
    sigmas: list[float]


def quick() -> Size:
    """Minutes on one core: digits, small networks, few rounds."""
    small = {"model_args": {"width": 16}}
    return Size(
        datasets={"digits": {"dataset": "digits"}},
        seeds=[0],
        clients=10,
        clients_of_figures=10,
        alphas=[1.0, 0.1],
        ipc=[1, 5],
        ipc_of_figures=5,
        participation=1.0,
        distdd={"rounds": 10, **small},
        fedavg={"rounds": 10, "local_steps": 5, **small},
        central={"rounds": 10, "local_steps": 10, **small},
        evaluation={"networks": 1, "epochs": 60, **small},
        shares=[0.0, 0.4, 1.0],
        rounds=[2, 8],
        participations=[0.2, 1.0],
        client_numbers=[2, 10],
        ipcs=[1, 5],
        sigmas=[0.01, 1.0, 100.0],
    )


def cores(root: str) -> Size:
    """What two cores do in an evening: MNIST alone, matching and students of width 32, IPC 10, one seed."""
    small = {"model_args": {"width": 32}}
    return Size(
        datasets={"MNIST": {"dataset": "mnist", "root": root}},
        seeds=[0],
        clients=50,
        clients_of_figures=20,
        alphas=[1.0, 0.5, 0.1],
        ipc=[10],
        ipc_of_figures=10,
        participation=1.0,
        distdd={"rounds": 100, **small},
        fedavg={"rounds": 40, "local_steps": 10, **small},
        central={"rounds": 20, "local_steps": 200, **small},
        evaluation={"networks": 1, "epochs": 100, "batch_size": 64, **small},
        shares=[0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        rounds=[10, 30, 100],
        participations=[0.1, 0.5, 1.0],
        client_numbers=[5, 20, 50],
        ipcs=[1, 10, 50],
        sigmas=[0.01, 0.1, 1.0, 10.0, 100.0],
    )


def paper(root: str) -> Size:
    """The paper's sizes (section 4.1): for a GPU, and days of it."""
    return Size(
        datasets={
            "MNIST": {"dataset": "mnist", "root": root},
            "FashionMNIST": {"dataset": "fashionmnist", "root": root},
            "CIFAR": {"dataset": "cifar10", "root": root},
        },
        seeds=[0, 1, 2],
        clients=50,
        clients_of_figures=20,
        alphas=[1.0, 0.5, 0.1],
        ipc=[10, 50, 100],
        ipc_of_figures=100,
        participation=0.5,
        distdd={"rounds": 500},
        fedavg={"rounds": 500, "local_steps": 40},
        central={"rounds": 1250, "local_steps": 40},  # 100 a query are refused for CIFAR: see ComputeLimits
        evaluation={"networks": 3, "epochs": 300},
        shares=[0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        rounds=[100, 200, 300, 400, 500],
        participations=[0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0],
        client_numbers=[5, 10, 20, 50],
        ipcs=[1, 10, 20, 30, 40, 50],
        sigmas=[0.01, 0.1, 1.0, 10.0, 100.0],
    )
