"""Limits on everything that comes from somebody else, in one place, so that no few bytes can cost much time or memory.

What is public and small is bounded by the constants here, where it is parsed.  What a query may make a client compute
is bounded by its owner's `ComputeLimits`, by public arithmetic on the query's specification and before anything is
charged.  docs/limits.md lists them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from private_distdd.errors import ConfigurationError, QueryRefusedError
from private_distdd.validate import is_real

CONTROL_BYTES = 1 << 16  # a Run, an Enrolment, a Signed attestation, a Refusal
HEADER_BYTES = 1 << 22  # the JSON header of an envelope with tensors: queries, messages, checkpoints, releases
PAGE_BYTES = 1 << 26  # a release's card, manifest, page or picture, one each
LEDGER_BYTES = 1 << 28  # a ledger that somebody hands over: some 500,000 messages
RELEASE_LEDGERS_BYTES = 1 << 30  # all ledgers of a release together
SYNTHETIC_BYTES = 1 << 32  # a release's synthetic data set
TRAINED_BYTES = 1 << 30  # all weights of a trained network together

NAME_LENGTH = 256  # characters of a data set's name
CLASSES = 1 << 16
CLASS_NAMES = (
    1 << 14
)  # characters of all classes' names together, as JSON: a Run holds them, beside two constants a lane
CHANNELS = 1 << 12
PIXELS = 1 << 24  # of one image, all channels together
FEATURES = 1 << 10  # of one row of a table: a Run holds two constants for each, and still fits CONTROL_BYTES
TABLE_BYTES = 1 << 30  # of a CSV file

ARGUMENTS = 64  # of one registered model
ARGUMENT_LENGTH = 256  # characters of a text, or items of a list
ARGUMENT_SIZE = 1 << 20  # magnitude of a number
DEPTH, WIDTH = 64, 1 << 14  # of the registered networks
EXAMPLES = 10**9 - 1  # of one class, over all clients: numpy draws from no more without replacement
VALUE = 1e15  # magnitude of a message's values, in units of C / b with privacy: what is larger overflows when matched
NETWORKS = 1 << 12  # of one query
STEPS = 1 << 12  # of a client's own distillation, without privacy, and of its local training

GIB = float(1 << 30)


@dataclass(frozen=True)
class Cost:
    """What it takes a client to answer a query, from public values alone; nobody's data enter.

    Args:
        memory: bytes beside the data set, at most about this many; may be infinite.
        work: multiplications and additions an example, forward; may be infinite.
    """

    memory: float
    work: float


@dataclass(frozen=True)
class ComputeLimits:
    """The most that its owner lets one query cost a client; a query beyond it is refused, for nothing.

    Args:
        memory: bytes beside the data set, > 0.  A limit above what the machine has free makes failures possible.
        work: multiplications and additions of one example's forward pass, > 0.

    Raises:
        ConfigurationError: a value is outside its range.
    """

    memory: float = 8 * GIB
    work: float = 1e10

    def __post_init__(self) -> None:
        for name, value in (("memory", self.memory), ("work", self.work)):
            if not is_real(value) or not 0 < value < math.inf:
                raise ConfigurationError(f"{name} = {value!r}", "a finite number > 0", "The defaults suit a laptop.")

    def check(self, cost: Cost) -> None:
        """Refuse what costs more.

        Raises:
            QueryRefusedError: it does.
        """
        if not (cost.memory <= self.memory and cost.work <= self.work):
            raise QueryRefusedError(
                f"a query that takes {cost.memory / GIB:.3g} GiB and {cost.work:.3g} operations an example",
                f"at most {self.memory / GIB:.3g} GiB and {self.work:.3g}, as the client's owner says",
                "Ask with a smaller network, or ask the owner for Client(limits=ComputeLimits(...)).",
            )
