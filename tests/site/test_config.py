"""A site's TOML: what its owner wrote is what the client does, and what cannot be meant is refused by file and name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from private_distdd.errors import ConfigurationError, DataError, LedgerError, QueryRefusedError
from private_distdd.privacy.ledger import Budget
from private_distdd.privacy.plan import Privacy, PrivacyPlan
from private_distdd.site.config import EXAMPLE, SiteConfig
from private_distdd.site.key import SiteKey
from private_distdd.wire.run import Run

PLAN = """
[plan]
noise_multiplier = 2.0
sample_rate = 1
max_grad_norm = 1.0
divisor = 1.0
max_queries = 3
delta = 1e-5
"""
DATA = '[data]\nsource = "data.npz"\nnum_classes = 3\nname = "scans"\n'
BUDGET = "[budget]\nepsilon = 4\ndelta = 1e-5\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    arrays: dict[str, Any] = {
        "x": np.zeros((6, 8, 8), np.uint8),
        "y": np.arange(6) % 3,
    }
    np.savez(tmp_path / "data.npz", **{f"{name}_{part}": arrays[name] for name in "xy" for part in ("train", "test")})
    SiteKey.create(tmp_path / "key.pem")
    return tmp_path


def read(folder: Path, text: str, name: str = 'client_id = "clinic"\n') -> SiteConfig:
    (folder / "site.toml").write_text(name + text)
    return SiteConfig.read(folder / "site.toml")


def test_the_example_is_sound(folder: Path) -> None:
    config = read(folder, EXAMPLE.format(client_id="clinic"), name="")
    assert (config.client_id, config.budget, config.plan) == ("clinic", Budget(8.0, 1e-5), None)
    assert config.consent
    assert config.socket == folder / "site.sock"


def test_its_commented_lines_are_sound_too(folder: Path) -> None:
    lines = EXAMPLE.format(client_id="clinic").split("\n")
    every = [line.removeprefix("# ") if " = " in line or line.startswith("# [") else line for line in lines]
    text = "\n".join(line for line in every if not line.startswith("factory"))
    config = read(folder, text, name="")
    assert config.plan == PrivacyPlan(1.0, 1.0, 1.0, 1.0, 10, 1e-5)
    assert config.info is not None
    assert config.limits is not None


def test_a_client_as_its_owner_wants_it(folder: Path) -> None:
    client = read(folder, DATA + BUDGET).client()
    with client.ledger:
        assert (client.client_id, client.ledger.budget) == ("clinic", Budget(4.0, 1e-5))
        assert client.info is not None
        assert client.info.name == "scans"
        assert client.key.fingerprint == SiteKey.load(folder / "key.pem").fingerprint
        with pytest.raises(QueryRefusedError, match="without privacy"):
            client.enroll(Run("run-1", client.info, None))
        client.enroll(Run("run-1", client.info, Privacy(target_epsilon=1).plan(1)))
    assert (folder / "ledger.jsonl").exists()


def test_a_plan_is_the_only_one_and_counted(folder: Path) -> None:
    client = read(folder, DATA + PLAN + "max_runs = 2\n").client()
    with client.ledger:
        assert client.info is not None
        plan = PrivacyPlan(2.0, 1.0, 1.0, 1.0, 3, 1e-5)
        with pytest.raises(QueryRefusedError, match="the owner's"):
            client.enroll(Run("run-0", client.info, Privacy(noise_multiplier=2.1).plan(3)))
        client.enroll(Run("run-1", client.info, plan))
        client.enroll(Run("run-2", client.info, plan))
        with pytest.raises(QueryRefusedError, match="2 in the life"):
            client.enroll(Run("run-3", client.info, plan))


def test_images_are_brought_to_the_size_that_the_owner_says(folder: Path) -> None:
    client = read(folder, DATA + "size = [4, 6]\nchannels = 3\n" + BUDGET).client()
    client.ledger.close()
    assert client.info is not None
    assert client.info.shape == (3, 4, 6)


def test_data_of_the_owner_s_own_making(folder: Path) -> None:
    (folder / "own_scans.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "def made(count):\n"
        "    return TensorDataset(torch.zeros(count, 1, 8, 8), torch.zeros(count, dtype=torch.int64))\n"
    )
    own = '[data]\nfactory = "own_scans:made"\narguments = {count = 4}\n'
    info = '[info]\nname = "scans"\nnum_classes = 3\nshape = [1, 8, 8]\n'
    client = read(folder, own + info + BUDGET).client()
    client.ledger.close()
    assert client.info is not None
    assert client.info.shape == (1, 8, 8)
    for wrong in ("own_scans:nothing", "own_scans", "no_such_module:made"):
        with pytest.raises(ConfigurationError, match=wrong):
            read(folder, own.replace("own_scans:made", wrong) + info + BUDGET).client()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DATA, "neither .budget. nor .plan."),
        (DATA + "[plan]\nmax_runs = 1\n", "plan"),
        (BUDGET, "no 'data'"),
        (DATA + BUDGET + "[extra]\n", "'extra'"),
        ("conscent = 'ask'\n" + DATA + BUDGET, "'conscent'"),
        ("consent = 'never'\n" + DATA + BUDGET, '"ask"'),
        ("consent = true\n" + DATA + BUDGET, '"ask"'),
        ("device = 3\n" + DATA + BUDGET, "device = 3"),
        ("ledger = ''\n" + DATA + BUDGET, "ledger = ''"),
        ("socket = 7\n" + DATA + BUDGET, "socket = 7"),
        ("plan = 3\n" + DATA + BUDGET, r"plan = 3.*\[plan\]"),
        (DATA + "[budget]\nepsilon = 0\ndelta = 1e-5\n", r"\[budget\]: epsilon = 0"),
        (DATA + "[budget]\nepsilon = 1\n", r"\[budget\].*delta"),
        (DATA + BUDGET + "unit = 'patient'\n", r"\[budget\].*unit"),
        (DATA + PLAN + "max_runs = 0\n", "max_runs = 0"),
        (DATA + PLAN.replace("max_queries = 3\n", ""), r"\[plan\]"),
        (DATA + PLAN.replace("2.0", "0.0"), "noise_multiplier = 0"),
        (DATA + BUDGET + "[limits]\nmemory = -1\n", r"\[limits\]: memory = -1"),
        (DATA + BUDGET + "[info]\nname = ''\nnum_classes = 3\nshape = [1, 8, 8]\n", r"\[info\]"),
        (DATA + "download = true\n" + BUDGET, "download"),
        (DATA + 'factory = "a:b"\n' + BUDGET, "factory"),
        ("[data]\nnum_classes = 3\n" + BUDGET, "num_classes"),
        ("[data]\nsource = 3\n" + BUDGET, "source = 3"),
        ("[data]\nfactory = 'a:b'\narguments = 3\n" + BUDGET, "data.arguments = 3"),
        ("data = 3\n" + BUDGET, "data = 3"),
        ("= 3", "site.toml"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name_and_file(folder: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        read(folder, text)
    assert str(folder / "site.toml") in str(caught.value)
    assert not (folder / "ledger.jsonl").exists()


def test_a_name_that_is_none_is_refused(folder: Path) -> None:
    for name in ("", 'client_id = "a b"\n', "client_id = 3\n"):
        with pytest.raises(ConfigurationError, match="client_id"):
            read(folder, DATA + BUDGET, name)


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml"):
        SiteConfig.read(tmp_path / "none.toml")


def test_private_data_without_a_public_class_list_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="class list"):
        read(folder, DATA.replace("num_classes = 3\n", "") + BUDGET).client()


def test_no_ledger_is_begun_for_data_or_keys_that_cannot_be_had(folder: Path) -> None:
    with pytest.raises(DataError):
        read(folder, DATA.replace("data.npz", "other.npz") + BUDGET).client()
    with pytest.raises(ConfigurationError, match=r"other\.pem"):
        read(folder, "key = 'other.pem'\n" + DATA + BUDGET).client()
    assert not (folder / "ledger.jsonl").exists()


def test_one_site_a_ledger(folder: Path) -> None:
    config = read(folder, DATA + BUDGET)
    with config.client().ledger, pytest.raises(LedgerError, match="in use"):
        config.client()
    with pytest.raises(ConfigurationError, match="nowhere"):
        read(folder, "device = 'nowhere'\n" + DATA + BUDGET).client()
    config.client().ledger.close()  # neither of them kept it
