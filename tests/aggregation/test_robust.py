"""Rules against corrupt messages: other implementations' numbers, and as many corrupt ones as each rule survives."""

from __future__ import annotations

import hashlib
from typing import Any

import byzfl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from private_distdd.aggregation import Bucketing, NearestNeighbours, rule_of
from private_distdd.errors import ConfigurationError
from private_distdd.federation import aggregators

RULES = (
    "mean",
    "sum",
    "median",
    "trimmed_mean(share=0.2)",
    "krum(bad=3)",
    "multi_krum(bad=3)",
    "geometric_median",
    "centred_clipping",
    "centred_clipping(steps=1)",
    "norm_filter(bad=3)",
    "agreement(bad=3)",
    "nearest_neighbours(bad=3)",
    "nearest_neighbours(bad=3, rule='trimmed_mean(share=0.1)')",
    "bucketing",
    "bucketing(size=3, rule='median')",
    "bucketing(size=2, rule='nearest_neighbours(bad=1, rule=\\'median\\')')",
)
FAR = 1e9

seeds = given(st.integers(0, 10**6))
few = settings(max_examples=10)
every_rule = pytest.mark.parametrize("text", RULES)


def drawn(clients: int, seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal((clients, *(shape or (6,)))) + 3


def tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.asarray(values))


# Others' numbers.  byzfl's Krum counts one neighbour more than the paper, so its f is one more for the same neighbours.


@few
@seeds
def test_as_byzfl_has_it(seed: int) -> None:
    own = drawn(11, seed)
    own[:2] *= 30
    given_ = tensor(own)
    found = {
        "krum": (aggregators.krum(given_, bad=2), byzfl.Krum(f=3)(own)),
        "geometric_median": (
            aggregators.geometric_median(given_, tolerance=1e-9),
            byzfl.GeometricMedian(nu=1e-9, T=300)(own),
        ),
        "nearest_neighbours": (aggregators.nearest_neighbours(given_, bad=2, rule="mean"), byzfl.NNM(f=2)(own).mean(0)),
        "median": (aggregators.median(given_), byzfl.Median()(own)),
        "trimmed_mean": (aggregators.trimmed_mean(given_, trim=0.2), byzfl.TrMean(f=2)(own)),
    }
    for name, (value, expected) in found.items():
        assert np.allclose(value, expected, atol=1e-5), name
    centre = np.median(own, axis=0)
    for steps in (1, 2, 3):
        radius = float(np.median(np.linalg.norm(own - centre, axis=1)))
        centre = centre + byzfl.CenteredClipping(L=1, tau=radius)(own - centre)  # it starts from zero
        assert np.allclose(aggregators.centred_clipping(given_, steps=steps), centre, atol=1e-9)


@given(st.integers(1, 3), st.integers(0, 10**6))
def test_as_the_papers_say_it(bad: int, seed: int) -> None:
    own = drawn(10, seed)
    scores = []
    for i in range(10):
        others = sorted(float(np.sum((own[i] - own[j]) ** 2)) for j in range(10) if j != i)
        scores.append(sum(others[: 10 - bad - 2]))
    best = np.argsort(scores)[: 10 - bad]
    assert np.allclose(aggregators.krum(tensor(own), bad=bad), own[best[0]])
    assert np.allclose(aggregators.multi_krum(tensor(own), bad=bad), own[best].mean(0))
    shortest = np.argsort(np.linalg.norm(own, axis=1))[: 10 - bad]
    assert np.allclose(aggregators.norm_filter(tensor(own), bad=bad), own[shortest].mean(0))
    order = sorted(range(10), key=lambda i: hashlib.sha256(own[i].tobytes()).digest())
    buckets = [own[order[i : i + bad + 1]].mean(0) for i in range(0, 10, bad + 1)]
    assert np.allclose(aggregators.bucketing(tensor(own), size=bad + 1, rule="median"), np.median(buckets, axis=0))


@given(st.integers(3, 12), st.integers(0, 10**6))
def test_the_geometric_median_is_where_all_pulls_cancel(clients: int, seed: int) -> None:
    own = drawn(clients, seed, 20)
    ways = own - aggregators.geometric_median(tensor(own), tolerance=1e-8).numpy()
    lengths = np.linalg.norm(ways, axis=1, keepdims=True)
    if lengths.min() < 1e-3:  # a message itself: the others do not pull it away
        assert np.linalg.norm((ways / lengths)[lengths[:, 0] >= 1e-3].sum(0)) <= 1
    else:
        assert np.linalg.norm((ways / lengths).sum(0)) < 1e-4


def test_a_majority_at_one_point_is_the_geometric_median() -> None:
    own = torch.tensor([[1.0, 2.0]] * 4 + [[100.0, 3.0], [-5.0, 9.0], [7.0, -70.0]])
    assert torch.equal(aggregators.geometric_median(own), own[0])
    assert torch.equal(aggregators.centred_clipping(own), own[0])
    assert torch.equal(aggregators.krum(own, bad=2), own[0])


@given(st.integers(1, 4), st.integers(0, 10**6), st.booleans())
def test_agreement_is_the_mean_over_those_that_agree(bad: int, seed: int, counted: bool) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers([1, 0, 0], 4, (10, 3)) if counted else np.ones((10, 3), np.int64)
    own = drawn(10, seed, 3, 5) * counts[:, :, None]
    flat = own.reshape(10, -1)
    lengths = np.linalg.norm(flat, axis=1)
    scores = [sum(flat[i] @ flat[j] / lengths[i] / lengths[j] for j in range(10) if j != i) for i in range(10)]
    weights = np.minimum(1, np.sort(lengths)[9 - bad] / lengths)
    weights[np.argsort(scores)[:bad]] = 0
    total = (weights[:, None] * counts).sum(0)[:, None]
    expected = np.divide((weights[:, None, None] * own).sum(0), total, out=np.zeros((3, 5)), where=total > 0)
    assert np.allclose(aggregators.agreement(tensor(own), tensor(counts) if counted else None, bad=bad), expected)


def test_agreement_finds_opponents_in_noise_where_distances_do_not() -> None:
    """20 clients of which 4 send the opposite, each class below the noise."""
    generator = torch.Generator().manual_seed(0)
    own, common = (torch.randn(*shape, 10, 4000, generator=generator) for shape in ((20,), ()))
    own[:16] += common / 12
    own[16:] -= common / 12
    assert torch.allclose(aggregators.agreement(own, bad=4), own[:16].mean(0), atol=0.02)
    assert not torch.allclose(aggregators.multi_krum(own, bad=4), own[:16].mean(0), atol=0.02)


# Groups


@pytest.mark.parametrize("text", [text for text in RULES if not text.startswith("agreement")])
@few
@seeds
def test_each_group_is_by_itself_and_with_counts_among_its_holders(text: str, seed: int) -> None:
    rng, rule = np.random.default_rng(seed), rule_of(text)
    own = drawn(9, seed, 3, 5)
    whole = rule(tensor(own))
    counts = rng.integers(0, 3, (9, 3)) * rng.integers(0, 2, (9, 3))
    held = rule(tensor(own * counts[:, :, None]), tensor(counts))
    for group in range(3):
        assert np.allclose(whole[group], rule(tensor(own[:, group])))
        holders = own[counts[:, group] > 0, group]
        if not len(holders):
            assert not held[group].any()
        elif text not in ("mean", "sum"):
            assert np.allclose(held[group], rule(tensor(holders)))


# Breakdown


def corrupted(own: Any, corrupt: int, how: str, seed: int) -> Tensor:
    """The first so many messages are changed."""
    rng, found = np.random.default_rng([seed, 7]), own.copy()
    way = rng.standard_normal(own.shape[1])
    match how:
        case "together":
            found[:corrupt] = FAR * way + 1e-3 * rng.standard_normal((corrupt, own.shape[1]))
        case "apart":
            found[:corrupt] = FAR * rng.standard_normal((corrupt, own.shape[1]))
        case "one after another":
            found[:corrupt] = own.mean(0) + way * np.logspace(0, 9, max(corrupt, 1))[:corrupt, None]
        case "opposed":
            found[:corrupt] = FAR * way * np.where(np.arange(corrupt) % 2, 1, -1)[:, None]
    return tensor(found)


@every_rule
@pytest.mark.parametrize("clients", [9, 10, 13])
@pytest.mark.parametrize("how", ["together", "apart", "one after another", "opposed"])
def test_it_survives_what_it_says(text: str, clients: int, how: str) -> None:
    rule = rule_of(text)
    survived = rule.breakdown(clients)
    for seed in range(3):
        own = drawn(clients, seed)
        honest = tensor(own[survived:])
        found = rule(corrupted(own, survived, how, seed))
        reach = float((honest - honest.mean(0)).norm(dim=1).max())
        assert float((found - rule(honest)).norm()) <= 10 * reach


@pytest.mark.parametrize("text", [text for text in RULES if not text.startswith("krum")])
@pytest.mark.parametrize("clients", [9, 10, 13])
def test_one_more_breaks_it(text: str, clients: int) -> None:
    rule = rule_of(text)
    assert any(  # of bucketing, an attacker tries until no two of its messages share a bucket
        float(rule(corrupted(drawn(clients, 0), rule.breakdown(clients) + 1, "together", seed)).norm()) > FAR / 100
        for seed in range(200 if "bucketing" in text else 1)
    )


@pytest.mark.parametrize("clients", [9, 10, 13])
def test_krum_falls_for_as_many_as_it_counts_neighbours_and_one(clients: int) -> None:
    colluding = clients - 3 - 2 + 1
    assert rule_of("krum(bad=3)").breakdown(clients) < colluding
    assert float(rule_of("krum(bad=3)")(corrupted(drawn(clients, 0), colluding, "together", 0)).norm()) > FAR / 100


@every_rule
def test_nobody_claims_half(text: str) -> None:
    for clients in range(1, 40):
        assert 0 <= rule_of(text).breakdown(clients) <= (clients - 1) // 2


@every_rule
@few
@seeds
def test_past_half_it_is_impossible(text: str, seed: int) -> None:
    """The same messages, told by whoever: 5 corrupt of 9 make themselves the honest ones, and these the corrupt."""
    own = drawn(9, seed)
    own[4:] += 100
    among = rule_of(text)(tensor(own))
    assert torch.allclose(among, rule_of(text)(tensor(own[::-1].copy())))  # and no rule sees who is who
    assert (
        text in ("norm_filter(bad=3)", "mean", "sum", "agreement(bad=3)")
        or float((among - tensor(own[:4].mean(0))).norm()) > 20
    )


# Arguments


@pytest.mark.parametrize(
    ("text", "clients"),
    [
        ("krum(bad=4)", 10),
        ("multi_krum(bad=4)", 10),
        ("geometric_median", 2),
        ("centred_clipping", 2),
        ("norm_filter(bad=4)", 8),
        ("agreement(bad=4)", 8),
        ("nearest_neighbours(bad=4)", 8),
        ("nearest_neighbours(bad=1, rule='krum(bad=4)')", 10),
        ("bucketing(size=2)", 4),
        ("bucketing(size=3, rule='krum(bad=2)')", 18),
    ],
)
def test_it_needs_so_many_clients(text: str, clients: int) -> None:
    with pytest.raises(ConfigurationError, match=f"of {clients} clients|of {-(-clients // 3)} clients|of 2 clients"):
        rule_of(text).require(clients)
    rule_of(text).require(clients + 1)


@pytest.mark.parametrize(
    "text",
    [
        *(f"{name}(bad={bad})" for name in ("krum", "norm_filter") for bad in ("0", "-1", "1.0", "True", "'1'")),
        *(f"geometric_median(tolerance={value})" for value in ("0", "1", "-0.1", "'a'")),
        *(f"centred_clipping(steps={value})" for value in ("0", "1.5")),
        *(f"bucketing(size={value})" for value in ("1", "2.0")),
        *(f"nearest_neighbours(bad=1, rule={value})" for value in ("'who'", "3", "'mean(1)'", "'krum(bad=0)'")),
        "multi_krum(bad=0)",
        "agreement(bad=0)",
        "bucketing(rule='who')",
    ],
)
def test_arguments_that_are_none(text: str) -> None:
    with pytest.raises(ConfigurationError):
        rule_of(text)


@every_rule
def test_texts_are_read_again(text: str) -> None:
    rule = rule_of(text)
    assert rule_of(str(rule)) == rule
    assert rule_of(Bucketing(3, str(rule)).rule) == rule_of(str(NearestNeighbours(2, str(rule)).rule)) == rule


def test_a_rule_within_is_named_by_its_text() -> None:
    with pytest.raises(ConfigurationError, match="text"):
        Bucketing(2, rule_of("median"))  # type: ignore[arg-type]
    assert str(Bucketing(2, "median")) == "bucketing(size=2, rule='median')"
