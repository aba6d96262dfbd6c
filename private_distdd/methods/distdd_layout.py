"""What the checkpoints of DistDD look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from private_distdd.limits import EXAMPLES
from private_distdd.matching.gradients import parameter_shapes
from private_distdd.server.layout import Field, Layout, answered, is_between, is_part, prototypes
from private_distdd.server.loop import named
from private_distdd.synthetic.latents import Latents
from private_distdd.wire.run import Run

if TYPE_CHECKING:  # it is its layout
    from private_distdd.methods.distdd import DistDD


def distdd_layout(method: DistDD, run: Run, client_ids: Sequence[str]) -> Layout:
    """What `DistDDCourse.keep` writes in this run."""
    info = run.info
    drawn = Latents.drawn(
        method.generator(info), info, info.num_classes * method.ipc, method.public_rng("latents"), "cpu"
    )
    variables = {name: variable.detach().to("meta") for name, variable in drawn.variables.items()}
    fresh = method.spec.build(info.shape, info.num_classes)
    network = named("network", {name: value.to("meta") for name, value in fresh.state_dict().items()})
    parameters = parameter_shapes(fresh)
    # Without privacy clients are asked for their counts, and perhaps for real images to start from, beforehand.
    before = 0 if run.plan is not None else 1 + (method.initialization == "real")

    def are_counts(value: Any, progress: Mapping[str, Any]) -> bool:
        if run.plan is not None:
            return value is None
        active, answered = set(progress["active"]), progress["answered"].keys()
        if not isinstance(value, dict) or not active <= value.keys() <= answered:
            return False
        rows = list(value.values())
        if not all(isinstance(row, list) and len(row) == info.num_classes for row in rows):
            return False
        fair = all(is_between(count, 0, EXAMPLES) for row in rows for count in row)
        return fair and all(sum(column) <= EXAMPLES for column in zip(*rows, strict=True))

    def state(progress: Mapping[str, Any]) -> dict[str, Tensor]:
        tensors = {**variables, **network}
        step = torch.tensor(float(min(progress["steps"], 1 << 24)))  # float32 counts no further
        for k, variable in enumerate(variables.values()) if progress["steps"] else ():
            shape = tuple(variable.shape)
            if method.matching_optimizer == "adam":
                moments = {"step": step, **prototypes(exp_avg=shape, exp_avg_sq=shape)}
            else:
                moments = prototypes(momentum_buffer=shape)
            tensors |= named(f"optimizer/{k}", moments)
        if method.network_momentum:
            tensors |= named("velocity", prototypes(**{str(k): size for k, size in enumerate(parameters)}))
        return tensors

    groups = info.num_classes if method.granularity == "class" else 1
    several = method.networks_per_query > 1  # networks, which their seeds make anew
    length = sum(size.numel() for size in parameters)
    return Layout(
        run,
        {
            "rounds": Field(f"0 ... {method.rounds}", lambda value, _: is_between(value, 0, method.rounds)),
            "steps": Field(
                f"{method.matching_steps} for each round in which somebody answered",
                lambda value, progress: (
                    is_between(value, 0, progress["rounds"] * method.matching_steps)
                    and not value % method.matching_steps
                ),
            ),
            "started": Field(
                "true, or false before the first round",
                lambda value, progress: isinstance(value, bool) and (value or not progress["rounds"]),
            ),
            "active": Field("some of the clients, in order", lambda value, _: is_part(value, client_ids)),
            "answered": answered(client_ids, method.schedule(client_ids), before),
            "class_counts": Field(
                "null with privacy; else by client how many examples of each class it holds", are_counts
            ),
        },
        state,
        lambda progress: min(progress["steps"] // method.matching_steps, method.memory),
        {**prototypes(target=(groups, method.networks_per_query * length)), **({} if several else network)},
    )
