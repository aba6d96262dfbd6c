"""The tests of whiteness: probabilities that hold, and faults that each of them sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from private_distdd.auditing.checks import whiteness
from private_distdd.auditing.probe import every_question
from private_distdd.data.info import DatasetInfo
from private_distdd.questions.register import PRIVATE_QUESTIONS, private_question

Change = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def normals(seed: int, count: int = 100_000) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(count)


def test_probabilities_are_bounds() -> None:
    seen = np.array([[p for _, p in whiteness.whole(normals(seed, 20_000), "noise")] for seed in range(200)])
    for level in (0.01, 0.1):
        allowed = 200 * level + 4 * np.sqrt(200 * level)
        assert ((seen < level).sum(axis=0) <= allowed).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x: np.where(np.arange(len(x)) < 90_000, x, 0.0), "values from 81,920 on"),
        (lambda x: np.sqrt(3) * (2 * np.random.default_rng(1).random(len(x)) - 1), "not Gaussian"),
        (lambda x: np.clip(x, -3.0, 3.0), "largest value is 3.000"),
        (lambda x: np.append(x[1:], 9.0), "largest value is 9.000"),
        (lambda x: np.resize(x[:65_536], len(x)), "noise 65536 values apart"),
        (lambda x: np.repeat(x[::2], 2), "noise 1 values apart"),
        (lambda x: np.repeat(x[::2], 2) * np.sign(normals(9)), "sizes of noise 1 values apart"),
        (lambda x: x * np.nan, "a message"),
    ],
)
def test_faults_are_seen(change: Change, word: str) -> None:
    found = whiteness.findings(list(whiteness.whole(change(normals(0)), "a message")), 1e-5)
    assert any(word in line for line in found), found
    assert whiteness.findings(list(whiteness.whole(normals(0), "a message")), 1e-2) == ()


def test_equal_rows_and_weak_blocks_are_seen() -> None:
    rows = normals(2).reshape(100, 1000)
    names = [f"row {i}" for i in range(100)]
    parts = {"most": slice(0, 999), "count": slice(999, 1000)}
    assert whiteness.findings([whiteness.pairs(rows, names), *whiteness.blocks(rows, names, parts)], 1e-4) == ()
    weak = rows.copy()
    weak[:, -1] /= 2
    assert "block 'count'" in whiteness.findings(list(whiteness.blocks(weak, names, parts)), 1e-5)[0]
    rows[9] = -rows[0]
    assert "row 0 and row 9" in whiteness.findings([whiteness.pairs(rows, names)], 1e-5)[0]


def test_noise_that_knows_coins_is_seen() -> None:
    values = normals(3, 4096)
    coins = np.roll(np.abs(values) > 1.5, 7)
    assert whiteness.findings([whiteness.crossed(coins, whiteness.sizes(values), "size")], 1e-6)
    assert not whiteness.findings([whiteness.crossed(normals(4, 4096) > 1, values, "noise")], 1e-3)


def test_the_blocks_of_every_registered_question_cover_its_rows() -> None:
    info = DatasetInfo("tiny", 3, (1, 8, 8))
    questions = every_question(info)
    assert set(PRIVATE_QUESTIONS) == {question.question for question in questions.values()}
    for question in questions.values():
        made = private_question(question.question, question.arguments, question.tensors, info, "cpu")
        parts = list(question.blocks(info).values())
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
        assert parts[-1].stop == made.dimension
        assert question.shape(info) == (made.num_groups, made.dimension)
