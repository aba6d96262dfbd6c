"""Options that several commands share: data, threads, privacy; and what they ask for."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from private_distdd.errors import ConfigurationError

if TYPE_CHECKING:
    from private_distdd.privacy.plan import Privacy

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What a command adds itself to."""

_PRIVACY = ("delta", "sample_rate", "max_grad_norm", "divisor", "allow_large_delta")


class Help(argparse.HelpFormatter):
    """Defaults behind those options that have one worth saying."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        said = action.default in (None, False, argparse.SUPPRESS) or action.default == [] or "default" in text
        return text if said else f"{text} (default: %(default)s)"


Parser: TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"
"""What options are added to."""


def add_data_options(parser: Parser, default: str | None, use: str, option: str = "--dataset") -> None:
    """Where data come from.

    Args:
        parser: the command's, or a group in it.
        default: the data set without `--dataset`, or None.
        use: what the data are for, in words.
        option: how the command calls `--dataset`.
    """
    parser.add_argument(
        option,
        default=default,
        help=f"{use}: digits, mnist, fashionmnist, cifar10, wine, breast_cancer, iris, FILE.npz, FILE.csv or an image "
        "FOLDER",
    )
    parser.add_argument("--root", metavar="FOLDER", help="where torchvision's files are")
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="of an .npz, or a folder or .csv with classes 0, 1, ...: a public constant",
    )
    parser.add_argument(
        "--classes",
        metavar="NAME,NAME,...",
        help="of a folder, .npz or .csv, in order, also those without examples: a public constant",
    )
    parser.add_argument(
        "--size", metavar="H[xW]", help="of a folder or .npz: height and width that all images are brought to"
    )
    parser.add_argument(
        "--channels", type=int, metavar="N", help="of a folder or .npz: 1 makes all images grey, 3 coloured"
    )
    parser.add_argument(
        "--label", metavar="COLUMN", help="of a .csv: the name of its column of classes (default: the last column)"
    )
    parser.add_argument("--download", action="store_true", help="let torchvision download what is missing")


def data_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What the data options say, beside the name, as arguments of `load_dataset`.

    Raises:
        ConfigurationError: `--size` is no size.
    """
    classes = None if options.classes is None else options.classes.split(",")
    given = {"num_classes": options.num_classes, "classes": classes, "label": options.label}
    given |= {"size": None if options.size is None else _size(options.size), "channels": options.channels}
    return {
        "root": options.root,
        "download": options.download,
        **{name: value for name, value in given.items() if value is not None},
    }


def _size(text: str) -> tuple[int, int]:
    high, _, wide = text.partition("x")
    try:
        return int(high), int(wide or high)
    except ValueError:
        raise ConfigurationError(f"--size {text}", "H or HxW, such as 64 or 48x64", "Correct it.") from None


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """`--json`, for `print_json`."""
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object in place of words")


def add_quiet_option(parser: argparse.ArgumentParser) -> None:
    """`--quiet`, of commands that take long."""
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def print_json(record: Mapping[str, Any]) -> None:
    """One JSON object on standard output; JSON has no infinity, which is then "infinity" as on cards."""
    print(json.dumps(_finite(record), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "infinity" if value > 0 else None
    return value


def add_model_args_option(parser: argparse.ArgumentParser) -> None:
    """`--model-args`, which `json_object` reads."""
    parser.add_argument("--model-args", metavar="JSON", help="the network's arguments, e.g. '{\"width\": 32}'")


def json_object(option: str, text: str) -> dict[str, Any]:
    """What an option's text says as JSON.

    Raises:
        ConfigurationError: it is no object.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{option} {text}", "a JSON object", f"Write it so: {option} '{{\"width\": 32}}'.")
    return found


def add_threads_option(parser: argparse.ArgumentParser) -> None:
    """`--threads`, which `main` sets before the command runs."""
    # Two threads were up to ten times slower than one where another process wanted the second core.
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of torch (default 1)")


def set_threads(count: int) -> None:
    """Let torch use so many threads.

    Raises:
        ConfigurationError: fewer than 1.
    """
    import torch

    if count < 1:
        raise ConfigurationError(f"--threads {count}", "a whole number of at least 1", "1 is right on a busy machine.")
    torch.set_num_threads(count)


def add_privacy_options(parser: argparse.ArgumentParser, note: str) -> argparse._ArgumentGroup:
    """The group of the mechanism's options, to which a command may add its own.

    Args:
        parser: the command's.
        note: what stands below the group's title.
    """
    group = parser.add_argument_group("privacy", note)
    group.add_argument("--target-epsilon", type=float, metavar="E", help="epsilon of the whole run, per client")
    group.add_argument("--noise-multiplier", type=float, metavar="SIGMA", help="noise over clipping norm, instead")
    group.add_argument("--delta", type=float, help="well below 1 / examples of a client (default 1e-5)")
    group.add_argument(
        "--allow-large-delta", action="store_const", const=True, help="take a delta above 1e-3, hardly any privacy"
    )
    group.add_argument("--sample-rate", type=float, metavar="Q", help="probability of each example's coin (default 1)")
    return group


def asked_privacy(options: argparse.Namespace) -> Privacy | None:
    """What the options ask for; None without a target or sigma, which then no other privacy option may pretend.

    Raises:
        ConfigurationError: some are out of range, contradict each other, or stand alone.
    """
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
