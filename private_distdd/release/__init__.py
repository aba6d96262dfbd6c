"""The release: S with its bill, as one folder that whoever receives it can check.  In here, modules import siblings."""

from private_distdd.release.release import Release, manifest_hash, verify_folder

__all__ = ["Release", "manifest_hash", "verify_folder"]
