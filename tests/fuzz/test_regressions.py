"""Inputs that once ended in a raw error, a hang, a lost charge or a machine without memory: each kept as it was."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from private_distdd.errors import LedgerError, PrivateDistDDError, QueryRefusedError
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.release import verify_folder
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply

from .harness import answered, outcome, succeeds
from .ledgers import chained, ledger_records
from .mutate import dump, edited, envelope
from .releases import released, write_changed_release, write_release
from .server import exchanges, replies
from .site import check_answer, enrolments
from .valid import MESSAGE, NAMES, OPEN_RUN, QUERIES, RUN, RUNS, client, fresh
from .wire import messages, split

Edit = tuple[tuple[str | int, ...], str, Any]


def put(place: str, value: Any) -> Edit:
    """One value replaced; the place as "arguments.counts.0"."""
    return tuple(int(name) if name.isdigit() else name for name in place.split(".")), "replace", value


def drop(place: str) -> Edit:
    """One value taken out."""
    return put(place, None)[0], "drop", None


# Queries: (which, edits of what it asks, edits of its tensors)

NAN = math.nan
CASES: list[tuple[str, list[Edit], list[tuple[str, str]]]] = [
    # Sizes of networks: 17 GB, or numbers that torch does not take
    *[
        (name, [put(f"arguments.model.arguments.{size}", value)], [])
        for name in ("class_gradients", "open gradients", "joint")
        for size in ("width", "depth")
        for value in (2**20, 2**26, 2**31, 2**63, 2**70, 10**400)
    ],
    *[
        (name, [put(f"arguments.{size}", value)], [])
        for name in ("class_embeddings", "open embeddings")
        for size in ("model.arguments.width", "model.arguments.depth", "pool", "frequencies", "seeds.0", "bandwidth")
        for value in (2**26, 2**63, 2**70, 10**400)
    ],
    ("class_embeddings", [put("arguments", "")], []),
    ("class_embeddings", [put("arguments.seeds", "ab")], []),
    ("open gradients", [put("arguments.granularity", [])], []),
    ("open gradients", [put("arguments.model", 5)], []),
    # Draws
    *[
        ("open gradients", [put("batch.0", value)], [])
        for value in ([-1, 2], [2**63, 1], [1], [1] * 2000, [], [1, 1, 1])
    ],
    *[("open gradients", [put("batch.1", value)], []) for value in (-1, 2**63, 2**70, 10**400)],
    ("class_examples", [put("batch", None)], []),
    *[
        (name, [put("arguments.counts", value)], [])
        for name in ("class_examples", "class_distillations")
        for value in (
            None,
            7,
            "",
            "ab",
            {},
            [],
            [1],
            [1.5, 1],
            [-1, 2],
            [True, 1],
            [2**62, 2**62],
            [10**400, 1],
            [2**40, 0],
        )
    ],
    ("class_examples", [drop("arguments.counts")], []),
    ("class_counts", [put("arguments", {"a": NAN})], []),
    ("class_counts", [put("arguments", [[1, 2]])], []),
    ("class_counts", [], [("extra", "add")]),
    # A client's own distillation: each was charged before it failed
    *[
        ("class_distillations", [put(f"arguments.{name}", value)], [])
        for name in ("partition", "steps", "rate", "smoothness", "seed")
        for value in (None, True, "", [], 0, -1, 3, 1.5, 2**63, 2**70, 10**400, 1e308, NAN, math.inf)
    ],
    *[
        ("class_distillations", [drop(f"arguments.{name}")], [])
        for name in ("embedding", "counts", "partition", "steps", "rate", "smoothness", "seed")
    ],
    *[
        ("class_distillations", [put(f"arguments.embedding.model.{name}", value)], [])
        for name, value in (
            ("name", "unknown"),
            ("arguments", {"size": 3}),
            ("arguments.width", "x" * 1000),
            ("arguments.width", 2**63),
            ("arguments.depth", 40),
        )
    ],
    ("class_distillations", [put("arguments.embedding.pool", 3)], []),
    ("class_distillations", [put("arguments.steps", 2**20)], []),  # more than 20 seconds
    ("class_distillations", [put("arguments.more", 1)], []),
    # Weights
    *[
        (name, [], [("1.weight", how)])
        for name in ("class_gradients", "open gradients")
        for how in ("nan", "one inf", "huge", "scalar", "turned", "torch.int64", "torch.float64", "torch.bool", "drop")
    ],
]


@pytest.mark.parametrize(("name", "edits", "changes"), CASES, ids=lambda value: f"{value!r:.60}")
def test_a_query_is_answered_or_refused_for_nothing(
    name: str, edits: list[Edit], changes: list[tuple[str, str]]
) -> None:
    check_answer((name, edits, changes))


def test_a_query_without_a_number_is_refused_before_it_is_charged() -> None:
    own = client()
    own.enroll(OPEN_RUN)
    query = dataclasses.replace(QUERIES["class_counts"], arguments={"a": NAN})
    assert isinstance(answered(own.ledger, lambda: own.answer(query)), PrivateDistDDError)


# What is agreed to


@pytest.mark.parametrize("place", ["info.image_shape.0", "info.image_shape.1", "info.num_classes", "plan.max_queries"])
@pytest.mark.parametrize("value", [2**26, 2**31, 2**63, 2**70, 10**400])
def test_a_run_of_any_size_is_agreed_to_or_refused(place: str, value: int) -> None:
    edits = [put(place, value)]
    enrolments((edits, False))
    enrolments((edits, True))
    messages(("run", dump(edited(json.loads(RUN.to_bytes()), edits)).encode()))


@pytest.mark.parametrize(
    "plan",
    [
        PrivacyPlan(50.0, 0.001, 1.0, 1.0, 100, 1e-5),  # epsilon .00027: 68 seconds of cross-check
        PrivacyPlan(200.0, 0.01, 1.0, 1.0, 100, 1e-5),
        PrivacyPlan(1000.0, 0.5, 1.0, 1.0, 1, 1e-6),
        PrivacyPlan(0.34, 2.6e-6, 1.0, 1.0, 106, 1e-5),
        PrivacyPlan(1.0, 1e-9, 1.0, 1.0, 10**6, 1e-5),
    ],
)
def test_the_bill_of_a_run_is_bounded_work(plan: PrivacyPlan) -> None:
    edits = [put("plan", plan.to_json())]
    enrolments((edits, True))
    succeeds(lambda: plan.epsilon)


# What is answered


@pytest.mark.parametrize("field", ["message_id", "query_digest", "client_id"])
@pytest.mark.parametrize("value", [None, True, 5, 1.5, [], ["run-1:000000"], {}])
def test_names_are_not_made_of_what_is_no_text(field: str, value: Any) -> None:
    header, tensors = split(MESSAGE.data)
    with pytest.raises(QueryRefusedError):
        Message.from_bytes(envelope({**header, field: value}, tensors))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *[("question", value) for value in (None, True, 5, ["class_gradients"])],
        *[
            ("batch", value)
            for value in ([[1.5, 2], 7], [["1", 2], 7], [[True, 2], 7], [[1, 2], "7"], [[1, 2], 7.9], "ab")
        ],
        *[("arguments", value) for value in ([], [["counts", [1, 1]]], "")],
    ],
)
def test_a_query_is_not_made_of_what_it_does_not_say(place: str, value: Any) -> None:
    header, tensors = split(QUERIES["open gradients"].data)
    with pytest.raises(QueryRefusedError):
        Query.from_bytes(envelope({**header, place: value}, tensors))


@pytest.mark.parametrize("text", [b"{", b"{}", b'{"kind":[]}', b'{"kind":"refusal","code":[]}', b"{" * 5000, b"[1]"])
def test_a_refusal_is_one_or_not(text: bytes) -> None:
    assert isinstance(outcome(lambda: Refusal.from_bytes(text)), Refusal | None)


LIES: list[tuple[str, str, Any, list[tuple[str, str]]]] = [
    ("distdd", "ledger", [(5, "flip", b"1")], []),
    ("collabdm open", "ledger", [(0, "cut", b"1")], []),
    ("distdd", "enrolment", [(5, "flip", b"1")], []),
    *[
        ("distdd", "message", (), [("values", how)])
        for how in ("huge", "nan", "scalar", "flat", "torch.float64", "drop")
    ],
    *[
        (name, "message", (), [("counts", how)])
        for name in ("distdd open", "collabdm open")
        for how in ("zero", "one minus", "scalar", "torch.int32", "drop")
    ],
]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_one_client_does_not_end_the_others_run(lie: Any) -> None:
    replies(lie)


@pytest.mark.parametrize(
    "data", [[0] * 100, "x" * 100, 5, {}, [10**400] * 9, bytearray(8)], ids=lambda data: f"{data!r:.20}"
)
def test_what_is_no_bytes_is_no_reply(data: Any) -> None:
    with pytest.raises(QueryRefusedError):
        Reply.from_bytes(data)
    exchanges(("distdd", [("as it is", None), ("as it is", None), ("anything", data)]))


# Ledgers


@pytest.mark.parametrize(
    ("line", "place", "value"),
    [
        (0, "budget.epsilon", 2.2250738585072014e-308),
        (0, "budget.delta", 5e-324),
        *[(1, "max_queries", value) for value in (2**63, 10**400)],
        *[(4, "event.events.0.count", value) for value in (10**16, 2**63, 10**400)],
        *[(4, "event.events.0.noise_multiplier", value) for value in (5e-324, 10**400)],
        (4, "event.events.0.sample_rate", 5e-324),
        (4, "message_id", 5),
        (0, "version", True),
    ],
)
def test_a_ledger_is_used_or_refused(line: int, place: str, value: Any) -> None:
    path = fresh("ledger") / "a.jsonl"
    records = ledger_records()
    path.write_bytes(chained([edited(r, [put(place, value)]) if i == line else r for i, r in enumerate(records)]))
    ledger = outcome(lambda: Ledger(path))
    assert isinstance(ledger, Ledger | LedgerError)
    if isinstance(ledger, Ledger):
        with ledger:
            outcome(lambda: ledger.pin("late", SampledGaussian(5.0, 0.5), 3))
            outcome(lambda: ledger.charge(SampledGaussian(5.0, 0.5), "late:0"))
            outcome(lambda: ledger.epsilon(1e-5))


# Releases


def test_many_different_events_are_a_bounded_bill() -> None:
    owners = [client(name) for name in NAMES]
    for i in range(150):
        owners[0].ledger.charge(SampledGaussian(5 + i / 7, 0.1 + i / 1000), f"old:{i}")
    release = succeeds(lambda: RUNS["distdd"].fit(owners))
    folder = release.save(fresh("release") / "run")
    assert succeeds(lambda: verify_folder(folder)) == []


@pytest.mark.parametrize("name", ["distdd", "collabdm open"])
@pytest.mark.parametrize(
    ("place", "value"),
    [
        *[("data.image_shape", shape) for shape in ([2**26, 1, 1], [1, 2**40, 8], [10**400, 8, 8])],
        *[("data.num_classes", value) for value in (2**26, 2**63)],
        *[("progress.rounds_done", value) for value in (-1, 2**70, 10**400)],
        *[("plan.max_queries", value) for value in (2**63, 10**400)],
        *[("method.settings.matching_steps", value) for value in ("", None, [], 1e308, 10**400)],
        *[("clients.a.claim.epsilon", value) for value in ("infinity", "x", 10**400)],
        *[("clients.a.messages_used", value) for value in (-1, 10**400)],
        ("seeds", "\ud800"),
    ],
)
def test_a_card_says_anything_and_verify_says_what_is_wrong(name: str, place: str, value: Any) -> None:
    folder = fresh("release") / "run"
    write_changed_release(folder, (name, "card", [put(place, value)]))
    failures = succeeds(lambda: verify_folder(folder))
    assert not [line for line in failures if "MemoryError" in line]


def test_what_lies_behind_the_picture_is_noticed() -> None:
    files = released("distdd")
    folder = fresh("release") / "run"
    write_release(folder, {**files, "preview.png": files["preview.png"] + b"<script>"})
    assert any("preview" in line for line in verify_folder(folder))
