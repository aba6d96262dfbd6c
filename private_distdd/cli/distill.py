"""`private-distdd distill`: a data set, split over simulated clients, into a release folder."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from private_distdd.cli.claims import claim_record, print_bills
from private_distdd.cli.knobs import given_knobs, method_name
from private_distdd.cli.options import (
    Commands,
    Help,
    add_data_options,
    add_json_option,
    add_model_args_option,
    add_privacy_options,
    add_quiet_option,
    add_threads_option,
    asked_privacy,
    data_arguments,
    print_json,
)
from private_distdd.errors import CheckpointError, ConfigurationError, Interrupted

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from private_distdd.release.release import Release
    from private_distdd.site.client import Client


def add(commands: Commands) -> None:
    """Put the command and its options into the parser."""
    distill = commands.add_parser(
        "distill",
        help="distil a data set that is split over simulated clients into a release folder",
        formatter_class=Help,
    )
    distill.add_argument(
        "--method",
        type=method_name,
        default="distdd",
        metavar="NAME",
        help="how S is made: distdd, many rounds of gradients, collabdm, one message of embeddings or a few; feddgm, "
        "how far small networks go in training; or what it is compared with: fedavg and fedprox train a network",
    )
    add_data_options(distill, "digits", "the data to split over the clients")
    distill.add_argument("--num-clients", type=int, default=10, metavar="N", help="clients the data are split over")
    distill.add_argument(
        "--dirichlet",
        type=float,
        default=math.inf,
        metavar="ALPHA",
        help="skew of the split: 0.1 is strong, inf is IID",
    )
    _add_method_options(distill)
    group = add_privacy_options(
        distill, 'private runs only; give neither "--target-epsilon" nor "--noise-multiplier" for none'
    )
    group.add_argument("--max-grad-norm", type=float, metavar="C", help="clipping norm of an example (default 1)")
    group.add_argument("--divisor", type=float, metavar="B", help="that messages are divided by, public (default 1)")
    group.add_argument(
        "--budget-epsilon", type=float, metavar="E", help="lifetime budget of each client's ledger, at --delta"
    )
    distill.add_argument("--device", default="cpu", help="cpu or cuda, for server and clients")
    add_threads_option(distill)
    distill.add_argument("--seed", type=int, default=0, help="steers everything public, never the noise")
    distill.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        help="keep the state after every round, and the clients' ledgers, in this folder (without it: in memory)",
    )
    distill.add_argument(
        "--resume",
        action="store_true",
        help="go on from --checkpoint, after a crash or Ctrl-C, with the same other arguments",
    )
    distill.add_argument("--output", required=True, metavar="FOLDER", help="the release folder to write (must be new)")
    add_json_option(distill)
    add_quiet_option(distill)
    distill.set_defaults(run=run)


def _add_method_options(parser: argparse.ArgumentParser) -> None:
    """Options that not every method has: None where they are not given, so that each method has its own defaults."""
    parser.add_argument("--ipc", type=int, help="stored synthetic images per class (default: 10)")
    parser.add_argument("--rounds", type=int, metavar="T", help="communication rounds of distdd (default 100)")
    parser.add_argument(
        "--aggregator",
        help='how messages become one: mean, sum, median, or another rule, also with its parameters: "krum(bad=2)" '
        "(default: mean)",
    )
    parser.add_argument(
        "--participation", type=float, metavar="SHARE", help="of clients asked each round, by distdd (default 1)"
    )
    parser.add_argument(
        "--model", help="convnet, lenet, mlp, resnet or scatter_linear, to be matched (default: convnet)"
    )
    add_model_args_option(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="any other knob of the method, e.g. --set memory=20 --set distance=cosine",
    )


def run(options: argparse.Namespace) -> int:
    """Distil, write the release, and print its claim and its bills; 0.

    Raises:
        ConfigurationError: options contradict each other, or a value is outside its range.
        ReleaseError: `--output` exists, or cannot be made.
        CheckpointError: `--checkpoint` is not this run's folder.
    """
    from private_distdd.data.load import load_dataset, require_public_classes
    from private_distdd.methods import method_named
    from private_distdd.privacy.ledger import Budget, Ledger
    from private_distdd.release.release import require_new
    from private_distdd.simulation.splits import dirichlet_split
    from private_distdd.site.client import Client

    output = require_new(options.output)  # before the work, not after it
    if options.resume and options.checkpoint is None:
        raise ConfigurationError("--resume without --checkpoint", "both, or neither", "Name the run's folder.")
    privacy = asked_privacy(options)
    budget = None
    if privacy is not None and options.budget_epsilon is not None:
        budget = Budget(options.budget_epsilon, privacy.delta)
    named = options.num_classes is not None or options.classes is not None
    if privacy is not None:
        remedy = "add --num-classes N, or --classes A,B,... for an image folder or a .csv."
        require_public_classes(options.dataset, named, remedy)
    make_method = method_named(options.method)
    method = make_method(privacy=privacy, device=options.device, seed=options.seed, **given_knobs(options, make_method))
    if privacy is None:
        print(
            "NOT PRIVATE: neither --target-epsilon nor --noise-multiplier was given; messages are exact statistics.",
            file=sys.stderr,
        )
    train, _ = load_dataset(options.dataset, **data_arguments(options))
    ledgers = None if options.checkpoint is None else _ledgers(options)
    with contextlib.ExitStack() as opened:

        def make_client(client_id: str, dataset: Dataset[Any]) -> Client:
            path = None if ledgers is None else ledgers / f"{client_id}.jsonl"
            ledger = opened.enter_context(Ledger(path, budget, client_id=client_id))
            return Client(client_id, dataset, ledger, device=options.device)

        clients = dirichlet_split(
            train, options.num_clients, options.dirichlet, seed=options.seed, make_client=make_client
        )
        try:
            release = method.fit(
                clients,
                progress=not options.quiet,
                checkpoint=options.checkpoint,
                resume=options.resume,
                output=output,
            )
        except Interrupted as stop:
            _report(stop.release, output, options)
            raise
    _report(release, output, options)
    return 0


def _report(release: Release, folder: Path, options: argparse.Namespace) -> None:
    from private_distdd.data.info import DatasetInfo
    from private_distdd.release.release import manifest_hash

    if options.json:
        record = {"release": str(folder), **claim_record(release), "progress": release.card["progress"]}
        bills = {name: bill["spent"]["epsilon"] for name, bill in release.card["clients"].items()}
        print_json({**record, "spent": bills, "traffic": release.traffic, "manifest": manifest_hash(folder)})
        return
    s, info = release.synthetic, DatasetInfo.from_json(release.card["data"])
    held = f"a {release.card['teacher']['name']}" if s is None else f"{len(s.labels)} {info.form.many}"
    print(f"{folder}: {held}, {release.verdict}")
    if release.private:
        print_bills(release.card["clients"])
    progress = release.card["progress"]
    if progress["stopped_early"]:
        rounds = f"{progress['rounds_done']} of {progress['rounds_planned']} rounds"
        print(f"stopped early, after {rounds} and {progress['matching_steps']} steps on S")
        if options.checkpoint is not None:
            print(f"{options.checkpoint} can go on, with --resume and another --output")
    print(f"{manifest_hash(folder)}  manifest.json: give this hash to whoever receives the release")
    print(f"next: private-distdd evaluate {folder} {_test_options(options, release)}")


def _test_options(options: argparse.Namespace, release: Release) -> str:
    """What `evaluate` needs to know of the data, so that it reads the same classes in the same order."""
    given = {"--dataset": options.dataset, "--root": options.root, "--label": options.label}
    given |= {"--classes": options.classes, "--size": options.size, "--channels": options.channels}
    if not options.dataset.endswith(".npz"):  # evaluate takes its number of classes from the release
        given["--num-classes"] = options.num_classes
    if release.synthetic is not None and len(release.synthetic.info.shape) == 1:
        given["--model"] = options.model  # its default is for images
    return " ".join(f"{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None)


def _ledgers(options: argparse.Namespace) -> Path:
    """The folder for the clients' ledgers, which belong to one split of one data set.

    Raises:
        CheckpointError: the ledgers there are those of other data, or there is no such folder and none can be made.
    """
    from private_distdd.encoding import to_json
    from private_distdd.files import sync, write_file

    folder = Path(options.checkpoint)
    split = {"dataset": options.dataset, "num_clients": options.num_clients, "seed": options.seed}
    split |= {"dirichlet": str(options.dirichlet)}  # JSON has no infinity
    if options.label is not None:
        split["label"] = options.label  # another column, another split
    try:
        if not options.resume and not (folder / "split.json").exists():
            (folder / "ledgers").mkdir(parents=True, exist_ok=True)
            sync(folder.parent)
            write_file(folder / "split.json", to_json(split).encode())
        found = json.loads((folder / "split.json").read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"--checkpoint {folder}: {error}", "a run's folder, or a new one", "Check the path."
        ) from error
    if found != split:
        raise CheckpointError(
            f"the ledgers in {folder} belong to other data: {found}, not {split}",
            "the data set and split that they were made for",
            "Give the same arguments, or another folder.",
        )
    return folder / "ledgers"
