"""`private-distdd flower`: the Flower app that runs a method, between sites or in Flower's simulation."""

from __future__ import annotations

import argparse
from pathlib import Path

from private_distdd.cli.options import Commands
from private_distdd.errors import ConfigurationError


def add(commands: Commands) -> None:
    """Put the command and its own commands into the parser."""
    flower = commands.add_parser("flower", help="run between hospitals, over Flower")
    steps = flower.add_subparsers(title="commands", required=True, metavar="COMMAND")
    init = steps.add_parser("init", help="write the Flower app, for `flwr run`")
    init.add_argument("folder", metavar="FOLDER", help="where (must be new)")
    init.set_defaults(run=_init)
    node = steps.add_parser("node", help="experimental: beside a site, a SuperNode that runs nobody's code")
    node.add_argument("--superlink", required=True, metavar="HOST:PORT", help="the server")
    node.add_argument("--root-certificates", required=True, metavar="PEM", help="by which the server is known")
    node.add_argument("--key", required=True, metavar="FILE", help="the node's EC private key, in OpenSSH's form")
    node.add_argument("--socket", required=True, metavar="PATH", help="the site's")
    node.set_defaults(run=_node)


def _init(options: argparse.Namespace) -> int:
    from private_distdd.files import write_file

    folder = Path(options.folder).resolve()
    try:
        folder.mkdir()
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: {error.strerror}", "a new folder in one that exists", "Choose another."
        ) from error
    if any(character in str(folder) for character in "\"'\\"):
        folder.rmdir()
        raise ConfigurationError(f"{folder}", "a path without quotes and backslashes", "Choose another.")
    for name, text in {"pyproject.toml": PYPROJECT, "server_app.py": SERVER, "client_app.py": CLIENT}.items():
        write_file(folder / name, text.replace("FOLDER", str(folder)).encode())
    print(f"{folder / 'pyproject.toml'}: say there who is invited and what they are asked, then")
    print(f"    flwr run {folder}")
    return 0


def _node(options: argparse.Namespace) -> int:
    from private_distdd.engines.fleet import carry

    carry(options.superlink, options.socket, options.key, options.root_certificates)
    raise ConfigurationError(f"no more answers of {options.superlink}", "a server that answers", "Start it again.")


PYPROJECT = """\
[project]
name = "private-distdd-app"
version = "1.0.0"
description = "Federated dataset distillation with a privacy bill that can be checked."
license = "Apache-2.0"
dependencies = ["private-distdd[flower]"]

[tool.flwr.app]
publisher = "private-distdd"

[tool.flwr.app.components]
serverapp = "server_app:app"
clientapp = "client_app:app"

# What is run, and what each owner is asked to agree to.  `flwr run . --run-config 'seed=1'` says something else once.
[tool.flwr.app.config]
clients = 3               # how many sites to wait for; or who is invited: "hospital-a hospital-b"
patience = 120.0          # seconds to wait for sites that are not there
method = "collabdm"       # one round, or a few; "distdd": many rounds
privacy = '{"target_epsilon": 1.0, "delta": 1e-5}'   # arguments of Privacy; "null" is none
knobs = '{"ipc": 10}'     # those of the method, for example "quorum" and "deadline"
info = '{"name": "digits", "num_classes": 10, "shape": [1, 8, 8]}'   # of the data: public constants
seed = 0                  # steers everything public, never the noise
output = "FOLDER/releases"   # on the server: each run writes a folder below
checkpoint = ""           # on the server: a new folder, if a run shall be able to go on when the server fails
resume = false            # go on from there

# Flower's Simulation Runtime has no sites: its clients are made from a data set.
simulation = '{"dataset": "digits", "ledgers": "FOLDER/ledgers"}'
"""

SERVER = '''\
"""The server: finds the sites, runs the method, writes the release.  It is yours to change."""

import json
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from private_distdd import DatasetInfo, Privacy
from private_distdd.engines.flower import FlowerEngine
from private_distdd.methods import method_named
from private_distdd.release.release import manifest_hash

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    clients, privacy = config["clients"], json.loads(config["privacy"])
    engine = FlowerEngine(
        grid, clients if isinstance(clients, int) else clients.split(), patience=config["patience"]
    )
    method = method_named(config["method"])(
        privacy=privacy and Privacy(**privacy), seed=config["seed"], **json.loads(config["knobs"])
    )
    release = method.fit(
        engine,
        info=DatasetInfo(**json.loads(config["info"])),
        checkpoint=config["checkpoint"] or None,
        resume=config["resume"],
    )
    folder = release.save(Path(config["output"]) / str(context.run_id))
    print(f"{folder}: epsilon {release.epsilon}")
    print(f"{manifest_hash(folder)}  manifest.json: give this hash to whoever receives the release")
'''

CLIENT = '''\
"""What a SuperNode runs for each message: it hands bytes on, and reads nothing but its own configuration."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from private_distdd.engines.forwarder import forward

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    if "partition-id" not in context.node_config:
        return forward(message, context)
    from private_distdd.simulation.flower import simulated  # Flower's Simulation Runtime: there is no site

    return simulated(message, context)
'''
