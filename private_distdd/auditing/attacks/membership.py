"""Membership: was this natural example among the client's?  Asked of the real messages.

The audit draws natural examples instead of crafting canaries, so it says what an ordinary record risks; its bounds are
far below those of `canary_single`, which is no sign that less could leak.  Every figure "TPR at FPR a" stands beside
the ceiling 1 - f(a) = min over epsilon of (delta(epsilon) + e^epsilon a), f the claim's trade-off curve.

Sources: Nasr, Shokri and Houmansadr 2019 (gradients), Carlini et al. 2022 (low FPR), Dong, Roth and Su 2019 (f).
"""

from __future__ import annotations

import time

import numpy as np

from private_distdd.auditing import bounds
from private_distdd.auditing.attacks.gradients import check_public
from private_distdd.auditing.attacks.judged import judged
from private_distdd.auditing.attacks.matched_filter import MEMBER_RATE, Network
from private_distdd.auditing.report.records import GATE_ALPHA, AuditRecord
from private_distdd.auditing.setting import Setting, library
from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.site.client import Client
from private_distdd.validate import require_count
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run


def membership_gradient(
    pool: ImageDataset,
    public: ImageDataset,
    spec: ModelSpec,
    setting: Setting | None,
    trials: int = 500,
    seed: int = 0,
    gate_alpha: float = GATE_ALPHA,
    centred: bool = True,
) -> AuditRecord:
    """Members and non-members of a client, told apart by its messages, each a `Client.answer`.

    Every trial builds a client that holds each example of `pool` by a fair coin, except for one target, drawn at
    random, which it holds in the trials "inside" and not in those "outside".  It answers T queries, at the networks of
    seeds 0 ... T - 1.  The score of an example x of class c sums over its queries

        s(x) = <V_c^-1 g(x), b m_c - q E[n_c] mu_c> / sqrt(<g(x), V_c^-1 g(x)>),

    g(x) its own clipped gradient, E[n_c] half of the pool's examples of class c, mu_c and M_c the mean and the second
    moment of clipped gradients of class c in `public`, and V_c = 2 r (1 - r) E[n_c] M_c + s^2 I, r = q / 2, what is
    expected of the message's covariance: s = sigma C, and without privacy a tenth of the public gradients' root mean
    square norm.  This is the matched filter, of unit variance for a non-member.  The plain inner product
    <g(x), b m_c> / ||g(x)|| (`centred` = False) mostly follows what all examples of a class share.

    AUC and TPR are over all examples of all trials: descriptive, for the scores of one message share its noise.  The
    bound on epsilon and the rejection rest on the targets alone, one an independent trial; one half of them sets the
    thresholds, the other half tests.  The target is picked at random, and the trade-off curve is convex, so the error
    rates on average over targets obey the claim as each target's own do.

    Args:
        pool: candidates, at least 2; disjoint from `public`.
        public: examples of the same kind that the attacker knows, of every class in `pool`.
        spec: the network whose gradients are asked for.
        setting: sigma, q, C, b and T as claimed, of the library's own mechanism; None: one message without privacy,
            neither clipped nor noisy.
        trials: clients a side, at least 40.
        seed: of targets and coins, and of the clients' noise: their ledgers therefore say "not private".
        gate_alpha: of the rejection.
        centred: False is the plain inner product: it shows why the public class gradients matter.

    Raises:
        ConfigurationError: too few trials, or another mechanism than the library's, which no `Client` runs.
        DataError: data sets of different form, a class that `public` lacks, or scores that no test can use.
    """
    require_count("trials", trials, "500 or more.", at_least=2 * bounds.FEWEST)
    if setting is not None and setting.mechanism is not library:
        raise ConfigurationError("another mechanism", "the library's own", "Broken ones: audits/mutants.py.")
    check_public(pool, public)
    if len(pool) < 2:
        raise DataError(f"a pool of {len(pool)} examples", "2 or more", "Members and others are compared.")
    started, rounds = time.perf_counter(), 1 if setting is None else setting.rounds
    rng, randomness = np.random.default_rng(seed), InsecureRandomness(seed)
    networks = [Network(spec, t, pool, public, setting, centred) for t in range(rounds)]
    scores = np.zeros((2 * trials, len(pool)))
    members = rng.random(scores.shape) < MEMBER_RATE
    targets = rng.integers(len(pool), size=2 * trials)
    members[np.arange(2 * trials), targets] = np.arange(2 * trials) < trials
    run = Run("audit", pool.info, None if setting is None else setting.plan)
    for own, held in zip(scores, members, strict=True):
        dataset = ImageDataset(pool.images[held], pool.labels[held], pool.info)
        client = Client("audited", dataset, randomness=randomness, allow_without_privacy=True)
        client.enroll(run)
        for t, network in enumerate(networks):
            own += network.scores(client.answer(Query.from_bytes(network.question.query(run, t).data)))
    aimed = scores[np.arange(2 * trials), targets]
    curve = None if setting is None else setting.curve()
    half = trials // 2
    inside, outside = aimed[:trials], aimed[trials:]
    return judged(
        "membership_gradient",
        "none: messages without privacy" if setting is None else setting.claim,
        "matched filter: own gradient, centred and whitened by public ones" if centred else "<own gradient, message>",
        curve,
        (inside[:half], outside[:half]),
        (inside[half:], outside[half:]),
        (scores[members], scores[~members]),
        adversary="knows network, constants, who could be a member, and public examples of each class",
        assumptions=f"AUC and TPR over {scores.size:,} natural examples describe and bound nothing; the bound is from "
        "one target a client, every trial a Client.answer with noise and coins from a seed",
        trials=trials,
        started=started,
        seed=seed,
        gate_alpha=gate_alpha,
    )
