"""A trained network as a file: what it is by name, and its weights; nothing is pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ModelError, PrivateDistDDError
from private_distdd.files import read_file
from private_distdd.limits import HEADER_BYTES, TRAINED_BYTES
from private_distdd.networks.register import FACTORIES
from private_distdd.networks.spec import ModelSpec
from private_distdd.storage import pack, unpack

FORMAT = "private_distdd.network/1"
_OWN = "private_distdd."


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A registered network with its weights, for examples of one kind.

    Args:
        spec: the architecture.
        state: the weights and buffers by name, as the network's `state_dict()` gives them: every name, shape and type
            of the architecture's, finite, at most 1 GiB together.  Copied, detached, to the CPU.
        info: of the data set it is for: shape and classes, and the normalisation its examples must have.

    Raises:
        ModelError: the state does not fit, or as `ModelSpec.build`.
    """

    spec: ModelSpec
    state: Mapping[str, Tensor]
    info: DatasetInfo

    def __post_init__(self) -> None:
        if not isinstance(self.state, Mapping) or not all(isinstance(v, Tensor) for v in self.state.values()):
            raise ModelError("a state that is not tensors by name", "a mapping of them", "Pass network.state_dict().")
        size = sum(tensor.numel() * tensor.element_size() for tensor in self.state.values())
        if size > TRAINED_BYTES:
            raise ModelError(f"weights of {size} bytes", f"at most {TRAINED_BYTES}", "Take a smaller network.")
        own = self._outline()
        remedy = f"Pass the state_dict() of a {self.spec.name} with these arguments, for these examples."
        if odd := sorted(map(str, own.keys() ^ self.state.keys())):
            raise ModelError(f"a state that differs from {self.spec.name}'s in {odd}", f"{sorted(own)}", remedy)
        for name, tensor in own.items():
            found = self.state[name]
            if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
                raise ModelError(
                    f"{name}: {found.dtype} {list(found.shape)}", f"{tensor.dtype} {list(tensor.shape)}", remedy
                )
            if not bool(torch.isfinite(found).all()):
                raise ModelError(f"{name} has a NaN or infinite weight", "finite weights", "Training diverged.")
        kept = {name: self.state[name].detach().to("cpu", copy=True).contiguous() for name in own}
        object.__setattr__(self, "state", kept)

    def _outline(self) -> dict[str, Tensor]:
        """The architecture's state without storage: of a file that claims to be huge, nothing is built."""
        arguments = self.info.shape, self.info.num_classes
        try:
            with torch.device("meta"):
                network = self.spec.build(*arguments)
        except Exception:
            # A network of the user's own may look at its weights: registered by the user, it may be built.
            if getattr(FACTORIES.get(self.spec.name), "__module__", _OWN).startswith(_OWN):
                raise
            network = self.spec.build(*arguments)
        return dict(network.state_dict())

    def __repr__(self) -> str:
        weights = sum(tensor.numel() for tensor in self.state.values())
        return f"TrainedNetwork({self.spec.name} for {self.info.name!r}: {weights:,} weights)"

    def build(self) -> nn.Module:
        """A fresh copy on the CPU, in evaluation mode: examples [n, *info.shape] to logits [n, info.num_classes]."""
        network = self.spec.build(self.info.shape, self.info.num_classes)
        network.load_state_dict(dict(self.state))
        return network.eval()

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file at `path`: equal networks, equal bytes.

        Raises:
            OSError: it cannot be written.
        """
        header = {"format": FORMAT, "spec": self.spec.to_json(), "info": self.info.to_json()}
        Path(path).write_bytes(pack(header, self.state))

    @classmethod
    def load(cls, path: str | Path) -> TrainedNetwork:
        """The network that `save` wrote, bit for bit.

        Raises:
            ModelError: no such file, not a file of ours, a model that is not registered here, or weights that do not
                fit it.
        """
        remedy = "Take the file from the release again."
        try:
            header, state = unpack(read_file(Path(path), TRAINED_BYTES + HEADER_BYTES))
        except (OSError, ValueError) as error:
            raise ModelError(f"{str(path)!r}: {error}", "a readable safetensors file", remedy) from error
        if set(header) != {"format", "spec", "info"} or header["format"] != FORMAT:
            raise ModelError(f"{str(path)!r} with header {header!r}", f"format {FORMAT!r}, spec and info", remedy)
        try:
            return cls(ModelSpec.from_json(header["spec"]), state, DatasetInfo.from_json(header["info"]))
        except PrivateDistDDError as error:
            raise ModelError(f"{str(path)!r}: {error.given}", error.allowed, error.remedy) from error
