"""Networks trained on a first S: what they see of the data is what tells its classes apart."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from private_distdd.networks.embedding import Embedding, EmbeddingSpec
from private_distdd.networks.training import train
from private_distdd.synthetic.dataset import SyntheticDataset

_log = logging.getLogger("private_distdd")
_SOFT = 0.7  # share of the soft labels beside hard ones, where there are some


def trained_states(
    spec: EmbeddingSpec, dataset: SyntheticDataset, *, epochs: int, seed: int, device: str
) -> list[dict[str, Tensor]]:
    """The weights of a query's networks, trained on S as they will see examples, on the CPU.

    Args:
        spec: of the query; its seeds draw the first weights.
        dataset: S; soft labels count for 0.7 where it has some.
        epochs: >= 1, in batches of 64, by SGD with rate 0.01, momentum 0.9 and weight decay 5e-4.
        seed: of the order, and public.
        device: where they are trained.
    """
    info, examples = dataset.info, dataset.expanded().images.to(device)
    targets = dataset.targets(0.0 if dataset.soft_labels is None else _SOFT).to(device)
    states = []
    for network_seed in spec.seeds:
        network = spec.model.build(spec.seen(info), info.num_classes, network_seed).to(device).train()
        with torch.no_grad():
            images = Embedding(spec, network_seed, info, device).seen(examples)
        train(
            network,
            images,
            targets,
            epochs=epochs,
            batch_size=64,
            learning_rate=0.01,
            momentum=0.9,
            weight_decay=5e-4,
            generator=torch.Generator().manual_seed(seed),
        )
        state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        if not all(bool(torch.isfinite(value).all()) for value in state.values()):
            _log.warning("a network diverged on S, and is asked about as its seed made it")
            state = dict(spec.model.build(spec.seen(info), info.num_classes, network_seed).state_dict())
        states.append(state)
    return states
