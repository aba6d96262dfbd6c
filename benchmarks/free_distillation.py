"""What the server may do for nothing: ways to make S from the same noisy messages, each alone, on held-out images.

    python benchmarks/free_distillation.py ROOT fashionmnist                          # every way: an hour of one core
    python benchmarks/free_distillation.py ROOT fashionmnist plain generator --json FILE

All is post-processing of one federation's messages at epsilon 1 (10 clients, delta 1e-5), half of whose budget went
into the means of 12 random networks and half into 32 rounds of the teacher.  Exact sums are computed in one
place and the noise of 10 clients, one seeded draw, is added: sums do not depend on the split.  Each S, IPC 10, trains
ConvNet-3 of width 32 for 100 epochs in batches of 64, with two seeds, on hard labels and on mixed ones (0.7 the
teacher's); 5,000 training images that were held out score it, and the test set stays unread.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd import CollabDM, ImageDataset, Privacy, SyntheticDataset, evaluate, load_dataset
from private_distdd.matching.means import class_means, total_variation
from private_distdd.methods.teacher import descend, softened
from private_distdd.networks.embedding import Embedding
from private_distdd.networks.spec import ModelSpec
from private_distdd.protocol import accuracy
from private_distdd.questions.class_embeddings import ClassEmbeddings
from private_distdd.synthetic.dataset import presentable
from private_distdd.synthetic.mosaic import expand

CLIENTS, IPC, NETWORKS, STEPS, ROUNDS, CLIP, RATE = 10, 10, 12, 1500, 32, 1.0, 12.0
METHOD: CollabDM = CollabDM(networks=NETWORKS)
Images = Callable[[], Tensor]
Extra = Callable[[Tensor, Tensor, int], Tensor | None]


@dataclass(frozen=True)
class Given:
    """What the server holds: networks and the noisy means of the classes, and the teacher."""

    networks: Sequence[Embedding]
    means: Tensor
    teacher: nn.Module
    held: ImageDataset


def noise(like: Tensor, events: float, seed: int) -> Tensor:
    """Of all clients together, where a release is one of so many equal ones that cost epsilon 1."""
    sigma = Privacy(target_epsilon=1.0, delta=1e-5).plan(1).noise_multiplier * math.sqrt(events)
    drawn = torch.randn(like.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return math.sqrt(CLIENTS) * sigma * drawn


def teach(kept: ImageDataset) -> nn.Module:
    """The teacher, by full-batch rounds of clipped gradients; it has half of the budget."""
    network = ModelSpec("scatter_linear", {}).build(kept.info.shape, kept.info.num_classes, 0)
    assert isinstance(network, nn.Sequential)
    with torch.inference_mode():
        features = torch.cat([network[:-1](part) for part in torch.split(kept.images, 64)])
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1).clone()
    norms, targets = torch.linalg.vector_norm(features, dim=1), F.one_hot(kept.labels).to(torch.float32)
    weight = torch.zeros(kept.info.num_classes, features.shape[1])
    velocity = [torch.zeros_like(weight)]
    for t in range(ROUNDS):
        slopes = (features @ weight.T).softmax(dim=1) - targets
        slopes *= (CLIP / (torch.linalg.vector_norm(slopes, dim=1) * norms)).clamp(max=1)[:, None]
        total = (slopes.T @ features).to(torch.float64)
        gradient = ((total + CLIP * noise(total, 2 * ROUNDS, t)) / len(kept)).to(torch.float32)
        descend([weight], velocity, [gradient], rate=RATE, momentum=0.9)
    with torch.no_grad():
        network[-1].weight.copy_(weight[:, :-1])
        network[-1].bias.copy_(weight[:, -1])
    return network.requires_grad_(False).eval()


def message(kept: ImageDataset, held: ImageDataset) -> Given:
    """Everything that the clients' messages tell."""
    embeddings = ClassEmbeddings(METHOD.embedding(kept.info), kept.info, "cpu")
    sums = embeddings.class_sums(kept.images, kept.labels, kept.info.num_classes)
    sums += noise(sums, 2, 99)
    return Given(embeddings.networks, class_means(*embeddings.read(sums.to(torch.float32))), teach(kept), held)


def distil(
    given: Given,
    variables: list[Tensor],
    images: Images,
    rate: float,
    *,
    partition: int = 2,
    smoothness: float = 0.1,
    extra: Extra | None = None,
) -> tuple[SyntheticDataset, float]:
    """`match_means` for any parametrisation of S, with anything added to its loss; and its loss at the end."""
    info = given.held.info
    optimizer = torch.optim.Adam(variables, lr=rate, betas=(0.9, 0.99))
    labels = torch.arange(info.num_classes).repeat_interleave(IPC)
    parts = labels.repeat_interleave(partition**2)
    members = F.one_hot(parts).T.to(torch.float32)
    members = members / members.sum(dim=1, keepdim=True)
    rng, order, losses = METHOD.public_rng("order"), [], []
    for step in range(STEPS):
        order = order or rng.permutation(NETWORKS).tolist()
        k = order.pop()
        examples = expand(images(), partition)
        loss = (members @ given.networks[k](examples) - given.means[k]).square().sum()
        losses.append(float(loss.detach()))
        loss = loss + smoothness * info.num_classes * total_variation(examples)
        added = None if extra is None else extra(examples, parts, step)
        loss = loss if added is None else loss + added
        for variable, slope in zip(variables, torch.autograd.grad(loss, variables), strict=True):
            variable.grad = slope
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / STEPS)) / 2
        optimizer.step()
    dataset = SyntheticDataset(presentable(images().detach()), labels, info, partition)
    return softened(dataset, given.teacher), statistics.fmean(losses[-100:])


def pixels(given: Given, seed: int = 0) -> tuple[list[Tensor], Images, float]:
    """S itself, from noise; between black and white, with slopes as if it were free (as `match_means` clamps)."""
    info = given.held.info
    assert info.bounds is not None
    low, high = info.bounds
    start = torch.randn((IPC * info.num_classes, *info.shape), generator=torch.Generator().manual_seed(seed))
    variable = torch.maximum(torch.minimum(start, high), low).requires_grad_(True)

    def images() -> Tensor:
        with torch.no_grad():
            variable.copy_(torch.maximum(torch.minimum(variable, high), low))
        return variable

    return [variable], images, 0.1


def generated(given: Given) -> tuple[list[Tensor], Images, float]:
    """S as what a random convolutional generator makes of latents; both are learned (deep image prior)."""
    info = given.held.info
    assert info.bounds is not None
    low, high = info.bounds
    channels, height, width = info.shape
    latents = torch.randn(
        (IPC * info.num_classes, 16, height // 4, width // 4), generator=torch.Generator().manual_seed(0)
    )

    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")
        return [conv, nn.GroupNorm(1, outputs), nn.LeakyReLU(0.2)]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            *layer(16, 32),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            *layer(32, 32),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            *layer(32, 16),
            nn.Conv2d(16, channels, 1),
        )
    latents.requires_grad_(True)
    return [latents, *network.parameters()], lambda: low + (high - low) * network(latents).sigmoid(), 0.01


def some(examples: Tensor, labels: Tensor, step: int, count: int) -> tuple[Tensor, Tensor]:
    """A few of the examples, others in each step."""
    chosen = torch.randperm(len(examples), generator=torch.Generator().manual_seed(step))[:count]
    return examples[chosen], labels[chosen]


def classified(given: Given, weight: float) -> Extra:
    """The teacher shall know each example for what its label says."""

    def extra(examples: Tensor, labels: Tensor, step: int) -> Tensor:
        few, theirs = some(examples, labels, step, 32)
        return weight * F.cross_entropy(given.teacher(few), theirs)

    return extra


def regressed(given: Given, weight: float) -> Extra:
    """Kernel ridge regression on S, by a fresh ConvNet's features, shall say what the teacher says (KIP, FRePo).

    It is asked about images that are made of S itself: moved, and mixed in pairs.
    """
    info = given.held.info

    def extra(examples: Tensor, labels: Tensor, step: int) -> Tensor | None:
        if step % 4:
            return None
        rng = torch.Generator().manual_seed(step)
        with torch.no_grad():
            pairs = torch.randint(len(examples), (2, 128), generator=rng)
            shares = torch.rand((128, 1, 1, 1), generator=rng)
            asked = info.augment(shares * examples[pairs[0]] + (1 - shares) * examples[pairs[1]], rng)
            told = given.teacher(asked).softmax(dim=1)
            told = told - told.mean(dim=1, keepdim=True)
        network = ModelSpec("convnet", {"width": 32}).build(info.shape, info.num_classes, step)
        assert isinstance(network, nn.Sequential)
        body = network[:-1].requires_grad_(False)
        of_s, of_asked = (F.normalize(body(part).flatten(1)) for part in (examples, asked))
        own = of_s @ of_s.T
        ridge = 0.01 * own.diagonal().sum() * torch.eye(len(own)) / len(own)
        targets = F.one_hot(labels).to(torch.float32) - 1 / info.num_classes
        said = of_asked @ of_s.T @ torch.linalg.solve(own + ridge, targets)
        return weight * (said - told).square().sum(dim=1).mean()

    return extra


def gradients(given: Given, weight: float) -> Extra:
    """A linear head that S trains shall point where the teacher's does, which sums up all noisy gradients."""
    assert isinstance(given.teacher, nn.Sequential)
    body, head = given.teacher[:-1], given.teacher[-1].weight

    def extra(examples: Tensor, labels: Tensor, step: int) -> Tensor:
        few, theirs = some(examples, labels, step, 40)
        features = body(few)
        slopes = F.one_hot(theirs, len(head)).to(torch.float32) - 1 / len(head)
        return weight * (1 - F.cosine_similarity((slopes.T @ features).flatten(), head.flatten(), dim=0))

    return extra


def together(*extras: Extra) -> Extra:
    """Several things added to the loss."""

    def extra(examples: Tensor, labels: Tensor, step: int) -> Tensor | None:
        terms = [term for one in extras if (term := one(examples, labels, step)) is not None]
        return torch.stack(terms).sum() if terms else None

    return extra


def restarted(given: Given) -> tuple[SyntheticDataset, float]:
    """Three starts, of which the best agrees most with the messages."""
    return min((distil(given, *pixels(given, seed)) for seed in range(3)), key=lambda found: found[1])


WAYS: dict[str, Callable[[Given], tuple[SyntheticDataset, float]]] = {
    "plain": lambda given: distil(given, *pixels(given)),
    "no total variation": lambda given: distil(given, *pixels(given), smoothness=0.0),
    "total variation 0.3": lambda given: distil(given, *pixels(given), smoothness=0.3),
    "whole images": lambda given: distil(given, *pixels(given), partition=1),
    "restarts": restarted,
    "generator": lambda given: distil(given, *generated(given)),
    "classified by the teacher": lambda given: distil(given, *pixels(given), extra=classified(given, 0.05)),
    "classified, weight 0.2": lambda given: distil(given, *pixels(given), extra=classified(given, 0.2)),
    "classified, weight 1": lambda given: distil(given, *pixels(given), extra=classified(given, 1.0)),
    "ridge regression to the teacher": lambda given: distil(given, *pixels(given), extra=regressed(given, 1.0)),
    "the teacher's gradients": lambda given: distil(given, *pixels(given), extra=gradients(given, 0.3)),
    "the best together": lambda given: distil(
        given, *pixels(given), extra=together(classified(given, 0.05), gradients(given, 0.3))
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("dataset")
    parser.add_argument("ways", nargs="*", help=", ".join(WAYS))
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, _ = load_dataset(options.dataset, root=options.root)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(7))
    held, kept = (ImageDataset(train.images[p], train.labels[p], train.info) for p in (order[:5000], order[5000:]))
    given = message(kept, held)
    print(f"{options.dataset}: the teacher {accuracy(given.teacher, held):.1%}", flush=True)
    for name in options.ways or WAYS:
        begun = time.process_time()
        dataset, loss = WAYS[name](given)
        spent, found = time.process_time() - begun, {}
        for labels in ("hard", "mixed"):
            scored = evaluate(
                dataset, held, model_args={"width": 32}, seeds=[0, 1], epochs=100, batch_size=64, labels=labels
            )
            found[labels] = scored.accuracies
        line = {"dataset": options.dataset, "way": name, **found, "loss": loss, "seconds": round(spent)}
        print(json.dumps(line), flush=True)
        if options.json:
            with open(options.json, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
