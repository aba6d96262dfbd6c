"""Noise that somebody else could draw again, from seeds, generators or names; and what a message's form tells."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable

import numpy as np
import torch

from private_distdd.auditing.checks.outcome import certain
from private_distdd.auditing.checks.seeds import digests, reproduced, same, seed_everything
from private_distdd.auditing.probe import Probe
from private_distdd.auditing.report.records import AuditRecord
from private_distdd.data.dataset import ImageDataset
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.site.client import Client
from private_distdd.wire.message import Message
from private_distdd.wire.run import Run


def client_check(dataset: ImageDataset, question: Probe, make: Callable[..., Client] = Client) -> AuditRecord:
    """End to end: the form of a message tells nothing about the data, and seeds of the program do not repeat it.

    Clients with no example, one, one class and the whole of `dataset` answer one query, all of them: who fails where
    others answer tells of its data.  As many bytes from each, finite values in every class, no counts.  Then every
    global generator is seeded and the same clients are made again: all messages differ, and no guessed seed reproduces
    the noise, those made of the names of client and run included.

    Args:
        dataset: what the largest client holds, at least one example.
        question: what they are asked.
        make: the clients: `Client`, or what takes its place.

    Raises:
        Exception: the client's own, where every one of them fails: that tells nothing, and nothing can be audited.
    """
    started = time.perf_counter()
    info = dataset.info
    plan = PrivacyPlan(1.0, 0.5, 1.0, 1.0, 1, delta=1e-5)
    run = Run("leaks", info, plan)
    query = question.query(run, 0)
    one_class = dataset.labels == dataset.labels[0]
    parts = {f"{n} examples": (dataset.images[:n], dataset.labels[:n]) for n in (0, 1, len(dataset))}
    parts["one class"] = dataset.images[one_class], dataset.labels[one_class]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    replies, failures = list[Message](), dict[str, Exception]()
    try:
        for name, (images, labels) in parts.items():
            for _ in range(2):
                seed_everything(0)
                client = make("audited", ImageDataset(images, labels, info))
                client.enroll(run)
                try:
                    replies.append(client.answer(query))
                except Exception as error:  # whatever it is, the others have none
                    failures[name] = error
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    if not replies:
        raise next(iter(failures.values()))
    findings = [f"a client with {name} fails: {type(error).__name__}" for name, error in failures.items()]
    if len({len(reply.data) for reply in replies}) > 1:
        findings.append("messages of different data sets differ in their number of bytes")
    if any(reply.counts is not None for reply in replies):
        findings.append("a message carries counts")
    if any(bool((reply.values == 0).all(dim=1).any()) for reply in replies):
        findings.append("a class of a message is without noise")
    if any(same(a.values, b.values) for a, b in itertools.combinations(replies, 2)):
        findings.append("two messages carry the same noise")
    if "0 examples" not in failures:  # the first client is empty: its messages are noise alone
        names = digests("audited", run.run_id, run.terms_digest, query.message_id)
        findings += [f"class {row}: noise of {name}" for row, name in reproduced(replies[0].values, names)]
    return certain(
        "client_check",
        started,
        findings,
        claim="a message's form is public, and its noise new each time",
        statistic="failures, bytes, counts, classes, equality of messages, guessed seeds",
        trials=len(replies),
        adversary="the server, which knows every public seed",
        assumptions="the data sets tried; time is outside",
    )
