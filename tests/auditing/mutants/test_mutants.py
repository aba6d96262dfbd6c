"""Every broken mechanism is caught by a gate; the library's own by none."""

from __future__ import annotations

import pytest
from scipy import stats

from private_distdd.auditing.mutants import gates
from private_distdd.auditing.mutants.mutants import CORRECT, MUTANTS, Mutant
from private_distdd.auditing.report.records import GATE_ALPHA

MUST_BE_SEEN_BY = {
    "sigma / 2": "canary_single",
    "no clip": "canary_single",
    "float32 norms": "replay_sensitivity",
    "no NaN guard": "replay_sensitivity",
    "per-batch clip": "replay_sensitivity",
    "q doubled": "canary_run",
    "coins reused between rounds": "coin_check",
    "divisor: the realised batch": "noise_check",
    "noise reused between rounds": "noise_check",
    "noise from a global generator": "seed_check",
    "noise from the round's number": "guess_check",
    "noise of torch, public seeds": "guess_check",
    "noise of numpy, public seeds": "guess_check",
    "one noise vector for all classes": "noise_check",
    "momentum kept on the client": "canary_run",
    "a release that is not charged": "bill_check",
    "half the noise on the last coordinate, a count": "client_noise_check",
    "noise on the first 2^21 values only": "message_check",
    "class 9's noise is class 0's": "message_check",
    "Box-Muller's cosine used twice": "message_check",
    "Box-Muller's cosine used twice, signs apart": "message_check",
    "the counter starts again with each chunk": "message_check",
    "uniform noise": "message_check",
    "noise without its tail": "message_check",
    "round 1 takes everybody": "coin_check",
    "round 1 of a client takes everybody": "client_coin_check",
    "the first example in every batch": "coin_check",
    "coins and noise from one key": "stream_check",
    "coins rounded up": "threshold_check",
    "no integer check after the float clip": "norm_check",
    "parity of the batch in the lowest bit": "replay_sensitivity",
    "noise of a key kept over restarts": "restart_check",
    "noise of a key made of the client's name": "restart_check",
    "a client that refuses where classes are missing": "observed_check",
    "size of the batch in the server's log": "observed_check",
    "size of the batch in the root's log": "observed_check",
    "size of the batch printed": "observed_check",
    "size of the batch on descriptor 2": "observed_check",
    "size of the batch in a warning": "observed_check",
    "size of the batch in a temporary file": "observed_check",
    "micro-batches that are not padded": "micro_batch_check",
    "the filter's delta is not split over its orders": "filter_check",
    "the filter looks at what was spent alone": "filter_check",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_caught(mutant: Mutant) -> None:
    caught = (record.audit for record in gates.gates(mutant) if record.rejected)  # asked until it is seen
    wanted = MUST_BE_SEEN_BY.get(mutant.name)
    assert any(wanted in (None, audit) for audit in caught)


@pytest.mark.usefixtures("restarted_once")
def test_the_library_is_not() -> None:
    assert [record.findings for record in gates.gates(CORRECT) if record.rejected] == []


def test_alarms_on_the_library_are_rare() -> None:
    runs = 5  # the long run is `python audits/mutants.py --alarms 1000`
    alarms = sum(
        any(record.rejected for record in gates.statistical_gates(CORRECT, 400, seed=seed)) for seed in range(runs)
    )
    assert alarms <= stats.binom.ppf(0.999, runs, GATE_ALPHA)


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert MUST_BE_SEEN_BY.keys() <= {mutant.name for mutant in MUTANTS}
    assert len(MUTANTS) >= 40
