"""What a data's owner says about their site, in a TOML file of their own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from torch.utils.data import Dataset

from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset, require_public_classes
from private_distdd.errors import ConfigurationError, PrivateDistDDError
from private_distdd.limits import ComputeLimits
from private_distdd.privacy.ledger import Budget, Ledger
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.site.client import Client
from private_distdd.site.consents import SUFFIX, Consents
from private_distdd.site.key import SiteKey
from private_distdd.validate import require_count, require_identifier

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLE = """\
# The site of one data's owner.  Paths are relative to this file's folder.
#     private-distdd site run THIS_FILE
client_id = "{client_id}"

socket = "site.sock"      # where the site listens, in a folder that only you may enter
# What the data have paid, for their lifetime: never delete it or restore an older copy.
ledger = "ledger.jsonl"
key = "key.pem"           # what the ledger is signed with
log = "site.log"          # for your eyes only: it may hold what errors said about data
# Hold every run back until `private-distdd site approve` agrees to it; or leave it out.
consent = "ask"

[data]
# A FILE.npz, FILE.csv or FOLDER, as load_dataset takes it: its training part is used.
source = "data.npz"
num_classes = 10          # public, as are classes, mean, std, name, size and channels
# In place of source, a data set of your own; the module may lie beside this file:
# factory = "module:function"

# [info]                  # public constants of a data set of your own that carries none
# name = "scans"
# num_classes = 10
# shape = [1, 28, 28]

[budget]                  # the most that may ever be spent on these data, in all runs
epsilon = 8.0
delta = 1e-5              # well below 1 / the number of examples

# [plan]                  # or, or as well, the only terms that are accepted
# noise_multiplier = 1.0
# sample_rate = 1.0
# max_grad_norm = 1.0
# divisor = 1.0
# max_queries = 10
# delta = 1e-5
# max_runs = 1            # how many runs of this plan, in the life of the ledger

# [limits]                # what one query may cost: bytes of memory, operations an example
# memory = 8e9
# work = 1e10
"""

_Built = TypeVar("_Built")


@dataclass(frozen=True)
class SiteConfig:
    """One site, as its owner wants it.

    Args:
        client_id: `[A-Za-z0-9_-]{1,64}`.
        socket, ledger, key, log: files; relative ones are beside the configuration.
        data: `source` and other arguments of `load_dataset`, or `factory`, an import path, with its `arguments`.
        info: public constants of data that carry none; None otherwise.
        budget: see `Ledger`; None only with a plan.
        plan: see `Client`; None only with a budget.
        max_runs: see `Client`.
        consent: hold every run back until the owner agrees to it.
        device: see `Client`.
        limits: see `Client`.
    """

    client_id: str
    socket: Path
    ledger: Path
    key: Path
    log: Path
    data: Mapping[str, Any]
    info: DatasetInfo | None = None
    budget: Budget | None = None
    plan: PrivacyPlan | None = None
    max_runs: int = 1
    consent: bool = False
    device: str = "cpu"
    limits: ComputeLimits | None = None

    @classmethod
    def read(cls, path: Path) -> SiteConfig:
        """The configuration in a TOML file, all of it checked but for what its files hold.

        Raises:
            ConfigurationError: the file cannot be read, lacks a value or has one that is unknown or out of range, or
                there is neither a budget nor a plan.
        """
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _wrong(path, str(error), "a TOML file", "private-distdd site init writes one.") from error
        known = {field.name for field in fields(cls)} - {"max_runs"}
        for name in given:
            if name not in known:
                raise _wrong(path, f"{name!r}", f"{sorted(known)}", "Strike it out, or correct it.")
        for name in ("client_id", "data"):
            if name not in given:
                raise _wrong(path, f"no {name!r}", f"{name} is needed", "Say it.")
        tables = {name: _table(path, name, given[name]) for name in _TABLES if name in given}
        plan = dict(tables.get("plan", {}))
        max_runs = plan.pop("max_runs", 1)
        if "budget" not in tables and "plan" not in tables:
            raise _wrong(
                path, "neither [budget] nor [plan]", "one of them, or both", "Say what may be spent on these data."
            )
        if given.get("consent", "ask") != "ask":
            raise _wrong(path, f"consent = {given['consent']!r}", '"ask", or left out', "Choose one.")
        files = {name: _file(path, name, given.get(name, usual)) for name, usual in _FILES.items()}
        return cls(
            client_id=_built(path, "client_id", lambda: require_identifier("client_id", given["client_id"])),
            **files,
            data=_data(path, tables["data"]),
            info=_of(path, "info", tables, lambda values: DatasetInfo(**values)),
            budget=_of(path, "budget", tables, lambda values: Budget(**values)),
            plan=_of(path, "plan", tables, lambda _: PrivacyPlan.from_json(plan)),
            max_runs=_built(path, "plan", lambda: require_count("max_runs", max_runs, "Accept at least one run.")),
            consent="consent" in given,
            device=_text(path, "device", given.get("device", "cpu")),
            limits=_of(path, "limits", tables, lambda values: ComputeLimits(**values)),
        )

    def client(self) -> Client:
        """The client, with its data, its key, and its ledger open.

        Raises:
            ConfigurationError, DataError, LedgerError: one of them cannot be had.
        """
        key, dataset = SiteKey.load(self.key), self._dataset()
        ledger = Ledger(self.ledger, self.budget, client_id=self.client_id)
        try:
            return Client(
                self.client_id,
                dataset,
                ledger,
                info=self.info,
                plan=self.plan,
                max_runs=self.max_runs,
                allow_without_privacy=False,
                limits=self.limits,
                device=self.device,
                key=key,
                consent=self.consents(key) if self.consent else None,
            )
        except BaseException:
            ledger.close()
            raise

    def consents(self, key: SiteKey) -> Consents:
        """The runs that were offered and agreed to, beside the ledger."""
        return Consents(self.ledger.with_name(self.ledger.name + SUFFIX), self.client_id, key)

    def _dataset(self) -> Dataset[Any]:
        arguments = dict(self.data)
        if "source" in arguments:
            source = arguments.pop("source")
            said = "classes" in arguments or "num_classes" in arguments
            require_public_classes(source, said, "say num_classes or classes in [data].")
            return load_dataset(source, **arguments)[0]
        module, _, name = arguments["factory"].partition(":")
        sys.path.insert(0, str(self.ledger.parent))  # the owner's own code, beside the owner's own files
        try:
            factory = getattr(importlib.import_module(module), name)
            made: Dataset[Any] = factory(**arguments.get("arguments", {}))
        except Exception as error:  # anything: it is the owner's own code, and the owner reads this
            raise ConfigurationError(
                f"[data] factory = {self.data['factory']!r}: {type(error).__name__}: {error}",
                "the import path of a function that returns a data set",
                'Write "package.module:function".',
            ) from error
        return made


_TABLES = ("data", "info", "budget", "plan", "limits")
_FILES = {"socket": "site.sock", "ledger": "ledger.jsonl", "key": "key.pem", "log": "site.log"}
_SOURCE = {"source", "root", "mean", "std", "num_classes", "classes", "label", "name", "size", "channels"}


def _wrong(path: Path, given: str, allowed: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: {given}", allowed, remedy)


def _table(path: Path, name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, f"{name} = {value!r}", "a table", f"Write [{name}].")
    return value


def _file(path: Path, name: str, value: object) -> Path:
    return path.parent.resolve() / _text(path, name, value)


def _text(path: Path, name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(path, f"{name} = {value!r}", "a text", "Write it in quotes.")
    return value


def _data(path: Path, table: Mapping[str, Any]) -> Mapping[str, Any]:
    known = _SOURCE if "source" in table else {"factory", "arguments"}
    if ("source" in table) == ("factory" in table) or set(table) - known:
        raise _wrong(
            path,
            f"[data] with {sorted(table)}",
            f"source with {sorted(_SOURCE - {'source'})}, or factory with arguments",
            "Name one of the two, and no others.",
        )
    name = "source" if "source" in table else "factory"
    _text(path, f"[data] {name}", table[name])
    _table(path, "data.arguments", table.get("arguments", {}))
    if name == "factory":
        return table
    beside = path.parent.resolve() / table["source"]  # a name of a published data set is no file
    return {**table, "source": str(beside)} if beside.exists() else table


def _of(
    path: Path, name: str, tables: Mapping[str, Mapping[str, Any]], build: Callable[[Mapping[str, Any]], _Built]
) -> _Built | None:
    return _built(path, f"[{name}]", lambda: build(tables[name])) if name in tables else None


def _built(path: Path, name: str, build: Callable[[], _Built]) -> _Built:
    try:
        return build()
    except TypeError as error:  # a name that is none of its arguments, or one that is missing
        raise _wrong(path, f"{name}: {error}", "its own names", "Correct it.") from error
    except PrivateDistDDError as error:
        raise _wrong(path, f"{name}: {error.given}", error.allowed, error.remedy) from error
