"""`private-distdd site`: what a data's owner does: begin, run, look, consent."""

from __future__ import annotations

import argparse
import contextlib
import logging
import logging.handlers
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from private_distdd.cli.options import Commands, add_threads_option
from private_distdd.errors import ConfigurationError, PrivateDistDDError

if TYPE_CHECKING:
    from private_distdd.privacy.ledger import History
    from private_distdd.site.config import SiteConfig
    from private_distdd.site.key import SiteKey
    from private_distdd.wire.run import Run


LOG_BYTES = 10_000_000  # of a log; three older ones are kept


def add(commands: Commands) -> None:
    """Put the command and its own commands into the parser."""
    site = commands.add_parser("site", help="run a site: your data, your ledger, and what you agree to")
    steps = site.add_subparsers(title="commands", required=True, metavar="COMMAND")
    init = steps.add_parser("init", help="a new folder with a key and a commented configuration")
    init.add_argument("folder", metavar="FOLDER", help="where; made for your eyes only")
    init.add_argument("--client-id", required=True, metavar="NAME", help="what others know the site by")
    init.set_defaults(run=_init)
    start = steps.add_parser("run", help="answer at the socket until SIGTERM or Ctrl-C")
    add_threads_option(start)
    start.set_defaults(run=_run)
    status = steps.add_parser("status", help="is it there, what is spent, which runs wait for consent")
    status.set_defaults(run=_status)
    approve = steps.add_parser("approve", help="show a run's terms and what they cost, and agree to them")
    decline = steps.add_parser("decline", help="strike out a run that waits")
    for command in (start, status, approve, decline):
        command.add_argument("config", metavar="SITE.TOML", help="the site's configuration")
    for command in (approve, decline):
        command.add_argument("name", metavar="RUN", help="the run's name, or its terms' hash")
    approve.add_argument("--yes", action="store_true", help="do not ask; only with the terms' hash")
    approve.set_defaults(run=_approve)
    decline.set_defaults(run=_decline)


def _init(options: argparse.Namespace) -> int:
    from private_distdd.files import write_file
    from private_distdd.site.config import EXAMPLE
    from private_distdd.site.key import SiteKey
    from private_distdd.validate import require_identifier

    name, folder = require_identifier("client_id", options.client_id), Path(options.folder)
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: {error.strerror}", "a new folder in one that exists", "Choose another."
        ) from error
    key = SiteKey.create(folder / "key.pem")
    write_file(folder / "site.toml", EXAMPLE.format(client_id=name).encode(), mode=0o600)
    print(f"{folder / 'site.toml'}: say there where the data are and what may be spent on them, then")
    print(f"    private-distdd site run {folder / 'site.toml'}")
    print(f"The key's fingerprint, for those who verify releases: tell it by a way that they trust.\n{key.fingerprint}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from private_distdd.site.daemon import Daemon

    config = _config(options)
    os.umask(0o077)  # all that this process writes is for its owner's eyes only
    with _logged(config):
        client = config.client()
        with client.ledger:
            daemon = Daemon(client, config.socket)
            with daemon.ended_by_signals():
                print(f"{config.client_id}: listening at {config.socket}; key {client.key.fingerprint}", flush=True)
                daemon.serve()
    print(f"{config.client_id}: ended")
    return 0


def _status(options: argparse.Namespace) -> int:
    config = _config(options)
    print(f"{config.client_id}: {_presence(config)}")
    ledger = _ledger(config)
    print(_spent(config, ledger))
    for run in _waiting(config):
        print("waits for consent: " + _terms(config, ledger, run))
    return 0


def _approve(options: argparse.Namespace) -> int:
    from private_distdd.site.consents import is_digest

    if options.yes and not is_digest(options.name):
        raise ConfigurationError(
            f"--yes with {options.name!r}", "--yes with the 64 digits of its terms' hash", "A name says no terms."
        )
    config = _config(options)
    consents = config.consents(_key(config))
    run, ledger = consents.find(options.name), _ledger(config)
    print(_terms(config, ledger, run))
    print(_spent(config, ledger))
    if not options.yes and input("Agree to exactly this? [y/N] ").strip().lower() not in ("y", "yes"):
        print("not agreed; the run waits on")
        return 1
    consents.approve(run)
    print(f"agreed to run {run.run_id}, signed; it takes effect when the run is offered again")
    return 0


def _decline(options: argparse.Namespace) -> int:
    config = _config(options)
    consents = config.consents(_key(config))
    run = consents.find(options.name)
    consents.decline(run)
    print(f"run {run.run_id} waits no longer")
    return 0


def _config(options: argparse.Namespace) -> SiteConfig:
    from private_distdd.site.config import SiteConfig

    return SiteConfig.read(Path(options.config))


def _key(config: SiteConfig) -> SiteKey:
    from private_distdd.site.key import SiteKey

    return SiteKey.load(config.key)


def _waiting(config: SiteConfig) -> list[Run]:
    return config.consents(_key(config)).waiting() if config.consent else []


def _presence(config: SiteConfig) -> str:
    from private_distdd.engines.relay import relay
    from private_distdd.errors import QueryRefusedError
    from private_distdd.wire.frame import PING, Presence, request_frame, response_of

    try:
        there = Presence.from_bytes(response_of(relay(config.socket, request_frame(PING, b""), seconds=2)) or b"")
    except TimeoutError:
        return f"busy with a request at {config.socket}"
    except OSError:
        return f"not running (nobody listens at {config.socket})"
    except QueryRefusedError as error:
        return f"something else listens at {config.socket}: {error}"
    return f"listening at {config.socket} (private-distdd {there.version})"


def _ledger(config: SiteConfig) -> History:
    """The ledger as it stands; one that does not exist yet has spent nothing."""
    from private_distdd.privacy.ledger import Ledger, parse

    try:
        data = config.ledger.read_bytes()
    except FileNotFoundError:
        return Ledger(None, config.budget, client_id=config.client_id)
    except OSError as error:
        raise ConfigurationError(f"{config.ledger}: {error.strerror}", "the site's ledger", "Mend that.") from error
    return parse(data[: data.rfind(b"\n") + 1])  # a line may just be under way


def _spent(config: SiteConfig, ledger: History) -> str:
    from private_distdd.privacy.accountants import best_epsilon
    from private_distdd.rounding import rounded_up

    delta = _delta(config)
    limit = "no budget" if ledger.budget is None else f"the budget is epsilon {ledger.budget.epsilon:g}"
    parts = {"spent": list(ledger.events), "promised in all": [*ledger.events, *ledger.reserved()]}
    sums = [f"{name} {rounded_up(best_epsilon(events, delta)) if events else 0}" for name, events in parts.items()]
    return f"epsilon at delta {delta:g}: {', '.join(sums)}; {limit}"


def _terms(config: SiteConfig, ledger: History, run: Run) -> str:
    """All that the owner is asked to agree to, in words, and what it costs."""
    from private_distdd.privacy.accountants import best_epsilon
    from private_distdd.rounding import rounded_up

    info, plan = run.info, run.plan
    terms = (
        f"run {run.run_id} (terms {run.terms_digest})\n  on {info.name!r}: {info.num_classes} classes of {info.shape}"
    )
    if plan is None:
        return f"{terms}\n  WITHOUT PRIVACY: exact statistics; this site refuses it"
    delta = _delta(config)  # the owner's: at the server's own, a price may be whatever it likes
    try:
        price = rounded_up(best_epsilon([plan.schedule], delta))
        affords = ledger.affords([plan.schedule])
    except PrivateDistDDError as error:
        return f"{terms}\n  its price cannot be computed ({error}): decline it"
    return (
        f"{terms}\n  at most {plan.max_queries} messages of {plan.events_per_query} measurement(s): noise "
        f"{plan.noise_multiplier:.4g} times max_grad_norm {plan.max_grad_norm:g}, sample_rate {plan.sample_rate:g}\n"
        f"  costs epsilon {price} at your delta {delta:g} in all, however much of it is asked\n"
        f"  the budget {'can' if affords else 'CANNOT'} pay that"
    )


def _delta(config: SiteConfig) -> float:
    if config.budget is not None:
        return config.budget.delta
    assert config.plan is not None  # noqa: S101 - a configuration has one of the two; this tells the type checker
    return config.plan.delta


@contextlib.contextmanager
def _logged(config: SiteConfig) -> Iterator[None]:
    """What the site has to say goes into the owner's own file, and nowhere else."""
    try:  # of a bounded size: whoever reaches the site can make it say much
        handler = logging.handlers.RotatingFileHandler(config.log, maxBytes=LOG_BYTES, backupCount=3)
    except OSError as error:
        raise ConfigurationError(f"{config.log}: {error.strerror}", "a file to write to", "Mend that.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger(f"private_distdd_client.{config.client_id}")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.propagate = True
