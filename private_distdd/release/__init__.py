"""What a run hands on, and how whoever receives it checks it: S, its card, and the clients' ledgers in one folder."""

from private_distdd.release.release import Release, manifest_hash, verify_folder

__all__ = ["Release", "manifest_hash", "verify_folder"]
