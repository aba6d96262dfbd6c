"""What S is to be compared with, under the same `Privacy`: methods whose release holds a network."""

from private_distdd.baselines.fedavg import FedAvg, FedProx

__all__ = ["FedAvg", "FedProx"]
