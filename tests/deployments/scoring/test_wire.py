"""The wire format: parsed once and strictly.

Every body is an event, or an error of the caller with a stable code and the invalid field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.scoring import verdict_wire, wire
from deployments.web.errors import encode
from ensemble.errors import EventError, FeatureMismatch, MalformedEvent, TooManyEvents
from ensemble.events import FlowBatch, Kind, ProcessBatch
from ensemble.features.event_time import PlausibleTimes
from ensemble.features.flow import FEATURE_NAMES
from ensemble.runtime.local_ensemble import LocalEnsemble

LIMIT = 1000
NUMBERS = [float(position + 1) for position in range(len(FEATURE_NAMES))]
BY_NAME = dict(zip(FEATURE_NAMES, NUMBERS, strict=True))
IAT = FEATURE_NAMES.index("Flow IAT Mean")
RATES = [FEATURE_NAMES.index(name) for name in ("Flow Bytes/s", "Flow Packets/s")]
LONGEST_MESSAGE = 600  # characters: an error is a sentence, not an echo


def flow(features: object = None, **more: object) -> dict[str, Any]:
    return {"kind": "flow", "features": NUMBERS if features is None else features, **more}


def process(**more: object) -> dict[str, Any]:
    return {"kind": "process", "name": "sh", **more}


def but(position: int, literal: str) -> bytes:
    """A flow whose feature at `position` is this JSON text."""
    cells = [literal if place == position else "1" for place in range(len(FEATURE_NAMES))]
    return ('{"kind": "flow", "features": [' + ", ".join(cells) + "]}").encode()


def refusal(body: bytes) -> EventError:
    """The error of a body, at parsing or at admission."""
    try:
        event = wire.parse_event(body)
        _, _, refused = wire.admit(wire.kind_of(event), [event])
    except EventError as error:
        return error
    assert refused, f"{body[:80]!r} was accepted"
    return refused[0]


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


NOT_JSON = [
    pytest.param(b"", id="empty"),
    pytest.param(b"   \n", id="blanks"),
    pytest.param(b"{", id="cut"),
    pytest.param(b"kind=flow", id="a form"),
    pytest.param(b"{'kind': 'flow'}", id="single quotes"),
    pytest.param(b"\xef\xbb\xbf" + json.dumps(process()).encode(), id="byte order mark"),
    pytest.param(json.dumps(process()).encode() * 2, id="two documents"),
    pytest.param(json.dumps(process()).encode() + b" x", id="something after it"),
    pytest.param(json.dumps(process()).encode("utf-16"), id="UTF-16"),
    pytest.param(b'{"kind": "process", "name": "\xff\xfe"}', id="not UTF-8"),
    pytest.param(b'{"kind": "process", "name": "sh",}', id="trailing comma"),
    pytest.param(b"\x1f\x8b\x08\x00" + b"\x00" * 40, id="gzip"),
    pytest.param(but(IAT, "NaN"), id="NaN"),
    pytest.param(but(IAT, "Infinity"), id="Infinity"),
    pytest.param(but(IAT, "0x10"), id="hexadecimal"),
    pytest.param(but(IAT, "+1"), id="a plus sign"),
]


@pytest.mark.parametrize("body", NOT_JSON)
def test_a_body_that_is_not_json_is_malformed_json(body: bytes) -> None:
    """Fault I1, I4."""
    assert refusal(body).code == "MALFORMED_JSON"


NOT_EVENTS = [
    pytest.param(b"null", id="null"),
    pytest.param(b"[]", id="a list"),
    pytest.param(b'"flow"', id="a string"),
    pytest.param(b"17", id="a number"),
    pytest.param(b"{}", id="nothing in it"),
]


@pytest.mark.parametrize("body", NOT_EVENTS)
def test_json_that_is_not_an_event_is_a_malformed_event(body: bytes) -> None:
    assert refusal(body).code == "MALFORMED_EVENT"


FIELDS = [
    pytest.param({"features": NUMBERS}, "kind", id="no kind"),
    pytest.param({"kind": "flow"}, "features", id="no features"),
    pytest.param({"kind": "process"}, "name", id="no name"),
    pytest.param(flow() | {"kind": "netflow"}, "kind", id="unknown kind"),
    pytest.param(flow() | {"kind": None}, "kind", id="kind null"),
    pytest.param(flow() | {"kind": 3}, "kind", id="kind a number"),
    pytest.param(flow(label="x"), "label", id="unknown field"),
    pytest.param(process(features=NUMBERS), "features", id="a field of the other kind"),
    pytest.param(flow("80"), "features", id="features a string"),
    pytest.param(flow(id=5), "id", id="id a number"),
    pytest.param(flow(host=["a"]), "host", id="host a list"),
    pytest.param(flow(id="i" * 257), "id", id="huge id"),
    pytest.param(flow(host="h" * 1_000_000), "host", id="huge host"),
    pytest.param(process(id="i" * 257), "id", id="huge id of a process"),
    pytest.param(process(name=""), "name", id="empty name"),
    pytest.param(process(name=None), "name", id="name null"),
    pytest.param(process(parent=True), "parent", id="parent a boolean"),
    pytest.param(process(command_line=["ls"]), "command_line", id="command line a list"),
    pytest.param(flow(time=True), "time", id="time a boolean"),
]


@pytest.mark.parametrize(("event", "field"), FIELDS)
def test_a_wrong_field_is_named(event: dict[str, Any], field: str) -> None:
    error = refusal(json.dumps(event).encode())

    assert error.code == "MALFORMED_EVENT"
    assert error.field == field


NUMBERS_THAT_ARE_NONE = [
    pytest.param('"1.5"', id="a string"),
    pytest.param('"NaN"', id="NaN in quotes"),
    pytest.param("true", id="a boolean"),
    pytest.param("[1]", id="a list"),
    pytest.param("{}", id="an object"),
    pytest.param("null", id="null"),
    pytest.param("1e39", id="more than a float32 holds"),
    pytest.param("-1e39", id="less than a float32 holds"),
    pytest.param("1e400", id="more than a float64 holds"),
    pytest.param("9" * 5000, id="5,000 digits"),
    pytest.param("-" + "9" * 400, id="400 digits"),
]


@pytest.mark.parametrize("literal", NUMBERS_THAT_ARE_NONE)
@pytest.mark.parametrize("position", [0, IAT, 77])
def test_a_feature_that_is_not_finite_is_rejected_by_name(position: int, literal: str) -> None:
    """P14.

    Fault I4: 1e39 overflows to infinity in float32, and a row of NaN would look more normal than
    any real one.
    """
    error = refusal(but(position, literal))

    assert error.code in {"MALFORMED_EVENT", "FEATURE_MISMATCH"}
    assert error.field in {f"features[{position}]", f"features.{FEATURE_NAMES[position]}"}
    assert FEATURE_NAMES[position] in str(error)


@pytest.mark.parametrize("literal", ['"1.5"', "true", "null", "1e39"])
def test_a_feature_given_by_name_is_rejected_by_that_name(literal: str) -> None:
    body = (
        json.dumps(flow(BY_NAME))
        .replace('"Flow IAT Mean": 17.0', f'"Flow IAT Mean": {literal}')
        .encode()
    )
    assert literal.encode() in body

    assert "Flow IAT Mean" in str(refusal(body))


@pytest.mark.parametrize("literal", ["-0", "1e-320", "0.1e-400", "3.4e38"])
def test_a_number_that_a_float32_can_hold_is_accepted(literal: str) -> None:
    event = wire.parse_event(but(IAT, literal))

    batch, _, refused = wire.admit(Kind.FLOW, [event])

    assert not refused
    assert isinstance(batch, FlowBatch)
    assert np.isfinite(batch.features).all()


@pytest.mark.parametrize("position", RATES)
def test_only_the_two_rates_may_be_null(position: int) -> None:
    """DESIGN section 4.

    Extractors have no value for them in a flow without duration, and admission recomputes them.
    """
    event = wire.parse_event(but(position, "null"))

    assert not wire.admit(Kind.FLOW, [event])[2]


@pytest.mark.parametrize("count", [0, 1, 77, 79, 780])
def test_another_number_of_features_than_78_is_rejected_with_the_count(count: int) -> None:
    """S2-08, fault I5."""
    error = refusal(json.dumps(flow([1.0] * count)).encode())

    assert error.code == "FEATURE_MISMATCH"
    assert error.field == "features"
    assert str(count) in str(error)
    assert "78" in str(error)


NAMES = [
    pytest.param(
        {name: 1.0 for name in FEATURE_NAMES if name != "Idle Max"},
        "features.Idle Max",
        id="one is missing",
    ),
    pytest.param({**BY_NAME, "Src Port": 5.0}, "features.Src Port", id="one too many"),
    pytest.param(
        {**BY_NAME, "flow duration ": 5.0}, "features.flow duration ", id="twice in two spellings"
    ),
    pytest.param(
        {**BY_NAME, "Tot Fwd Pkts": 5.0}, "features.Tot Fwd Pkts", id="twice in two dialects"
    ),
    pytest.param({}, "features.Destination Port", id="none at all"),
]


@pytest.mark.parametrize(("features", "field"), NAMES)
def test_features_by_name_are_complete_known_and_given_once(
    features: dict[str, float], field: str
) -> None:
    error = refusal(json.dumps(flow(features)).encode())

    assert isinstance(error, FeatureMismatch)
    assert error.field == field


def test_a_flow_by_name_is_the_flow_by_position() -> None:
    by_name = wire.parse_event(json.dumps(flow(dict(reversed(BY_NAME.items())))).encode())
    by_position = wire.parse_event(json.dumps(flow()).encode())

    batch, _, _ = wire.admit(Kind.FLOW, [by_name, by_position])

    assert isinstance(batch, FlowBatch)
    np.testing.assert_array_equal(batch.features[0], batch.features[1])


ECHOES = [
    pytest.param(flow(**{"z" * 100_000: 1}), id="huge unknown field"),
    pytest.param(flow() | {"kind": "k" * 100_000}, id="huge kind"),
    pytest.param(flow({**BY_NAME, "f" * 100_000: 1.0}), id="huge feature name"),
    pytest.param(flow({"f" * 100_000: "x"}), id="huge feature name with a string"),
]


@pytest.mark.parametrize("event", ECHOES)
def test_an_error_does_not_repeat_the_body(event: dict[str, Any]) -> None:
    """P27, P28: the body is not repeated in a response or a log."""
    error = refusal(json.dumps(event).encode())

    assert len(str(error)) <= LONGEST_MESSAGE
    assert len(error.field) <= LONGEST_MESSAGE


@pytest.mark.parametrize("param", [*NOT_JSON, *NOT_EVENTS])
def test_an_error_reveals_nothing_of_the_code(param: Any) -> None:
    """P27: no path, no traceback, no name of the code."""
    said = str(refusal(param if isinstance(param, bytes) else param.values[0]))

    for inside in ("/", "Traceback", "msgspec", "deployments", "line ", "object at"):
        assert inside not in said


DEEP = [
    pytest.param(nested(17), id="17"),
    pytest.param(nested(990), id="990"),
    pytest.param(nested(5_000), id="5,000"),
    pytest.param(nested(200_000), id="200,000"),
    pytest.param(b"[" * 200_000, id="200,000 open lists"),
]


@pytest.mark.parametrize("deep", DEEP)
def test_deep_nesting_is_rejected_anywhere(deep: bytes) -> None:
    """Fault I3: never a RecursionError."""
    places = [
        deep,
        b'{"kind": "flow", "features": ' + deep + b"}",
        b'{"kind": "process", "name": "sh", "x": ' + deep + b"}",
        b'{"kind": "process", "name": ' + deep + b"}",
    ]
    for body in places:
        assert refusal(body).code in {"MALFORMED_JSON", "MALFORMED_EVENT"}


@pytest.mark.parametrize("deep", DEEP)
def test_deep_nesting_in_a_batch_is_rejected_anywhere(deep: bytes) -> None:
    event = json.dumps(process(id="good")).encode()
    places = [
        deep,
        b'{"events": ' + deep + b"}",
        b'{"events": [' + deep + b"]}",
        b'{"events": [' + event + b', {"id": ' + deep + b"}]}",
    ]
    places.append(
        b'{"events": [' + event + b', {"kind": "process", "name": "sh", "x": ' + deep + b"}]}"
    )
    for body in places:
        try:
            parsed = wire.parse_batch(body, limit=LIMIT)
        except EventError as error:
            # either way of refusing is right
            assert error.code in {"MALFORMED_JSON", "MALFORMED_EVENT"}  # noqa: PT017
        else:
            assert isinstance(parsed[-1], tuple)


BAD_EVENTS = [
    pytest.param(json.dumps(flow([1.0] * 77, id="bad")), "FEATURE_MISMATCH", id="77 features"),
    pytest.param(
        json.dumps(flow(["1"] * 78, id="bad")), "MALFORMED_EVENT", id="strings for numbers"
    ),
    pytest.param(json.dumps(flow([1e39] * 78, id="bad")), "FEATURE_MISMATCH", id="1e39"),
    pytest.param(json.dumps({"kind": "log4", "id": "bad"}), "MALFORMED_EVENT", id="unknown kind"),
    pytest.param(json.dumps({"id": "bad"}), "MALFORMED_EVENT", id="no kind"),
    pytest.param(json.dumps(process(id="bad", label=1)), "MALFORMED_EVENT", id="unknown field"),
]


@pytest.mark.parametrize(("bad", "code"), BAD_EVENTS)
@pytest.mark.parametrize("place", [0, 3, 6])
def test_an_invalid_event_gets_an_error_in_its_own_place(place: int, bad: str, code: str) -> None:
    """P29, S2-16: order, count and ids stay."""
    good = [
        json.dumps(flow(id=f"e{row}") if row % 2 else process(id=f"e{row}")) for row in range(6)
    ]
    body = '{"events": [' + ", ".join([*good[:place], bad, *good[place:]]) + "]}"

    parsed = wire.parse_batch(body.encode(), limit=LIMIT)

    said = [_id_and_code(event) for event in parsed]
    assert said[place] == ("bad", code)
    assert said[:place] + said[place + 1 :] == [(f"e{row}", "") for row in range(6)]


def _id_and_code(event: wire.EventRequest | tuple[str, EventError]) -> tuple[str, str]:
    if isinstance(event, tuple):
        return event[0], event[1].code
    _, _, refused = wire.admit(wire.kind_of(event), [event])
    return event.id, refused[0].code if refused else ""


@pytest.mark.parametrize("half", ["\\ud800", "\\udcff", "\\udcff\\ud83d"])
def test_half_a_surrogate_pair_affects_its_own_event_at_most(half: str) -> None:
    r"""P29, fault I6.

    Python's json writes file names that are not UTF-8 as `\udcff`, and an attacker can choose such
    a name for a process.
    """
    good = json.dumps(
        process(id="good", name="\U0001f600 \\ud800")
    )  # a whole pair, and a backslash followed by `ud800`

    parsed = wire.parse_batch(
        f'{{"events": [{good}, {{"kind": "process", "name": "a{half}"}}, {good}]}}'.encode(),
        limit=LIMIT,
    )

    assert len(parsed) == 3
    for event in (parsed[0], parsed[2]):
        assert isinstance(event, wire.ProcessRequest)
        assert event.name == "\U0001f600 \\ud800"


@pytest.mark.parametrize(
    "bad", ["1", "null", '"x"', "[]", '{"id": 5}', '{"id": null}', '{"id": "' + "i" * 300 + '"}']
)
def test_an_invalid_event_without_a_usable_id_has_its_place(bad: str) -> None:
    parsed = wire.parse_batch(
        f'{{"events": [{bad}, {json.dumps(process(id="good"))}]}}'.encode(), limit=LIMIT
    )

    assert isinstance(parsed[0], tuple)
    assert len(parsed[0][0]) <= 256
    assert not isinstance(parsed[1], tuple)
    assert parsed[1].id == "good"


@pytest.mark.parametrize("count", [1, 999, 1000])
def test_up_to_a_thousand_events_are_a_batch(count: int) -> None:
    assert (
        len(wire.parse_batch(json.dumps({"events": [process()] * count}).encode(), limit=LIMIT))
        == count
    )


@pytest.mark.parametrize("event", [process(), {"kind": "?"}], ids=["all well", "all bad"])
@pytest.mark.parametrize("count", [1001, 5000])
def test_more_than_a_thousand_events_are_rejected(count: int, event: dict[str, Any]) -> None:
    """S2-17."""
    with pytest.raises(TooManyEvents, match=f"{count:,}") as caught:
        wire.parse_batch(json.dumps({"events": [event] * count}).encode(), limit=LIMIT)

    assert caught.value.code == "TOO_MANY_EVENTS"
    assert caught.value.field == "events"


NO_BATCHES = [
    pytest.param({"events": []}, "events", id="no events"),
    pytest.param({}, "events", id="no list"),
    pytest.param({"events": None}, "events", id="null"),
    pytest.param({"events": {"0": process()}}, "events", id="an object"),
    pytest.param({"events": [process()], "tenant": "x"}, "tenant", id="unknown field"),
    pytest.param([process()], "", id="a bare list"),
]


@pytest.mark.parametrize(("body", "field"), NO_BATCHES)
def test_a_body_that_is_not_a_batch_is_rejected(body: object, field: str) -> None:
    with pytest.raises(MalformedEvent) as caught:
        wire.parse_batch(json.dumps(body).encode(), limit=LIMIT)

    assert caught.value.field == field


@pytest.mark.parametrize("body", NOT_JSON)
def test_a_batch_that_is_not_json_is_malformed_json(body: bytes) -> None:
    with pytest.raises(EventError) as caught:
        wire.parse_batch(b'{"events": [' + body + b"}", limit=LIMIT)

    assert caught.value.code == "MALFORMED_JSON"


def _survives(body: bytes) -> None:
    """Check that only errors of the caller are raised, and that their texts are short."""
    try:
        event = wire.parse_event(body)
        wire.admit(wire.kind_of(event), [event])
    except EventError as error:
        # the promise is about every error that may come
        assert len(str(error)) <= LONGEST_MESSAGE  # noqa: PT017
    try:
        parsed = wire.parse_batch(body, limit=LIMIT)
    except EventError as error:
        assert len(str(error)) <= LONGEST_MESSAGE  # noqa: PT017
        return
    for kind in Kind:
        wire.admit(
            kind,
            [one for one in parsed if not isinstance(one, tuple) and wire.kind_of(one) is kind],
        )


@given(st.binary(max_size=400))
@example(b'{"events": [' + nested(100_000) + b"]}")
@example(b'{"events": [{"kind": "process", "name": "a", "time": ' + b"9" * 5000 + b"}]}")
def test_no_bytes_make_anything_but_an_error_of_the_caller(body: bytes) -> None:
    """P27."""
    _survives(body)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSONS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
FEATURES = (
    st.lists(SCALARS, max_size=3)
    | st.just(NUMBERS)
    | st.dictionaries(st.sampled_from(FEATURE_NAMES) | st.text(max_size=6), SCALARS)
)
EVENTISH = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(["flow", "process", "log"]) | JSONS,
        "features": FEATURES | JSONS,
        **dict.fromkeys(
            ("id", "host", "name", "parent", "command_line", "user", "time"),
            st.text(max_size=8) | JSONS,
        ),
    },
)


@given(
    JSONS
    | EVENTISH
    | st.fixed_dictionaries({"events": st.lists(EVENTISH | JSONS, max_size=4) | JSONS})
)
def test_no_json_makes_anything_but_an_error_of_the_caller(body: object) -> None:
    """P27; with NaN, Infinity and half surrogates, as Python's own writer writes them."""
    _survives(json.dumps(body).encode())


@given(
    st.lists(
        st.sampled_from([flow(), process(), flow([1.0]), {"kind": "x"}]), min_size=1, max_size=30
    )
)
def test_a_batch_keeps_count_order_and_ids(events: Sequence[dict[str, Any]]) -> None:
    """P29."""
    named = [event | {"id": f"e{row}"} for row, event in enumerate(events)]

    parsed = wire.parse_batch(json.dumps({"events": named}).encode(), limit=LIMIT)

    assert [event[0] if isinstance(event, tuple) else event.id for event in parsed] == [
        event["id"] for event in named
    ]


@pytest.mark.parametrize(
    "long",
    [{"name": "n" * 1_048_576}, {"parent": "é" * 200}, {"user": "u" * 257}, {"host": "h" * 257}],
)
def test_long_names_and_command_lines_are_cut_and_flagged(
    long: dict[str, str],
) -> None:
    """P28: if an event were rejected for its length, it would evade detection."""
    event = wire.parse_event(json.dumps(process(command_line="x" * 100_000, **long)).encode())

    batch, _, refused = wire.admit(Kind.PROCESS, [event])

    assert not refused
    assert isinstance(batch, ProcessBatch)
    assert batch.flags == {0: ("command_line_cut", "name_cut")}


def test_an_implausible_time_is_flagged_at_its_event_and_refuses_none() -> None:
    """T2: rejected rows between them move no flag, and other flags stay."""
    without_duration = [1.0] * 78
    without_duration[1] = 0.0
    events = [
        wire.parse_event(json.dumps(event).encode())
        for event in (
            flow(time="2026-12-01T00:00:00Z"),
            {**flow(time=0), "features": [1.0]},
            {**flow(time="2016-12-01T00:00:00Z"), "features": without_duration},
            flow(time="yesterday"),
            flow(),
        )
    ]
    times = PlausibleTimes(1.7e9, 1.8e9)

    batch, places, refused = wire.admit(Kind.FLOW, events, times)

    assert (places, [*refused]) == ([0, 2, 3, 4], [1])
    assert batch.flags == {1: ("rates_undefined", "skewed"), 2: ("time_invalid",)}
    unjudged, _, _ = wire.admit(Kind.FLOW, events)
    assert unjudged.flags == {1: ("rates_undefined",)}


@pytest.mark.parametrize("make", [flow, process])
def test_of_a_long_time_only_what_is_parsed_is_kept(make: Callable[..., dict[str, Any]]) -> None:
    """The spool keeps no more of an event than admission reads."""
    event = wire.parse_event(json.dumps(make(time="9" * 100_000)).encode())

    assert len(encode(wire.cut(event))) < 2000


def test_verdicts_are_in_order_with_every_layer_and_bounds(
    ensemble: LocalEnsemble, flow_events: list[dict[str, Any]]
) -> None:
    events = [wire.parse_event(json.dumps(event).encode()) for event in flow_events[:9]]
    batch, _, _ = wire.admit(Kind.FLOW, events)

    answers = verdict_wire.write_verdicts(
        batch,
        ensemble.score_groups(batch, explain=True),
        explain=True,
        elapsed_ms=1.5,
        scored_at=0.0,
    )

    assert [answer.id for answer in answers] == [event["id"] for event in flow_events[:9]]
    for answer in answers:
        assert [layer.layer for layer in answer.layers] == [
            "anomaly",
            "behavior",
            "classifier",
            "resilience",
        ]
        assert 0.0 <= answer.low <= answer.score <= answer.high <= 1.0
        assert answer.explanation
    assert json.loads(encode(answers[0]))["elapsed_ms"] == 1.5


def test_an_explanation_is_absent_by_default(
    ensemble: LocalEnsemble, flow_events: list[dict[str, Any]]
) -> None:
    batch, _, _ = wire.admit(Kind.FLOW, [wire.parse_event(json.dumps(flow_events[0]).encode())])

    answer = verdict_wire.write_verdicts(
        batch, ensemble.score_groups(batch), explain=False, elapsed_ms=0.0, scored_at=0.0
    )[0]

    assert "explanation" not in json.loads(encode(answer))
