"""The command line: private-distdd demo | distill | evaluate | plan | verify."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from private_distdd.errors import CheckpointError, ConfigurationError, NotPrivateWarning, PrivateDistDDError

if TYPE_CHECKING:
    from torch.utils.data import Dataset


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 for success, 1 where `verify` finds failures, 2 for an error that is said in one line."""
    options = _parser().parse_args(arguments)
    if hasattr(options, "threads"):
        import torch

        torch.set_num_threads(options.threads)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotPrivateWarning)  # the commands say it themselves
            code: int = options.run(options)
            return code
    except PrivateDistDDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="private-distdd",
        description="Federated dataset distillation with a privacy bill that can be checked.",
        epilog="Start with `private-distdd demo`: it needs no data and takes about a minute.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="distil scikit-learn's digits from 5 clients at epsilon 8, and compare")
    demo.add_argument("--output", metavar="FOLDER", help="where the release goes (default: a fresh demo-001, ...)")
    demo.add_argument("--seed", type=int, default=0, help="steers everything public, never the noise (default 0)")
    _threads_option(demo)
    demo.set_defaults(run=_demo)

    distill = commands.add_parser(
        "distill",
        help="distil a data set that is split over simulated clients into a release folder",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    distill.add_argument("--method", choices=["distdd"], default="distdd", help="how S is made")
    _data_options(distill)
    distill.add_argument("--num-clients", type=int, default=10, metavar="N", help="clients the data are split over")
    distill.add_argument(
        "--dirichlet",
        type=float,
        default=math.inf,
        metavar="ALPHA",
        help="skew of the split: 0.1 is strong, inf is IID",
    )
    distill.add_argument("--ipc", type=int, default=10, help="synthetic images per class")
    distill.add_argument("--rounds", type=int, default=100, metavar="T", help="communication rounds")
    _privacy_options(distill, 'private runs only; give neither "--target-epsilon" nor "--noise-multiplier" for none')
    distill.add_argument("--max-grad-norm", type=float, default=1.0, metavar="C", help="clipping norm of an example")
    distill.add_argument("--aggregator", default="mean", help="mean, sum, median or trimmed_mean")
    distill.add_argument("--participation", type=float, default=1.0, help="share of clients asked each round")
    distill.add_argument("--model", default="convnet", help="the network whose gradients are matched")
    distill.add_argument("--device", default="cpu", help="cpu or cuda, for server and clients")
    _threads_option(distill)
    distill.add_argument("--seed", type=int, default=0, help="steers everything public, never the noise")
    distill.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="any other knob of the method, e.g. --set memory=20 --set model_args='{\"width\":32}'",
    )
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
    distill.set_defaults(run=_distill)

    evaluate = commands.add_parser(
        "evaluate",
        help="train fresh networks on a release and test them on real data",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    evaluate.add_argument("release", metavar="RELEASE", help="a release folder")
    _data_options(evaluate)
    evaluate.add_argument("--model", default="convnet", help="architecture to train")
    evaluate.add_argument("--model-args", default="{}", metavar="JSON", help="its arguments")
    evaluate.add_argument("--seeds", type=int, default=3, metavar="N", help="networks trained")
    evaluate.add_argument("--epochs", type=int, default=300, help="passes over S")
    evaluate.add_argument("--augment", action="store_true", help="shift images at random while training")
    evaluate.add_argument("--device", default="cpu", help="cpu or cuda")
    _threads_option(evaluate)
    evaluate.set_defaults(run=_evaluate)

    plan = commands.add_parser(
        "plan",
        help="what a schedule costs, before anybody is asked",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    plan.add_argument("--rounds", type=int, default=100, metavar="T", help="queries to each client")
    _privacy_options(plan, "one of these two is needed")
    plan.set_defaults(run=_plan)

    verify = commands.add_parser("verify", help="check a release you received: files, ledgers, and every epsilon")
    verify.add_argument("release", metavar="RELEASE", help="a release folder")
    verify.set_defaults(run=_verify)
    return parser


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset", default="digits", help="digits, mnist, fashionmnist, cifar10, FILE.npz or an image FOLDER"
    )
    parser.add_argument("--root", help="where torchvision's files are")
    parser.add_argument("--download", action="store_true", help="let torchvision download what is missing")


def _threads_option(parser: argparse.ArgumentParser) -> None:
    # Two threads were up to ten times slower than one where another process wanted the second core.
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of torch (default 1)")


def _privacy_options(parser: argparse.ArgumentParser, note: str) -> None:
    group = parser.add_argument_group("privacy", note)
    group.add_argument("--target-epsilon", type=float, metavar="E", help="epsilon of the whole run, per client")
    group.add_argument("--noise-multiplier", type=float, metavar="SIGMA", help="noise over clipping norm, instead")
    group.add_argument("--delta", type=float, default=1e-5, help="well below 1 / examples of a client")
    group.add_argument("--sample-rate", type=float, default=1.0, metavar="Q", help="probability of each example's coin")


def _demo(options: argparse.Namespace) -> int:
    from private_distdd.demo import run_demo

    run_demo(options.output, options.seed)
    return 0


def _distill(options: argparse.Namespace) -> int:
    from private_distdd.data.datasets import load_dataset
    from private_distdd.federation.client import Client
    from private_distdd.federation.partition import dirichlet_split
    from private_distdd.methods.distdd import DistDD
    from private_distdd.privacy.ledger import Ledger
    from private_distdd.privacy.spec import Privacy

    if Path(options.output).exists():  # before the work, not after it
        raise ConfigurationError(f"--output {options.output} exists", "a new folder", "Choose another name.")
    if options.resume and options.checkpoint is None:
        raise ConfigurationError("--resume without --checkpoint", "both, or neither", "Name the run's folder.")
    privacy = None
    if options.target_epsilon is not None or options.noise_multiplier is not None:
        privacy = Privacy(
            target_epsilon=options.target_epsilon,
            noise_multiplier=options.noise_multiplier,
            delta=options.delta,
            sample_rate=options.sample_rate,
            max_grad_norm=options.max_grad_norm,
        )
    knobs = _knobs(options.set, DistDD)
    method = DistDD(
        ipc=options.ipc,
        rounds=options.rounds,
        model=options.model,
        aggregator=options.aggregator,
        participation=options.participation,
        privacy=privacy,
        device=options.device,
        seed=options.seed,
        **knobs,
    )
    if privacy is None:
        print("NOT PRIVATE: no --target-epsilon was given; messages are exact gradients.", file=sys.stderr)
    train, _ = load_dataset(options.dataset, root=options.root, download=options.download)
    ledgers = None if options.checkpoint is None else _ledgers(options)
    with contextlib.ExitStack() as opened:

        def make_client(client_id: str, dataset: Dataset[Any]) -> Client:
            ledger = None
            if ledgers is not None:
                ledger = opened.enter_context(Ledger(ledgers / f"{client_id}.jsonl", client_id=client_id))
            return Client(client_id, dataset, ledger, device=options.device)

        clients = dirichlet_split(
            train, options.num_clients, options.dirichlet, seed=options.seed, make_client=make_client
        )
        release = method.fit(clients, progress=True, checkpoint=options.checkpoint, resume=options.resume)
    folder = release.save(options.output)
    most = max(release.epsilon.values())
    claim = f"epsilon {most:.4g} at delta {options.delta:g} a client" if release.private else "NOT PRIVATE"
    print(f"{folder}: {len(release.dataset)} images, {claim}")
    if release.private:
        _print_bills(release.card["clients"])
    if options.checkpoint is not None and release.card["progress"]["stopped_early"]:
        print(f"stopped early: {options.checkpoint} can go on, with --resume and another --output")
    root = f" --root {options.root}" if options.root else ""
    print(f"next: private-distdd evaluate {folder} --dataset {options.dataset}{root}")
    return 0


def _print_bills(clients: Mapping[str, Any]) -> None:
    """A line for each different bill: the claim of the run and what was spent, by both accountants."""
    names: dict[str, list[str]] = {}
    for client_id, bill in clients.items():
        by = [f"{part} {bill[part]['rdp']:.4g} by RDP, {bill[part]['prv']:.4g} by PRV" for part in ("claim", "spent")]
        names.setdefault("; ".join(by), []).append(client_id)
    for line, group in names.items():
        who = ", ".join(group) if len(group) < 4 else f"{len(group)} clients ({group[0]}, {group[1]}, ... {group[-1]})"
        print(f"  {who}: {line}")


def _ledgers(options: argparse.Namespace) -> Path:
    """The folder for the clients' ledgers, which belong to one split of one data set.

    Raises:
        CheckpointError: the ledgers there are those of other data, or there is no such folder and none can be made.
    """
    from private_distdd.storage import sync, to_json, write_file

    folder = Path(options.checkpoint)
    split = {"dataset": options.dataset, "num_clients": options.num_clients, "seed": options.seed}
    split |= {"dirichlet": str(options.dirichlet)}  # JSON has no infinity
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


_OWN_OPTIONS = {"ipc", "rounds", "model", "aggregator", "participation", "privacy", "device", "seed"}


def _knobs(pairs: Sequence[str], method: type) -> dict[str, Any]:
    fields = set(method.__dataclass_fields__)  # type: ignore[attr-defined]  # every method is a dataclass
    allowed = sorted(fields - _OWN_OPTIONS)
    knobs = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in allowed:
            raise ConfigurationError(
                f"--set {pair}", f"NAME=JSON with NAME in {allowed}", "Correct the name, or use its own option."
            )
        try:
            knobs[name] = json.loads(text)
        except json.JSONDecodeError:
            knobs[name] = text  # plain words need no quotes
    return knobs


def _evaluate(options: argparse.Namespace) -> int:
    from private_distdd.data.datasets import load_dataset
    from private_distdd.evaluation import evaluate
    from private_distdd.release import Release

    release = Release.load(options.release)
    info = release.dataset.info
    try:
        model_args = json.loads(options.model_args)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"--model-args {options.model_args}", "a JSON object", str(error)) from error
    _, test = load_dataset(options.dataset, root=options.root, download=options.download, mean=info.mean, std=info.std)
    result = evaluate(
        release.dataset,
        test,
        model=options.model,
        model_args=model_args,
        seeds=range(options.seeds),
        epochs=options.epochs,
        augment=options.augment,
        device=options.device,
    )
    most = max(release.epsilon.values())
    bill = f"epsilon {most:.4g}" if release.private else "NOT PRIVATE"
    print(f"accuracy on {len(test)} real test images: {result}; {bill}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from private_distdd.privacy.spec import Privacy
    from private_distdd.reporting.plan import print_plan

    privacy = Privacy(
        target_epsilon=options.target_epsilon,
        noise_multiplier=options.noise_multiplier,
        delta=options.delta,
        sample_rate=options.sample_rate,
    )
    print_plan(privacy, options.rounds)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from private_distdd.release import verify_folder

    failures = verify_folder(options.release)
    for failure in failures:
        print(f"FAILED {failure}")
    if not failures:
        print(f"{options.release}: every file, ledger line and epsilon checks out")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
