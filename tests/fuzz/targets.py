"""All that is attacked: each module below registers its targets."""

from . import checkpoints, ledgers, releases, server, site, wire
from .target import TARGETS, Target

__all__ = ["TARGETS", "Target", "checkpoints", "ledgers", "releases", "server", "site", "wire"]
