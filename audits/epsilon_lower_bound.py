"""How far epsilon is bounded from below by attacks on the library's own messages, beside the accountant's upper bound.

python audits/epsilon_lower_bound.py            about five minutes on one core
python audits/epsilon_lower_bound.py --quick    ten times fewer trials, about a minute
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from private_distdd.auditing.attacks.canary import canary_client, canary_gaussian, canary_single, clients
from private_distdd.auditing.attacks.gradients import about_gradients
from private_distdd.auditing.attacks.one_run import one_run, one_run_tradeoff
from private_distdd.auditing.attacks.runs import canary_run, components
from private_distdd.auditing.checks.coins import coin_check
from private_distdd.auditing.checks.leaks import client_check
from private_distdd.auditing.checks.noise import noise_check
from private_distdd.auditing.checks.replay import replay_client, replay_sensitivity
from private_distdd.auditing.checks.seeds import guess_check, seed_check
from private_distdd.auditing.probe import Probe
from private_distdd.auditing.report.records import AuditRecord, table
from private_distdd.auditing.setting import Setting
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.plan import Privacy
from private_distdd.questions.class_embeddings import EmbeddingSums

CANARY_CLASS = 3


def records(quick: bool, seed: int) -> list[AuditRecord]:
    """All audits of messages, the deterministic ones first."""
    less = 10 if quick else 1
    once, run = Setting(), Setting(sample_rate=0.1, rounds=100)
    train, _ = load_dataset("digits")
    others = train.labels != CANARY_CLASS
    background = ImageDataset(train.images[others][:6], train.labels[others][:6], train.info)
    canary = train.images[~others][0], CANARY_CLASS
    spec = ModelSpec("mlp", {"width": 8, "depth": 1})
    question, embeddings = (
        about_gradients(spec, train.info),
        Probe("class_embeddings", EmbeddingSpec(spec, (0, 1), 1, 0.5, 32, True).to_json(), {}),
    )
    teacher, sent = about_gradients(ModelSpec("scatter_linear"), train.info, "joint"), _with_weights(train.info)
    small = _at_epsilon_1(1)
    source, short = clients(background, canary, question), Setting(sample_rate=0.5, rounds=10)
    return [
        replay_sensitivity(run),
        replay_client(background, canary, question),
        seed_check(once),
        guess_check(once),
        client_check(background, question),
        noise_check(once, seed),
        coin_check(run, seed),
        canary_gaussian(once, 10_000, seed),
        canary_single(once, 100_000 // less, seed),
        canary_client(background, canary, question, once, 1000, seed),
        components(short, 1000, seed, source=source),
        canary_run(short, 100, seed, source=source),  # 1,000 answers a side
        # CollabDM's message: the same audits, another question, and one release at epsilon 1.
        replay_client(background, canary, embeddings),
        client_check(background, embeddings),
        canary_client(background, canary, embeddings, once, 1000, seed),
        canary_gaussian(small, 100_000, seed),
        # The teacher's gradients of all classes together, and embeddings by networks whose weights are sent.
        replay_client(background, canary, teacher),
        replay_client(background, canary, sent),
        canary_gaussian(once, 2_000 // less, seed, source=clients(background, canary, teacher)),
        canary_gaussian(once, 2_000 // less, seed, source=clients(background, canary, sent)),
        *(components(_at_epsilon_1(rounds), 200_000, seed) for rounds in (5, 33)),  # whole runs of such messages
        one_run(once, seed=seed),
        one_run_tradeoff(once, seed=seed),
        one_run_tradeoff(run, seed=seed),
        components(run, 1_000_000 // less, seed),
        canary_run(run, 1_000_000 // less, seed),
    ]


def _at_epsilon_1(rounds: int) -> Setting:
    return Setting(Privacy(target_epsilon=1.0, delta=1e-5).plan(rounds).noise_multiplier, rounds=rounds)


def _with_weights(info: DatasetInfo) -> Probe:
    return Probe("class_embeddings", *EmbeddingSums.examples(info, 8)["class embeddings, weights sent"])


def main() -> int:
    """1 where a claim was rejected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten times fewer trials")
    parser.add_argument("--seed", type=int, default=0, help="of noise and coins of the statistical audits (default 0)")
    parser.add_argument("--output", metavar="FILE", help="write the records there, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = records(options.quick, options.seed)
    print(table(found))
    print(
        "bounds at delta = 1e-5 and 95 %; rejected at 1e-4; sigma or epsilon 1; runs: q = .1, T = 100 (clients: .5, 10)"
    )
    if options.output:
        Path(options.output).write_text(json.dumps([record.to_json() for record in found], indent=2) + "\n")
    return int(any(record.rejected for record in found))


if __name__ == "__main__":
    sys.exit(main())
