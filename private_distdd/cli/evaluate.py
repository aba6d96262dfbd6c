"""`private-distdd evaluate`: what networks learn from a release, or its own classifier, on real test data."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from private_distdd.cli.claims import claim_record
from private_distdd.cli.options import (
    Commands,
    Help,
    add_data_options,
    add_json_option,
    add_model_args_option,
    add_quiet_option,
    add_threads_option,
    data_arguments,
    json_object,
    print_json,
)
from private_distdd.errors import ConfigurationError

if TYPE_CHECKING:
    from private_distdd.data.info import DatasetInfo
    from private_distdd.evaluation import Evaluation

_SHOWN, _LETTERS = 20, 16  # classes of a confusion matrix that is printed, and letters of their names


def add(commands: Commands) -> None:
    """Put the command and its options into the parser."""
    evaluate = commands.add_parser(
        "evaluate",
        help="train fresh networks on a release and test them on real data",
        formatter_class=Help,
    )
    evaluate.add_argument("release", metavar="RELEASE", help="a release folder")
    add_data_options(evaluate, None, "the data to test on (default: those that the release names)")
    evaluate.add_argument(
        "--model", default="convnet", help="what is trained: convnet, lenet, mlp, resnet or scatter_linear"
    )
    add_model_args_option(evaluate)
    evaluate.add_argument("--seeds", type=int, default=3, metavar="N", help="networks trained")
    evaluate.add_argument("--epochs", type=int, default=300, help="passes over S")
    evaluate.add_argument("--augment", action="store_true", help="shift images at random while training")
    what = evaluate.add_mutually_exclusive_group()
    what.add_argument(
        "--labels", default="hard", help="what is trained on: hard, soft, or mixed (30 %% hard, 70 %% soft)"
    )
    what.add_argument("--teacher", action="store_true", help="test the release's own classifier; nothing is trained")
    evaluate.add_argument("--device", default="cpu", help="cpu or cuda")
    add_threads_option(evaluate)
    add_json_option(evaluate)
    add_quiet_option(evaluate)
    evaluate.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the accuracy of networks trained on a release, or of its classifier, beside its claim if that holds; 0.

    Raises:
        ConfigurationError: a release of no published data set without `--dataset`, `--model-args` that are no JSON,
            or what was asked for, soft labels or a teacher, is not in the release.
    """
    from private_distdd.data.info import DatasetInfo
    from private_distdd.data.load import load_alike, published_names
    from private_distdd.evaluation import Evaluation, evaluate, require_alike
    from private_distdd.networks.device import require_device
    from private_distdd.protocol import scores_of
    from private_distdd.release.release import Release

    release = Release.load(options.release)
    asked = options.teacher or release.synthetic is None
    teacher = release.teacher if asked else None
    info = DatasetInfo.from_json(release.card["data"])
    if options.teacher and teacher is None:
        raise ConfigurationError("--teacher for a release without one", "a release with a teacher", "Leave it out.")
    model_args = {} if options.model_args is None else json_object("--model-args", options.model_args)
    name = options.dataset or (info.name if info.name in published_names() else None)
    if name is None:
        raise ConfigurationError(
            f"a release of {info.name!r} without --dataset",
            "the data to test on",
            "Add --dataset FILE.npz, FILE.csv or FOLDER.",
        )
    _, test = load_alike(name, info, **data_arguments(options))
    if test.info.name != info.name:
        print(
            f"note: the release stands for {info.name!r}, the test {test.info.form.many} are of {test.info.name!r}",
            file=sys.stderr,
        )
    if teacher is None:
        found = evaluate(
            release.dataset,
            test,
            model=options.model,
            model_args=model_args,
            seeds=range(options.seeds),
            epochs=options.epochs,
            augment=options.augment,
            labels=options.labels,
            device=options.device,
            progress=not options.quiet,
        )
        how: dict[str, Any] = {"labels": found.labels, "seeds": found.seeds}
        result = str(found)
    else:
        require_alike(teacher.info, test.info)
        require_device(options.device)
        scores = scores_of(teacher.build().to(options.device), test, device=options.device)
        found, how = Evaluation(teacher.spec, (), (scores,)), {}
        result = f"{found.mean:.1%} (the release's classifier, {teacher.spec.name})"
    said, failures = release.verdict, release.failures()
    if options.json:
        tested = {"test": test.info.name, "examples": len(test), "model": found.model.to_json(), **how}
        shown = ("accuracies", "mean", "std", "balanced_accuracy", "auc", "confusion")
        record = {name: getattr(found, name) for name in shown} | claim_record(release)
        print_json({"release": options.release, **tested, **record, "failures": failures})
        return 0
    if failures:
        said = f"NOT VERIFIED: private-distdd verify {options.release} says what is wrong with its claim"
    print(f"accuracy on {len(test)} real test {test.info.form.many} of {test.info.name}: {result}; {said}")
    _report(found, test.info)
    return 0


def _report(found: Evaluation, info: DatasetInfo) -> None:
    """What accuracy does not tell where classes are of different sizes; means and sums over the networks."""
    print(f"balanced accuracy {found.balanced_accuracy:.1%}, AUC {found.auc:.3f}")
    if info.num_classes > _SHOWN:
        return
    names = [info.class_name(label)[:_LETTERS] for label in range(info.num_classes)]
    width, first = max(len(str(n)) for row in found.confusion for n in row), max(map(len, names))
    print("true class, and how many were taken for each class in this order:")
    for name, row in zip(names, found.confusion, strict=True):
        print(f"  {name:<{first}}  {' '.join(f'{n:>{width}}' for n in row)}")
