"""The command line: private-distdd demo | distill | evaluate | plan | verify | audit."""

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

from private_distdd.errors import (
    CheckpointError,
    ConfigurationError,
    NotPrivateWarning,
    PrivateDistDDError,
    ReleaseError,
)

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from private_distdd.privacy.plan import Privacy
    from private_distdd.release.release import Release


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 for success, 1 where `verify` or `audit` finds failures, 2 for an error, said in one line."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotPrivateWarning)  # the commands say it themselves
            if hasattr(options, "threads"):
                _set_threads(options.threads)
            code: int = options.run(options)
            return code
    except PrivateDistDDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


class _Help(argparse.HelpFormatter):
    """Defaults behind those options that have one worth saying."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        said = action.default in (None, False, argparse.SUPPRESS) or action.default == [] or "default" in text
        return text if said else f"{text} (default: %(default)s)"


def _set_threads(count: int) -> None:
    import torch

    if count < 1:
        raise ConfigurationError(f"--threads {count}", "a whole number of at least 1", "1 is right on a busy machine.")
    torch.set_num_threads(count)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="private-distdd",
        description="Federated dataset distillation with a privacy bill that can be checked.",
        epilog="Start with `private-distdd demo`: it needs no data and takes a minute or two.",
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
        formatter_class=_Help,
    )
    distill.add_argument(
        "--method",
        choices=["distdd", "collabdm"],
        default="distdd",
        help="how S is made: many rounds of gradients, or one message of embeddings",
    )
    _data_options(distill, "digits", "the data to split over the clients")
    distill.add_argument("--num-clients", type=int, default=10, metavar="N", help="clients the data are split over")
    distill.add_argument(
        "--dirichlet",
        type=float,
        default=math.inf,
        metavar="ALPHA",
        help="skew of the split: 0.1 is strong, inf is IID",
    )
    distill.add_argument("--ipc", type=int, default=10, help="stored synthetic images per class")
    distill.add_argument("--rounds", type=int, metavar="T", help="communication rounds of distdd (default 100)")
    group = _privacy_options(
        distill, 'private runs only; give neither "--target-epsilon" nor "--noise-multiplier" for none'
    )
    group.add_argument("--max-grad-norm", type=float, metavar="C", help="clipping norm of an example (default 1)")
    group.add_argument(
        "--budget-epsilon", type=float, metavar="E", help="lifetime budget of each client's ledger, at --delta"
    )
    distill.add_argument("--aggregator", default="mean", help="mean, sum, median or trimmed_mean of messages")
    distill.add_argument(
        "--participation", type=float, metavar="SHARE", help="of clients asked each round, by distdd (default 1)"
    )
    distill.add_argument("--model", default="convnet", help="convnet, lenet, mlp or resnet, to be matched")
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
        formatter_class=_Help,
    )
    evaluate.add_argument("release", metavar="RELEASE", help="a release folder")
    _data_options(evaluate, None, "the data to test on (default: those that the release names)")
    evaluate.add_argument("--model", default="convnet", help="what is trained: convnet, lenet, mlp or resnet")
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
        formatter_class=_Help,
    )
    plan.add_argument("--rounds", type=int, default=100, metavar="T", help="queries to each client")
    _privacy_options(plan, "one of these two is needed")
    plan.set_defaults(run=_plan)

    verify = commands.add_parser("verify", help="check a release you received: files, ledgers, and every epsilon")
    verify.add_argument("release", metavar="RELEASE", help="a release folder")
    verify.set_defaults(run=_verify)

    audit = commands.add_parser(
        "audit", help="attack the messages behind a release, and bound epsilon from below: audit.json and audit.html"
    )
    audit.add_argument("target", metavar="RELEASE_OR_CONFIG", help="a release folder, or a plan's constants as JSON")
    audit.add_argument("--output", metavar="FOLDER", help="a new folder (default: RELEASE-audit, beside the release)")
    audit.add_argument("--quick", action="store_true", help="ten times fewer trials, under a minute")
    audit.add_argument("--seed", type=int, default=0, help="of noise and coins of the statistical audits (default 0)")
    _threads_option(audit)
    audit.set_defaults(run=_audit)
    return parser


def _data_options(parser: argparse.ArgumentParser, default: str | None, use: str) -> None:
    parser.add_argument(
        "--dataset", default=default, help=f"{use}: digits, mnist, fashionmnist, cifar10, FILE.npz or an image FOLDER"
    )
    parser.add_argument("--root", metavar="FOLDER", help="where torchvision's files are")
    parser.add_argument(
        "--num-classes", type=int, metavar="N", help="of an .npz, or a folder with classes 0, 1, ...: a public constant"
    )
    parser.add_argument(
        "--classes", metavar="NAME,NAME,...", help="of a folder, in order, also those without images: a public constant"
    )
    parser.add_argument("--download", action="store_true", help="let torchvision download what is missing")


def _threads_option(parser: argparse.ArgumentParser) -> None:
    # Two threads were up to ten times slower than one where another process wanted the second core.
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of torch (default 1)")


def _privacy_options(parser: argparse.ArgumentParser, note: str) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("privacy", note)
    group.add_argument("--target-epsilon", type=float, metavar="E", help="epsilon of the whole run, per client")
    group.add_argument("--noise-multiplier", type=float, metavar="SIGMA", help="noise over clipping norm, instead")
    group.add_argument("--delta", type=float, help="well below 1 / examples of a client (default 1e-5)")
    group.add_argument("--sample-rate", type=float, metavar="Q", help="probability of each example's coin (default 1)")
    return group


_KNOWN = ("digits", "mnist", "fashionmnist", "cifar10")  # data sets whose class list is published
_PRIVACY = ("delta", "sample_rate", "max_grad_norm")


def _privacy(options: argparse.Namespace) -> Privacy | None:
    """What the options ask for; None without a target or sigma, which then no other privacy option may pretend."""
    from private_distdd.privacy.plan import Privacy

    asked = {name: getattr(options, name, None) for name in _PRIVACY}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    budget = getattr(options, "budget_epsilon", None)
    if options.target_epsilon is None and options.noise_multiplier is None:
        if given or budget is not None:
            named = [f"--{name.replace('_', '-')}" for name in given] or ["--budget-epsilon"]
            raise ConfigurationError(
                f"{', '.join(named)} without --target-epsilon or --noise-multiplier",
                "privacy options together with one of these two",
                "Add one of them; without both a run is NOT private.",
            )
        return None
    return Privacy(target_epsilon=options.target_epsilon, noise_multiplier=options.noise_multiplier, **given)


def _demo(options: argparse.Namespace) -> int:
    from private_distdd.cli.demonstration import run_demo

    run_demo(options.output, options.seed)
    return 0


def _distill(options: argparse.Namespace) -> int:
    from private_distdd.data.load import load_dataset
    from private_distdd.methods.collabdm import CollabDM
    from private_distdd.methods.distdd import DistDD
    from private_distdd.privacy.ledger import Budget, Ledger
    from private_distdd.release.release import manifest_hash
    from private_distdd.simulation.splits import dirichlet_split
    from private_distdd.site.client import Client

    _check_output(Path(options.output))  # before the work, not after it
    if options.resume and options.checkpoint is None:
        raise ConfigurationError("--resume without --checkpoint", "both, or neither", "Name the run's folder.")
    privacy = _privacy(options)
    budget = None
    if privacy is not None and options.budget_epsilon is not None:
        budget = Budget(options.budget_epsilon, privacy.delta)
    named = options.num_classes is not None or options.classes is not None
    if privacy is not None and options.dataset not in _KNOWN and not named:
        raise ConfigurationError(
            f"--dataset {options.dataset} with privacy and without its classes",
            "the class list as a public constant",
            "Reading it off private data would tell something about them: add --num-classes N, or --classes A,B,... "
            "for an image folder.",
        )
    make_method: type[DistDD] | type[CollabDM] = CollabDM if options.method == "collabdm" else DistDD
    method = make_method(
        ipc=options.ipc,
        model=options.model,
        aggregator=options.aggregator,
        privacy=privacy,
        device=options.device,
        seed=options.seed,
        **_rounds(options, make_method),
        **_knobs(options.set, make_method),
    )
    if privacy is None:
        print(
            "NOT PRIVATE: neither --target-epsilon nor --noise-multiplier was given; messages are exact statistics.",
            file=sys.stderr,
        )
    train, _ = load_dataset(
        options.dataset,
        root=options.root,
        download=options.download,
        num_classes=options.num_classes,
        classes=_classes(options),
    )
    ledgers = None if options.checkpoint is None else _ledgers(options)
    with contextlib.ExitStack() as opened:

        def make_client(client_id: str, dataset: Dataset[Any]) -> Client:
            path = None if ledgers is None else ledgers / f"{client_id}.jsonl"
            ledger = opened.enter_context(Ledger(path, budget, client_id=client_id))
            return Client(client_id, dataset, ledger, device=options.device)

        clients = dirichlet_split(
            train, options.num_clients, options.dirichlet, seed=options.seed, make_client=make_client
        )
        release = method.fit(clients, progress=True, checkpoint=options.checkpoint, resume=options.resume)
    folder = release.save(options.output)
    print(f"{folder}: {len(release.dataset.labels)} images, {_claim(release)}")
    if release.private:
        _print_bills(release.card["clients"])
    progress = release.card["progress"]
    if progress["stopped_early"]:
        rounds = f"{progress['rounds_done']} of {progress['rounds_planned']} rounds"
        print(f"stopped early, after {rounds} and {progress['matching_steps']} steps on S")
        if options.checkpoint is not None:
            print(f"{options.checkpoint} can go on, with --resume and another --output")
    print(f"{manifest_hash(folder)}  manifest.json: give this hash to whoever receives the release")
    root = f" --root {options.root}" if options.root else ""
    print(f"next: private-distdd evaluate {folder} --dataset {options.dataset}{root}")
    return 0


def _classes(options: argparse.Namespace) -> list[str] | None:
    return None if options.classes is None else options.classes.split(",")


def _check_output(folder: Path) -> None:
    """Refuse, before the work, a folder that is there already or cannot be made."""
    if folder.exists():
        raise ConfigurationError(f"--output {folder} exists", "a new folder", "Choose another name.")
    try:
        folder.mkdir(parents=True)
        folder.rmdir()
    except OSError as error:
        raise ConfigurationError(
            f"--output {folder}: {error.strerror}", "a folder that can be made", "Choose another place."
        ) from error


def _claim(release: Release) -> str:
    from private_distdd.rounding import rounded_up

    if lost := release.card.get("unaccounted"):
        return f"NOT PRIVATE: the ledgers of {', '.join(sorted(lost))} do not account for their messages"
    if not release.private:
        return "NOT PRIVATE: no guarantee"
    most = max(release.epsilon.values())
    weak = "; above 10 a claim is weak" if most > 10 else ""
    return f"epsilon {rounded_up(most)} at delta {release.card['plan']['delta']:g} a client{weak}"


def _print_bills(clients: Mapping[str, Any]) -> None:
    """A line for each different bill: the claim of the run and what was spent, by both accountants."""
    from private_distdd.rounding import rounded_up

    names: dict[str, list[str]] = {}
    for client_id, bill in clients.items():
        by = [
            f"{part} {rounded_up(bill[part]['rdp'])} by RDP, {rounded_up(bill[part]['prv'])} by PRV"
            for part in ("claim", "spent")
        ]
        names.setdefault("; ".join(by), []).append(client_id)
    for line, group in names.items():
        who = ", ".join(group) if len(group) < 4 else f"{len(group)} clients ({group[0]}, {group[1]}, ... {group[-1]})"
        print(f"  {who}: {line}")


def _ledgers(options: argparse.Namespace) -> Path:
    """The folder for the clients' ledgers, which belong to one split of one data set.

    Raises:
        CheckpointError: the ledgers there are those of other data, or there is no such folder and none can be made.
    """
    from private_distdd.encoding import to_json
    from private_distdd.storage import sync, write_file

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


def _rounds(options: argparse.Namespace, method: type) -> dict[str, Any]:
    """The options on rounds that were given; methods of one message have none."""
    given = {name: getattr(options, name) for name in ("rounds", "participation")}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() - method.__dataclass_fields__.keys():  # type: ignore[attr-defined]  # as in _knobs
        raise ConfigurationError(
            f"--{name} {given[name]} with --method {options.method}", "no such option", "It asks every client once."
        )
    return given


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
    from private_distdd.data.load import load_dataset
    from private_distdd.evaluation import evaluate
    from private_distdd.release.release import Release

    release = Release.load(options.release)
    info = release.dataset.info
    try:
        model_args = json.loads(options.model_args)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"--model-args {options.model_args}", "a JSON object", str(error)) from error
    name = options.dataset or (info.name if info.name in _KNOWN else None)
    if name is None:
        raise ConfigurationError(
            f"a release of {info.name!r} without --dataset", "the data to test on", "Add --dataset FILE.npz or FOLDER."
        )
    _, test = load_dataset(
        name,
        root=options.root,
        download=options.download,
        mean=info.mean,
        std=info.std,
        num_classes=info.num_classes if name.endswith(".npz") else options.num_classes,
        classes=_classes(options),
    )
    if test.info.name != info.name:
        print(f"note: S stands for {info.name!r}, the test images are of {test.info.name!r}", file=sys.stderr)
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
    claim = _claim(release)
    if release.failures():
        claim = f"NOT VERIFIED: private-distdd verify {options.release} says what is wrong with its claim"
    print(f"accuracy on {len(test)} real test images of {test.info.name}: {result}; {claim}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from private_distdd.cli.schedule import print_plan

    privacy = _privacy(options)
    if privacy is None:
        raise ConfigurationError(
            "neither --target-epsilon nor --noise-multiplier", "one of the two", "Say what to plan for."
        )
    print_plan(privacy, options.rounds)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from private_distdd.release.release import Release, manifest_hash, verify_folder

    if not Path(options.release).is_dir():
        raise ReleaseError(f"{options.release}", "a release folder", "There is no such folder: check the path.")
    failures = verify_folder(options.release)
    for failure in failures:
        print(f"FAILED {failure}")
    if not failures:
        print(f"{options.release}: every file, ledger line and epsilon checks out")
        print(f"the claim: {_claim(Release.load(options.release))}")
        print(f"{manifest_hash(Path(options.release))}  manifest.json: compare it with what its maker told you")
    return 1 if failures else 0


def _audit(options: argparse.Namespace) -> int:
    from private_distdd.auditing.report.files import refuted, write_report
    from private_distdd.auditing.report.records import table
    from private_distdd.auditing.suite import audit, invert
    from private_distdd.auditing.target import Target

    target = Target.read(options.target)
    source = Path(options.target).resolve()
    folder = Path(options.output or source.with_name(f"{source.stem}-audit"))
    if folder.exists():  # before the work, not after it
        raise ConfigurationError(f"{folder} exists", "a new folder", "Choose another --output.")
    records, inversions = audit(target, options.quick, options.seed), invert(target, options.quick, options.seed)
    every = [*records, *(inversion.record for inversion in inversions)]
    print(table(every))
    print("bounds at delta = 1e-5 and 95 %; a claim is rejected at 1e-4")
    print(f"next: open {write_report(target, records, folder, inversions) / 'audit.html'}")
    return 1 if refuted(every) else 0


if __name__ == "__main__":
    sys.exit(main())
