"""The command line, `private-distdd`: one file a command."""

from private_distdd.cli.main import main

__all__ = ["main"]
