"""Which method, and which of the command line's options are its knobs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from private_distdd.cli.options import json_object
from private_distdd.errors import ConfigurationError

_OPTIONS = ("ipc", "rounds", "participation", "model", "aggregator")  # of the command line; a method may lack some
_ALWAYS = ("privacy", "device", "seed")  # every method has these


def method_name(text: str) -> str:
    """The name of a registered method, as a type of argparse's.

    Raises:
        argparse.ArgumentTypeError: there is none of this name.
    """
    from private_distdd import baselines as _baselines  # noqa: F401 - they register themselves
    from private_distdd.methods import registered_methods  # imports torch: not where help is asked for

    if text not in registered_methods():
        known = ", ".join(map(repr, registered_methods()))
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {known})")
    return text


def given_knobs(options: argparse.Namespace, method: type[Any]) -> dict[str, Any]:
    """The knobs of a method that were given, by an option of their own or by `--set`; the others keep its defaults.

    Args:
        options: of `distill`; those not given are None.
        method: the class that they are for, a dataclass.

    Raises:
        ConfigurationError: one was given that the method does not have, or that is not written as it must be.
    """
    names = {field.name for field in fields(method)}
    given = {name: getattr(options, name) for name in _OPTIONS if getattr(options, name) is not None}
    if options.model_args is not None:
        given["model_args"] = json_object("--model-args", options.model_args)
    for name in given:
        if name not in names:
            option = f"--{name.replace('_', '-')} {given[name]}"
            raise ConfigurationError(
                f"{option} with --method {options.method}", "no such option", "It has no such knob."
            )
    # A knob that was given by its option is not there for `--set`.
    return given | _set(options.set, sorted(names - {*given, *_OPTIONS, *_ALWAYS}))


def _set(pairs: Sequence[str], allowed: Sequence[str]) -> dict[str, Any]:
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
