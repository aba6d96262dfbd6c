"""What crosses the wire: round trips, constant sizes, and nothing but our refusal for anything malformed."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, QueryRefusedError
from private_distdd.limits import HEADER_BYTES
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.storage import pack
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query, message_id
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.run import Enrolment, Run

INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.25,))
PLAN = PrivacyPlan(1 / 3, 0.1, 0.7, 40.0, 5, 1e-5)
TENSORS = {"0.weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), "0.bias": torch.zeros(3)}
ARGUMENTS = {"model": {"name": "mlp", "arguments": {"width": 4}}, "granularity": "class"}


def query(**changes: Any) -> Query:
    values: dict[str, Any] = {
        "run_id": "r-1",
        "server_round": 7,
        "question": "class_gradients",
        "arguments": ARGUMENTS,
        "tensors": TENSORS,
        "plan": PLAN,
    }
    return Query(**(values | changes))


def message(**changes: Any) -> Message:
    values: dict[str, Any] = {
        "client_id": "clinic",
        "message_id": "r-1:000007",
        "query_digest": "0" * 64,
        "values": torch.randn(3, 5, generator=torch.Generator().manual_seed(1)),
    }
    return Message(**(values | changes))


def test_a_run_of_few_bytes_cannot_cost_much() -> None:
    """265 bytes with 2^26 channels took 88 s and 7.3 GB: constants are repeated for each channel."""
    record = json.loads(Run("run-1", INFO, PLAN).to_bytes())
    for shape in ([2**26, 1, 1], [1, 2**31, 2**31], [2**70, 1, 1]):
        record["info"]["image_shape"] = shape
        data = json.dumps(record).encode()
        assert len(data) < 500
        tracemalloc.start()
        try:
            with pytest.raises(QueryRefusedError) as caught:
                Run.from_bytes(data)
            assert tracemalloc.get_traced_memory()[1] < 10**6
        finally:
            tracemalloc.stop()
        assert len(str(caught.value)) < 2000
    with pytest.raises(QueryRefusedError, match="more than 65536"):
        Run.from_bytes(data + b" " * 2**16)


@pytest.mark.parametrize("value", [None, 3, 1.5, True, ["a"], {"a": 1}, "x" * 1000])
@pytest.mark.parametrize("field", ["message_id", "query_digest", "client_id"])
def test_what_is_no_text_does_not_become_one(field: str, value: Any) -> None:
    header = {"kind": "message", "client_id": "a", "message_id": "r:000000", "query_digest": "0" * 64}
    values = {"values": torch.zeros(1, 1)}
    assert Message.from_bytes(pack(header, values)).client_id == "a"
    with pytest.raises(QueryRefusedError):
        Message.from_bytes(pack(header | {field: value}, values))


def test_a_header_of_any_length_is_not_parsed() -> None:
    long = pack({"kind": "message", "client_id": "a" * HEADER_BYTES}, {"values": torch.zeros(1, 1)})
    with pytest.raises(QueryRefusedError, match="a header of"):
        Message.from_bytes(long)


def test_runs_and_enrolments_round_trip() -> None:
    for plan in (PLAN, None):
        run = Run("r-1", INFO, plan)
        assert Run.from_bytes(run.to_bytes()) == run
    assert Enrolment.from_bytes(Enrolment("clinic").to_bytes()) == Enrolment("clinic")


@pytest.mark.parametrize("changes", [{}, {"plan": None}, {"plan": None, "batch": ((1, 0, 5), 2**62)}, {"tensors": {}}])
def test_queries_round_trip(changes: dict[str, Any]) -> None:
    first = query(**changes)
    again = Query.from_bytes(first.data)
    assert again.data == first.data
    assert again.digest == first.digest
    for name in ("run_id", "server_round", "question", "arguments", "plan", "batch"):
        assert getattr(again, name) == getattr(first, name)
    assert again.tensors.keys() == first.tensors.keys()
    assert all(torch.equal(t, first.tensors[name]) for name, t in again.tensors.items())


def test_queries_keep_nan_weights() -> None:
    poisoned = query(tensors={"w": torch.tensor([math.nan, math.inf])})
    assert Query.from_bytes(poisoned.data).digest == poisoned.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": "r-2"},
        {"server_round": 8},
        {"question": "x"},
        {"arguments": {}},
        {"tensors": {"0.weight": TENSORS["0.weight"] + 1e-6, "0.bias": TENSORS["0.bias"]}},
        {"plan": PrivacyPlan(1 / 3, 0.1, 0.7, 40.0, 6, 1e-5)},
        {"plan": None},
    ],
)
def test_a_digest_ties_to_every_part(changes: dict[str, Any]) -> None:
    assert query(**changes).digest != query().digest
    assert query().digest == query().digest


def test_messages_round_trip() -> None:
    for counts in (None, torch.tensor([1, 0, 7])):
        first = message(counts=counts)
        again = Message.from_bytes(first.data)
        assert again.data == first.data
        assert torch.equal(again.values, first.values)
        assert again.counts is counts is None or torch.equal(again.counts, counts)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6))
def test_the_size_of_a_message_does_not_depend_on_its_values(values: list[float]) -> None:
    own = message(values=torch.tensor(values).reshape(2, 3))
    assert len(own.data) == len(message(values=torch.zeros(2, 3)).data)


def test_refusals() -> None:
    for code in ("budget", "refused", "failed"):
        assert Refusal.from_bytes(Refusal(code).to_bytes()) == Refusal(code)
    assert Refusal.from_bytes(message().data) is None
    assert Refusal.from_bytes(Enrolment("clinic").to_bytes()) is None
    assert len({len(Refusal(code).to_bytes()) for code in ("budget", "failed")}) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"{}",
        b"{\xff",
        b"{" * 100_000,
        b'{"a":' * 100_000,
        b"[]",
        b"",
        b"null",
        b'{"kind": "refusal"',
        b'{"kind":[]}',
    ],
)
def test_a_refusal_is_read_from_anything_or_not_at_all(data: bytes) -> None:
    assert Refusal.from_bytes(data) is None


@pytest.mark.parametrize("code", ["label 9 of patient Meier", "", None, 3, ["budget"], {"a": 1}])
def test_a_refusal_s_code_is_one_of_ours(code: Any) -> None:
    data = json.dumps({"kind": "refusal", "code": code}).encode()
    assert Refusal.from_bytes(data) == Refusal("failed")
    assert Refusal.from_bytes(b'{"kind":"refusal"}') == Refusal("failed")


PARSERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "run": (Run.from_bytes, Run("r-1", INFO, PLAN).to_bytes()),
    "open run": (Run.from_bytes, Run("r-1", INFO, None).to_bytes()),
    "enrolment": (Enrolment.from_bytes, Enrolment("clinic").to_bytes()),
    "query": (Query.from_bytes, query().data),
    "open query": (Query.from_bytes, query(plan=None, batch=((1, 2, 3), 4)).data),
    "message": (Message.from_bytes, message().data),
    "open message": (Message.from_bytes, message(counts=torch.tensor([1, 2, 3])).data),
}
every_kind = pytest.mark.parametrize("kind", sorted(PARSERS))


@every_kind
def test_every_truncation_is_refused(kind: str) -> None:
    parse, data = PARSERS[kind]
    for length in range(len(data)):
        with pytest.raises(QueryRefusedError):
            parse(data[:length])
    parse(data)


@every_kind
def test_one_kind_is_not_taken_for_another(kind: str) -> None:
    parse, _ = PARSERS[kind]
    for other, (_, data) in PARSERS.items():
        if other.split()[-1] != kind.split()[-1]:
            with pytest.raises(QueryRefusedError):
                parse(data)


@every_kind
@given(data=st.data())
def test_garbled_bytes_are_refused_or_still_well_formed(kind: str, data: st.DataObject) -> None:
    parse, good = PARSERS[kind]
    garbled = bytearray(good)
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(garbled) - 1))
        garbled[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        parsed = parse(bytes(garbled))
    except QueryRefusedError:
        return
    assert type(parsed) is type(parse(good))


@every_kind
@given(noise=st.binary(max_size=300))
def test_noise_is_refused(kind: str, noise: bytes) -> None:
    with pytest.raises(QueryRefusedError):
        PARSERS[kind][0](noise)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def header_of(kind: str) -> tuple[dict[str, Any], Callable[[str], bytes]]:
    """The header of a good example, and how to make bytes of another header's JSON text."""
    _, good = PARSERS[kind]
    if good.startswith(b"{"):
        return json.loads(good), str.encode
    length = int.from_bytes(good[:8], "little")
    safetensors_header = json.loads(good[8 : 8 + length])

    def rebuild(text: str) -> bytes:
        own = json.dumps(safetensors_header | {"__metadata__": {"json": text}}).encode()
        own += b" " * (-len(own) % 8)
        return len(own).to_bytes(8, "little") + own + good[8 + length :]

    return json.loads(safetensors_header["__metadata__"]["json"]), rebuild


@every_kind
@given(data=st.data())
def test_any_json_in_any_field_is_refused_or_well_formed(kind: str, data: st.DataObject) -> None:
    header, rebuild = header_of(kind)
    target, name = header, data.draw(st.sampled_from(sorted(header)))
    while isinstance(target[name], dict) and target[name] and data.draw(st.booleans()):
        target, name = target[name], data.draw(st.sampled_from(sorted(target[name])))
    target[name] = data.draw(json_values)
    try:
        parsed = PARSERS[kind][0](rebuild(json.dumps(header)))  # NaN and Infinity, too, as json.dumps writes them
    except QueryRefusedError:
        return
    assert type(parsed) is type(PARSERS[kind][0](PARSERS[kind][1]))


@pytest.mark.parametrize(
    "batch", ["[[Infinity],0]", "[[1e999],0]", "[[NaN],0]", "[[1],Infinity]", "[1,2,3]", "5", "{}"]
)
def test_batches_of_no_numbers_are_refused(batch: str) -> None:
    header, rebuild = header_of("open query")
    text = json.dumps(header).replace(json.dumps(header["batch"]), batch)
    assert batch in text
    with pytest.raises(QueryRefusedError):
        Query.from_bytes(rebuild(text))


@every_kind
def test_bottomless_nesting_is_refused(kind: str) -> None:
    _, rebuild = header_of(kind)
    for deep in ("[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(QueryRefusedError):
            PARSERS[kind][0](rebuild(deep))


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        (torch.zeros(3), None),
        (torch.zeros(3, 2, dtype=torch.float64), None),
        (torch.zeros(3, 2, dtype=torch.int64), None),
        (torch.tensor([[math.nan]]), None),
        (torch.tensor([[math.inf]]), None),
        (torch.zeros(3, 2), torch.zeros(3)),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64)),
    ],
)
def test_messages_of_other_tensors_are_refused(values: torch.Tensor, counts: torch.Tensor | None) -> None:
    with pytest.raises(QueryRefusedError, match="message"):
        Message.from_bytes(message(values=values, counts=counts).data)


def test_messages_with_more_tensors_are_refused() -> None:
    header = {"kind": "message", "client_id": "c", "message_id": "r:0", "query_digest": ""}
    for tensors in ({"values": torch.zeros(1, 1), "losses": torch.zeros(1)}, {}):
        with pytest.raises(QueryRefusedError):
            Message.from_bytes(pack(header, tensors))


@pytest.mark.parametrize("run_id", ["", "a b", "x" * 65, "a:b", "../a", None, 3])
def test_run_names(run_id: Any) -> None:
    with pytest.raises(QueryRefusedError, match="run_id"):
        Run(run_id, INFO, PLAN)
    with pytest.raises(QueryRefusedError, match="run_id"):
        query(run_id=run_id)


@pytest.mark.parametrize("server_round", [-1, 1.0, True, None, "0"])
def test_round_numbers(server_round: Any) -> None:
    with pytest.raises(ConfigurationError, match="server_round"):
        query(server_round=server_round)


def test_a_query_has_coins_or_a_class_batch() -> None:
    with pytest.raises(QueryRefusedError, match="both"):
        query(batch=((1, 1, 1), 0))


def test_message_names_have_one_length_and_are_all_different() -> None:
    names = {message_id("r", t) for t in (0, 1, 10, 99_999, 999_999)}
    assert len(names) == 5
    assert len({len(name) for name in names}) == 1
