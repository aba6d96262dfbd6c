"""How CollabDM's knobs were chosen: accuracy on 5,000 training images held out; the test set stays unread.

    python benchmarks/choose_collabdm.py ROOT mnist '{}' '{"bandwidth": 0.3}' '{"partition": 1, "pool": 2}'

Each JSON object changes some of the method's defaults.  It is no sweep (docs/sweeps.md), for the clients' sums are
computed once for all choices that share networks, and all choices see the same noise: that of 10 clients at epsilon 1
(or --epsilon; 0: no privacy), one seeded draw, as sums do not depend on how the data are split.  Prints the accuracy of
one ConvNet-3 of width 32, trained for 100 epochs in batches of 64, without and with shifted images.  With --real also
that of mosaics of random real images, as many as S has.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import torch
from torch import Tensor

from private_distdd import CollabDM, ImageDataset, Privacy, SyntheticDataset, evaluate, load_dataset
from private_distdd.matching.means import class_means, match_means
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.questions.class_embeddings import ClassEmbeddings
from private_distdd.synthetic.latents import Latents
from private_distdd.synthetic.mosaic import mosaic

NUM_CLIENTS = 10


def distil(method: CollabDM, kept: ImageDataset, sums: Tensor, epsilon: float) -> SyntheticDataset:
    """S from the sums, with the noise that so many clients would have added."""
    spec, info = method.embedding(kept.info), kept.info
    if epsilon:
        sigma = Privacy(target_epsilon=epsilon, delta=1e-5).plan(1).noise_multiplier
        noise = torch.randn(sums.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
        sums = sums + math.sqrt(NUM_CLIENTS) * sigma * noise
    embeddings = ClassEmbeddings(spec, info, "cpu")
    labels = torch.arange(info.num_classes).repeat_interleave(method.ipc)
    start = method.public_rng("images").standard_normal((len(labels), *info.shape), dtype="float32")
    latents = Latents(None, info, torch.from_numpy(start))
    match_means(
        latents,
        labels,
        embeddings.networks,
        class_means(*embeddings.read(sums.to(torch.float32))),
        info,
        partition=method.parts(info),
        steps=method.matching_steps,
        rate=method.matching_rate,
        smoothness=method.smoothness,
        rng=method.public_rng("order"),
    )
    return SyntheticDataset(latents.examples().detach(), labels, info, method.parts(info))


def real(method: CollabDM, kept: ImageDataset) -> SyntheticDataset:
    """What S is beside: the first images of each class, as mosaics."""
    info, parts = kept.info, method.parts(kept.info)
    wanted = method.ipc * parts**2
    first = torch.cat([(kept.labels == c).nonzero().squeeze(1)[:wanted] for c in range(info.num_classes)])
    labels = torch.arange(info.num_classes).repeat_interleave(method.ipc)
    return SyntheticDataset(mosaic(kept.images[first], parts), labels, info, parts)


def scores(dataset: SyntheticDataset, held: ImageDataset) -> str:
    """Accuracies without and with shifts."""
    found = (
        evaluate(dataset, held, model_args={"width": 32}, seeds=[0], epochs=100, batch_size=64, augment=augment).mean
        for augment in (False, True)
    )
    return " / ".join(f"{accuracy:.1%}" for accuracy in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("dataset")
    parser.add_argument("knobs", nargs="+", type=json.loads)
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--real", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, _ = load_dataset(options.dataset, root=options.root)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(7))
    held, kept = (ImageDataset(train.images[p], train.labels[p], train.info) for p in (order[:5000], order[5000:]))
    if options.real:
        print(f"{options.dataset} real images: {scores(real(CollabDM(), kept), held)}", flush=True)
    known: dict[EmbeddingSpec, Tensor] = {}
    for knobs in options.knobs:
        method: CollabDM = CollabDM(**knobs)
        spec, started = method.embedding(train.info), time.process_time()
        if spec not in known:
            embeddings = ClassEmbeddings(spec, train.info, "cpu")
            known[spec] = embeddings.class_sums(kept.images, kept.labels, train.info.num_classes)
        sums, between = known[spec], time.process_time()
        dataset = distil(method, kept, sums, options.epsilon)
        seconds: dict[str, Any] = {"clients": between - started, "server": time.process_time() - between}
        spent = ", ".join(f"{name} {value:.0f} CPU s" for name, value in seconds.items())
        print(f"{options.dataset} {json.dumps(knobs)}: {scores(dataset, held)} ({spent})", flush=True)


if __name__ == "__main__":
    main()
