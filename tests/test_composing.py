"""The library among others: scikit-learn, processes, somebody's logging."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import CASES, MakeImages, made, members
from conformance import fit as fit_quietly
from sklearn.base import clone

from private_distdd.aggregation.mean import Mean
from private_distdd.errors import ConfigurationError, LedgerError
from private_distdd.methods.distdd import DistDD
from private_distdd.privacy.ledger import Budget, Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.site.client import Client
from private_distdd.site.key import SiteKey

NOISY = Privacy(noise_multiplier=5.0)
SMALL = DistDD(ipc=1, rounds=1, matching_steps=1, model="mlp", model_args={"width": 4, "depth": 1}, privacy=NOISY)


@pytest.mark.parametrize("name", CASES)
def test_methods_are_cloned_by_scikit_learn(name: str) -> None:
    method = CASES[name].make(privacy=NOISY, seed=3)
    assert clone(method) == method
    assert type(method)(**method.get_params()) == method
    assert set(method.get_params()) == {field.name for field in dataclasses.fields(method)}


def test_a_callable_is_a_rule(make_images: MakeImages) -> None:
    open_ = dataclasses.replace(SMALL, privacy=None)
    own = fit_quietly(dataclasses.replace(open_, aggregator=Mean().__call__), members(make_images))
    assert torch.equal(made(own), made(fit_quietly(open_, members(make_images))))


def test_a_client_whose_ledger_is_a_file_goes_to_another_process(make_images: MakeImages, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Ledger(path, Budget(20.0, 1e-5), client_id="a") as ledger:
        client = Client("a", make_images(9), ledger, max_runs=3, plan=NOISY.plan(1))
        SMALL.fit([client])
        data = pickle.dumps((client, SMALL))
    script = (
        "import pickle, sys; from private_distdd import DistDD\n"
        "client, method = pickle.load(sys.stdin.buffer)\n"
        "method.fit([client]).verify(); print(client.key.throwaway, client.ledger.budget)"
    )
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split()[0] == "True"
    with Ledger(path) as again:
        assert again.budget == Budget(20.0, 1e-5)
        assert sum(event.count for event in again.events) == 2  # one run here and one there
    assert client.key.public_key.encode() not in data


def test_a_client_that_must_not_be_copied_says_why(make_images: MakeImages, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"Ledger\(path\)"):
        pickle.dumps(Client("a", make_images(3)))
    with Ledger(tmp_path / "a.jsonl") as ledger:
        client = Client("a", make_images(3), ledger, key=SiteKey.create(tmp_path / "a.key"))
        with pytest.raises(ConfigurationError, match=r"SiteKey.load\(path\)"):
            pickle.dumps(client)


def test_nothing_of_ours_configures_the_root_logger() -> None:
    """Opacus does when it is imported, and every warning of the user's program would be printed twice."""
    script = """
import logging
from private_distdd import Client, CollabDM, DistDD, FedAvg, Privacy, Release, evaluate, load_dataset, sweep
from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.events import SampledGaussian
best_epsilon([SampledGaussian(1.0, 0.1, 3)], 1e-5)
import sys
assert "opacus.utils.module_utils" in sys.modules
root = logging.getLogger()
assert root.handlers == [] and root.level == logging.WARNING, root.handlers
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_refusal_is_one_line_and_a_failure_has_its_trace(
    make_images: MakeImages, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    poor = Client("poor", make_images(9), Ledger(None, Budget(0.1, 1e-5)))
    with caplog.at_level(logging.WARNING):
        SMALL.fit([*members(make_images, 1), poor])
    (said,) = [record for record in caplog.records if record.name == "private_distdd_client.poor"]
    assert "answered 'budget'" in said.getMessage()
    assert said.exc_info is None
    caplog.clear()

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Client, "enroll", broken)
    with caplog.at_level(logging.WARNING), pytest.raises(Exception, match="no client agrees"):
        SMALL.fit(members(make_images, 1))
    assert any(record.exc_info for record in caplog.records if record.name == "private_distdd_client.c0")
