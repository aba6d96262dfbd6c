"""The registered networks, a file each; importing one registers it."""

from private_distdd.networks.zoo import convnet as _convnet  # noqa: F401 - registers itself, as all of these
from private_distdd.networks.zoo import lenet as _lenet  # noqa: F401
from private_distdd.networks.zoo import mlp as _mlp  # noqa: F401
from private_distdd.networks.zoo import resnet as _resnet  # noqa: F401
from private_distdd.networks.zoo import scatter_linear as _scatter_linear  # noqa: F401
