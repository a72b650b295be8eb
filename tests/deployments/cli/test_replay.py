"""`axon replay`.

An old verdict is made once more by what made it, or it is said what changed, or what is missing
(N-09).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from deployments import cli
from deployments.cli import console
from deployments.cli.local_store import own_store
from deployments.scoring import verdict_wire, wire
from ensemble.features.flow import FEATURE_NAMES, OTHER_DIALECTS
from ensemble.layers.catalog import LAYERS
from ensemble.retro.findings import Finding
from ensemble.retro.segment import FirstVerdict
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.store.layout import Store
from ensemble.store.signing import Signer
from ensemble.verdicts import VerdictLabel
from tests.support.asgi_clients import LONG_DEADLINE, Event, OpenIngress
from tests.support.own_models import publish_own_anomaly, trust_signer
from tests.support.slots import resolver_of

Answer = dict[str, Any]
Replay = Callable[..., Result]
SHIPPED = "default/4"
NOW = datetime(2026, 11, 20, 8, 15, tzinfo=UTC)
SAME, CHANGED, IMPOSSIBLE = 0, 1, 2


@dataclass(frozen=True)
class Case:
    """An event and its verdict."""

    event: Event
    answer: Answer


@pytest.fixture
def replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replay:
    """`replay(answer, event, "--json")`: what is no path is written into a file first."""
    monkeypatch.setattr(console, "out", Console(width=250))
    monkeypatch.setattr(console, "err", Console(width=250, stderr=True))

    def file(name: str, content: object) -> Path:
        if isinstance(content, Path):
            return content
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    def run(verdict: object, event: object, *options: str) -> Result:
        files = [str(file("verdict.json", verdict)), str(file("event.json", event))]
        return CliRunner().invoke(cli.app, ["replay", *files, *options])

    return run


@pytest.fixture
def ask(
    open_client: OpenIngress, flow_events: list[Event], process_events: list[Event]
) -> Callable[..., list[Case]]:
    """`ask(down={"behavior"})`.

    Some flows and process starts in one batch, on hosts that are known and unknown.
    """
    hosts = ["web-1", "ws-17", "", "nobody-knows"]
    events = [
        {**event, "host": hosts[row % 4]}
        for row, event in enumerate([*flow_events[:6], *flow_events[-6:]])
    ]
    mixed = [*events, *process_events]

    # only read
    def asked(*, down: set[str] = frozenset(), overrides: Mapping[str, Any] = {}) -> list[Case]:  # type: ignore[assignment]
        answer = open_client(down=down, overrides={**LONG_DEADLINE, **overrides}).post(
            "/v1/score/batch", {"events": mixed}
        )
        assert answer.status_code == 200
        return [
            Case(event, result)
            for event, result in zip(mixed, answer.json()["results"], strict=True)
        ]

    return asked


@pytest.fixture
def case(ask: Callable[..., list[Case]]) -> Case:
    """A flow of a host whose posture is known, and is not neutral."""
    return posture_shifts(ask())


def posture_shifts(cases: list[Case]) -> Case:
    return next(
        one
        for one in cases
        if one.event["kind"] == "flow"
        and abs(layer(one.answer, "resilience")["score"] - 0.5) > 0.05
    )


def layer(answer: Answer, name: str) -> dict[str, Any]:
    (found,) = [one for one in answer["layers"] if one["layer"] == name]
    return found  # type: ignore[no-any-return]


def outcome(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    assert (
        result.exit_code
        == {"same": SAME, "changed": CHANGED, "another_event": CHANGED, "impossible": IMPOSSIBLE}[
            found["outcome"]
        ]
    )
    return found


def changed(result: Result) -> set[str]:
    found = outcome(result)
    assert found["outcome"] == "changed"
    assert found["why"]
    return {line["what"] for line in found["lines"] if not line["is_same"]}


def refused(result: Result) -> str:
    """The sentence of a refusal, which has no internal detail."""
    assert result.exit_code == IMPOSSIBLE, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


# the same


@pytest.mark.parametrize(
    "down",
    [set(), {"behavior"}, {"anomaly"}, {"resilience"}, {"anomaly", "behavior"}],
    ids=lambda down: "+".join(sorted(down)) or "none",
)
def test_every_verdict_comes_out_as_it_did_and_what_was_silent_stays_silent(
    replay: Replay, ask: Callable[..., list[Case]], down: set[str]
) -> None:
    """P15.

    Made in a batch, and again alone; here every layer could speak, and only those that did are
    asked.
    """
    for case in ask(down=down)[::3]:  # flows and process starts, on every sort of host
        found = outcome(replay(case.answer, case.event, "--json"))

        assert found["outcome"] == "same"
        assert found["why"] == []
        then = {line["what"]: line["then"] for line in found["lines"]}
        for one in case.answer["layers"]:
            assert then[one["layer"]] == (
                one["score"] if one["status"] == "live" else one["status"]
            )


def test_a_person_sees_each_layer_and_the_verdict_side_by_side(replay: Replay, case: Case) -> None:
    result = replay(case.answer, case.event)

    assert result.exit_code == SAME
    assert "the same, within 1e-06" in result.stdout
    assert f"release {SHIPPED}" in result.stdout
    words = [line.split()[0] for line in result.stdout.splitlines() if line.split()[-1] == "same"]
    assert words == [
        *LAYERS,
        "score",
        "low",
        "high",
        "coverage",
        "verdict",
        "severity",
        "degraded",
        "status",
    ]


def test_the_event_may_come_in_another_dialect_order_and_under_another_id(
    replay: Replay, case: Case
) -> None:
    named = {
        OTHER_DIALECTS.get(name, (name,))[0]: value
        for name, value in zip(FEATURE_NAMES, case.event["features"], strict=True)
    }
    features = dict(reversed(named.items()))

    result = replay(
        case.answer,
        {"id": "mine", "features": features, "host": case.event["host"], "kind": "flow"},
    )

    assert result.exit_code == SAME, result.output


def test_the_terminals_own_verdicts_replay(
    replay: Replay, tmp_path: Path, flow_events: list[Event], process_events: list[Event]
) -> None:
    """`axon score --output jsonl` into a file, the events it read beside it.

    The id finds the verdict, the digest the event.
    """
    events = tmp_path / "events.jsonl"
    events.write_text("\n".join(json.dumps(event) for event in [*flow_events[:5], *process_events]))
    scored = CliRunner().invoke(cli.app, ["score", str(events), "--local", "--output", "jsonl"])

    for event_id in ("f0", "f4", "p1"):
        assert replay(scored.stdout.encode(), events, "--id", event_id).exit_code == SAME


def test_a_verdict_of_an_axon_that_had_fewer_layers_replays(replay: Replay) -> None:
    """Written down while release 3 was shipped, before there was a classifier.

    What was not asked then is not asked now.
    """
    golden = Path(__file__).resolve().parents[2] / "golden"

    found = outcome(
        replay(golden / "verdict_of_release_3.json", golden / "event_of_release_3.json", "--json")
    )

    assert (found["outcome"], found["release"]) == ("same", "default/3")
    assert "classifier" not in {line["what"] for line in found["lines"]}


def test_a_finding_replays(replay: Replay, case: Case) -> None:
    """Findings are verdicts too, and an investigation often begins with one."""
    finding = Finding(
        id=case.answer["id"],
        kind="flow",
        host=case.event["host"],
        digest="0" * 64,
        at="2026-01-01T08:00:00.000000+00:00",
        found_at="2026-01-01T09:30:00.000000+00:00",
        was=FirstVerdict(0.02, VerdictLabel.INDETERMINATE, 0.0),
        verdict=msgspec.Raw(json.dumps(case.answer).encode()),
    )

    assert replay(msgspec.json.encode(finding) + b"\n", case.event).exit_code == SAME


# another release serves meanwhile


@pytest.fixture
def own_key(own_trust: Path, signer: Signer) -> None:
    """The key of the tests may publish into the state folder."""
    trust_signer(own_trust, signer)


@pytest.fixture
def promoted(own_key: None, signer: Signer) -> Callable[..., str]:
    """`promoted("acme")`.

    The next release of a tenant, with an anomaly model of its own; its name.
    """
    del own_key  # needed for its effect

    def one(tenant: str = "default") -> str:
        return publish_own_anomaly(tenant, signer, NOW)

    return one


@pytest.fixture
def own_case(promoted: Callable[..., str], flow_events: list[Event], tmp_path: Path) -> Case:
    """A verdict by a release that lies in the state folder, where it can be broken."""
    name = promoted()
    events = tmp_path / "one.jsonl"
    events.write_text(json.dumps(flow_events[0]))
    answer = json.loads(
        CliRunner().invoke(cli.app, ["score", str(events), "--local", "--output", "jsonl"]).stdout
    )
    assert answer["release"] == name
    return Case(flow_events[0], answer)


def test_the_release_that_made_it_is_loaded_and_not_the_one_that_serves_now(
    replay: Replay, own_case: Case, promoted: Callable[..., str]
) -> None:
    later = promoted()

    found = outcome(replay(own_case.answer, own_case.event, "--json"))

    assert found["outcome"] == "same"
    assert found["release"] == own_case.answer["release"] != later


def test_a_release_that_was_deleted_is_named(
    replay: Replay, own_case: Case, own_state: Path
) -> None:
    (own_state / "tenants" / "default" / "releases" / "5.json").unlink()

    assert "release 5 is not in the store" in refused(replay(own_case.answer, own_case.event))


def test_another_release_under_the_same_number_is_not_taken_for_it(
    replay: Replay, own_case: Case
) -> None:
    result = replay({**own_case.answer, "release_sha256": "ab" * 32}, own_case.event, "--json")

    assert outcome(result)["code"] == "ARTIFACT_CORRUPT"
    assert "abababababab" in refused(result)


def test_a_release_whose_key_is_trusted_no_more_is_not_loaded(
    replay: Replay, own_case: Case, own_trust: Path
) -> None:
    trust = yaml.safe_load(own_trust.read_text())
    own_trust.write_text(yaml.safe_dump({**trust, "keys": {}}))

    assert (
        outcome(replay(own_case.answer, own_case.event, "--json"))["code"] == "ARTIFACT_UNTRUSTED"
    )


def test_a_model_that_is_gone_is_named_where_its_layer_spoke(
    replay: Replay, own_case: Case, own_state: Path
) -> None:
    shutil.rmtree(own_state / "tenants" / "default" / "bundles" / "anomaly-flow" / "3")

    sentence = refused(replay(own_case.answer, own_case.event))

    assert "anomaly spoke then, and its model cannot be loaded now" in sentence
    assert "anomaly-flow/3" in sentence


def test_a_model_that_is_gone_is_not_missed_where_its_layer_was_silent(
    replay: Replay, ask: Callable[..., list[Case]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = ask(down={"behavior"})[0]
    store = own_store()
    assert store.shipped is not None
    copy = tmp_path / "shipped"
    shutil.copytree(store.shipped, copy)
    shutil.rmtree(copy / "tenants" / "default" / "bundles" / "behavior-flow")
    monkeypatch.setattr(
        "deployments.cli.replay.own_store", lambda _: Store(store.state, copy, store.trust)
    )

    assert replay(case.answer, case.event).exit_code == SAME


def test_a_verdict_by_a_tenants_own_release_is_refused_to_another_tenant(
    replay: Replay, case: Case, promoted: Callable[..., str]
) -> None:
    """All tenants inherit the generic models; only acme is served by those of acme."""
    name = promoted("acme")

    assert replay(case.answer, case.event, "--tenant", "acme").exit_code == SAME
    assert "neither tenant globex's" in refused(
        replay({**case.answer, "release": name}, case.event, "--tenant", "globex")
    )
    assert "tenant" in refused(replay(case.answer, case.event, "--tenant", "../acme"))


# another event


def test_another_event_is_told_from_the_one_that_was_scored(replay: Replay, case: Case) -> None:
    features = [
        *case.event["features"][:5],
        case.event["features"][5] + 1.0,
        *case.event["features"][6:],
    ]

    result = replay(case.answer, {**case.event, "features": features})

    assert result.exit_code == CHANGED
    assert "another event" in result.stdout
    assert case.answer["input_sha256"][:12] in result.stdout
    assert "score" not in result.stdout  # nothing is compared


def test_the_same_flow_on_another_host_is_another_event(replay: Replay, case: Case) -> None:
    found = outcome(replay(case.answer, {**case.event, "host": "elsewhere"}, "--json"))

    assert found["outcome"] == "another_event"
    assert found["input_sha256"] == case.answer["input_sha256"] not in found["found_sha256"]


@pytest.mark.parametrize("form", ["batch", "lines"])
def test_the_event_is_found_among_many_by_its_digest(
    replay: Replay, ask: Callable[..., list[Case]], form: str
) -> None:
    cases = ask()
    events = [one.event for one in cases]
    sent = (
        {"events": events}
        if form == "batch"
        else "\n".join(json.dumps(event) for event in [{"kind": "nothing"}, *events]).encode()
    )

    assert replay(cases[7].answer, sent).exit_code == SAME
    without = [event for event in events if event is not cases[7].event]
    assert "none of them" in replay(cases[7].answer, {"events": without}).stdout


# settings that are others now


def operator_says(tmp_path: Path, args: Mapping[str, Any]) -> tuple[str, str]:
    path = tmp_path / "serve.yaml"
    application = {
        "name": "axon",
        "route_prefix": "/",
        "import_path": "deployments.app:build",
        "args": args,
    }
    path.write_text(yaml.safe_dump({"applications": [application]}))
    return "--config", str(path)


@pytest.mark.parametrize("then", [0.5, 0.2, 0.0])
def test_a_posture_bound_that_changed_is_named_with_what_it_was(
    replay: Replay, ask: Callable[..., list[Case]], tmp_path: Path, then: float
) -> None:
    """No verdict carries it: the layers' old words give the old score with one bound only."""
    case = posture_shifts(ask(overrides={"fusion": {"posture_bound": then}}))
    options = operator_says(tmp_path, {"fusion": {"posture_bound": 0.35}})

    result = replay(case.answer, case.event, "--json", *options)

    assert {"score", "low", "high"} <= changed(result)
    assert outcome(result)["why"] == [
        f"fusion.posture_bound is 0.35 now; with {then:g} the layers give the old score"
    ]


def test_a_posture_bound_is_found_out_also_where_the_posture_was_silent(
    replay: Replay, ask: Callable[..., list[Case]], tmp_path: Path
) -> None:
    """Then the score is the same, and only how low and high it might have been is not."""
    case = ask(down={"resilience"})[0]
    options = operator_says(tmp_path, {"fusion": {"posture_bound": 0.1}})

    result = replay(case.answer, case.event, "--json", *options)

    assert changed(result) == {"low", "high"}
    assert outcome(result)["why"] == [
        "fusion.posture_bound is 0.1 now; with 0.5 the layers give the old score"
    ]


@pytest.mark.parametrize(("then", "now"), [(0.1, 0.9), (0.9, 0.1)])
def test_a_min_coverage_that_changed_is_named(
    replay: Replay, ask: Callable[..., list[Case]], tmp_path: Path, then: float, now: float
) -> None:
    case = ask(down={"behavior"}, overrides={"fusion": {"min_coverage": then}})[0]
    assert (case.answer["verdict"] == "indeterminate") == (then > now)
    options = operator_says(tmp_path, {"fusion": {"min_coverage": now}})

    result = replay(case.answer, case.event, "--json", *options)

    assert changed(result) == {"verdict"}
    assert (
        f"fusion.min_coverage is {now:g} now, and was {'above' if then > now else 'at most'}"
        in outcome(result)["why"][0]
    )


DAY_S = 86_400.0


def by_the_posture_of(shipped: Store, event: Event, at: float) -> Answer:
    """The verdict of that day."""
    rules = {
        "min_coverage": 0.5,
        "posture_bound": 0.5,
        "stale_after_days": 30,
        "expired_after_days": 730,
    }
    # each of its own type
    ensemble = LocalEnsemble(resolver_of(shipped), **rules, now=lambda: at)  # type: ignore[arg-type]
    parsed = wire.parse_event(json.dumps(event).encode())
    batch, _, _ = wire.admit(wire.kind_of(parsed), [parsed])
    (answer,) = verdict_wire.write_verdicts(
        batch, ensemble.score_groups(batch), explain=False, elapsed_ms=1.0, scored_at=at
    )
    return msgspec.to_builtins(answer)  # type: ignore[no-any-return]


@pytest.mark.parametrize("days", [-60, 0, 300, 5_000])
def test_the_posture_is_as_old_as_it_was_then(
    replay: Replay, case: Case, shipped: Store, days: int
) -> None:
    """P16.

    Vulnerability data ages; a verdict of last year is replayed on last year's day, also where the
    posture had expired by then.
    """
    scored_at = datetime.fromisoformat(case.answer["scored_at"]).timestamp() + days * DAY_S
    answer = by_the_posture_of(shipped, case.event, scored_at)

    result = replay(answer, case.event)

    assert result.exit_code == SAME, result.output
    assert (layer(answer, "resilience") == layer(case.answer, "resilience")) == (days == 0)


def test_ages_that_are_set_otherwise_now_are_named_with_what_was_remarked(
    replay: Replay, case: Case, tmp_path: Path
) -> None:
    options = operator_says(
        tmp_path, {"posture": {"stale_after_days": 3_000, "expired_after_days": 4_000}}
    )

    result = replay(case.answer, case.event, "--json", *options)

    assert "resilience" in changed(result)
    (why,) = outcome(result)["why"]
    assert "posture.stale_after_days or posture.expired_after_days" in why
    assert "stale" in why


def test_a_verdict_given_at_midnight_says_that_the_day_may_be_the_other(
    replay: Replay, case: Case, shipped: Store
) -> None:
    """The layer reads its clock some milliseconds after the batch was dated."""
    midnight = datetime.fromisoformat(case.answer["scored_at"]).timestamp() // DAY_S * DAY_S
    answer = by_the_posture_of(shipped, case.event, midnight + 0.002)

    result = replay(
        {**answer, "scored_at": datetime.fromtimestamp(midnight - 0.2, UTC).isoformat()},
        case.event,
        "--json",
    )

    assert "resilience" in changed(result)
    assert "midnight" in outcome(result)["why"][0]


# a verdict that was altered

ALTERED = {
    "the score": ({"score": 0.5}, {"score"}),
    "a bound": ({"low": 0.0}, {"low"}),
    "the word": ({"verdict": "benign"}, {"verdict"}),
    "the word to one that leaves it open": ({"verdict": "indeterminate"}, {"verdict"}),
    "the severity": ({"severity": "low"}, {"severity"}),
    "the coverage": ({"coverage": 0.25}, {"coverage"}),
    "that it was whole": ({"degraded": True}, {"degraded"}),
    "the status": ({"status": "FALLBACK_MODE"}, {"status"}),
}


@pytest.mark.parametrize(("alteration", "expected"), ALTERED.values(), ids=ALTERED.keys())
def test_what_was_altered_is_what_changed(
    replay: Replay, ask: Callable[..., list[Case]], alteration: dict[str, Any], expected: set[str]
) -> None:
    case = next(one for one in ask() if one.answer["verdict"] == "malicious")

    assert changed(replay({**case.answer, **alteration}, case.event, "--json")) == expected


@pytest.mark.parametrize("name", ["anomaly", "behavior", "resilience"])
def test_a_layer_that_was_altered_is_told_apart_from_the_settings(
    replay: Replay, case: Case, name: str
) -> None:
    """The score still is what the true layers give: so no setting is blamed for it."""
    layers = [
        {**one, "score": one["score"] / 2} if one["layer"] == name else one
        for one in case.answer["layers"]
    ]

    result = replay({**case.answer, "layers": layers}, case.event, "--json")

    assert changed(result) == {name}
    why = outcome(result)["why"]
    assert why[0].startswith(name)
    assert any("altered" in reason for reason in why)


def test_a_version_that_the_release_does_not_hold_is_named(replay: Replay, case: Case) -> None:
    layers = [
        {**one, "version": "77"} if one["layer"] == "anomaly" else one
        for one in case.answer["layers"]
    ]

    result = replay({**case.answer, "layers": layers}, case.event, "--json")

    assert changed(result) == {"anomaly version"}
    assert "version 77" in outcome(result)["why"][0]


def test_a_layer_that_was_made_silent_or_taken_out_changes_the_score(
    replay: Replay, case: Case
) -> None:
    silent = [
        {**one, "status": "timeout"} if one["layer"] == "behavior" else one
        for one in case.answer["layers"]
    ]
    without = [one for one in case.answer["layers"] if one["layer"] != "behavior"]

    for layers in (silent, without):
        assert {"score", "coverage", "degraded"} <= changed(
            replay({**case.answer, "layers": layers}, case.event, "--json")
        )


def test_a_layer_that_this_axon_does_not_have_is_named(replay: Replay, case: Case) -> None:
    oracle = {"layer": "oracle", "score": 0.9, "status": "live", "version": "1", "reason": ""}

    assert "oracle" in refused(
        replay({**case.answer, "layers": [*case.answer["layers"], oracle]}, case.event)
    )


# files that hold no verdict, or several


@pytest.fixture
def batch(open_client: OpenIngress, flow_events: list[Event]) -> tuple[dict[str, Any], list[Event]]:
    """A batch's answer with an error in the middle."""
    events = [
        flow_events[0],
        {**flow_events[1], "id": "bad", "features": flow_events[1]["features"][:77]},
        flow_events[2],
    ]
    return open_client().post("/v1/score/batch", {"events": events}).json(), events


def test_a_batchs_answer_replays_by_id_also_beside_an_error(
    replay: Replay, batch: tuple[dict[str, Any], list[Event]]
) -> None:
    answer, events = batch

    assert replay(answer, {"events": events}, "--id", "f2").exit_code == SAME
    assert "refused and not scored: FEATURE_MISMATCH" in refused(
        replay(answer, {"events": events}, "--id", "bad")
    )
    assert "holds 3 verdicts; choose one with --id" in refused(replay(answer, {"events": events}))
    assert "holds no verdicts with the id nobody" in refused(
        replay(answer, {"events": events}, "--id", "nobody")
    )


def test_an_id_that_two_answers_have_names_none(replay: Replay, case: Case) -> None:
    twice = {"results": [case.answer, case.answer], "status": "", "coverage": 1.0}

    assert "holds 2 verdicts with the id" in refused(
        replay(twice, case.event, "--id", case.answer["id"])
    )


NO_VERDICT = {
    "no JSON": b"{",
    "no JSON in a line": b'{"id": "e1"}\n{',
    "not UTF-8": b"\xff\xfe",
    "nested too deeply": b"[" * 100_000,
    "an empty file": b"",
    "a list": b"[]",
    "a number": b"3",
    "an event": b'{"kind": "process", "name": "ls"}',
    "an error": b'{"error": {"code": "MALFORMED_JSON", "message": "x"}}',
}


@pytest.mark.parametrize("content", NO_VERDICT.values(), ids=NO_VERDICT.keys())
def test_what_is_no_verdict_is_refused_in_a_sentence(
    replay: Replay, case: Case, content: bytes
) -> None:
    assert refused(replay(content, case.event))


IMPOSSIBLE_VERDICTS = {
    "a score above 1": {"score": 1.5},
    "a score that is no number": {"score": "0.5"},
    "an unknown status": {
        "layers": [
            {"layer": "anomaly", "score": 0.5, "status": "asleep", "version": "1", "reason": ""}
        ]
    },
    "a layer's score below 0": {
        "layers": [
            {"layer": "anomaly", "score": -0.1, "status": "live", "version": "1", "reason": ""}
        ]
    },
    "a layer twice": {
        "layers": [
            {"layer": "anomaly", "score": 0.1, "status": "live", "version": "1", "reason": ""}
        ]
        * 2
    },
    "no layer": {"layers": []},
    "no time": {"scored_at": "yesterday"},
    "a time that could be any of 24 hours": {"scored_at": "2026-11-20T08:15:00"},
    "a release that climbs": {"release": "../../etc/3"},
    "a release without a number": {"release": "default"},
    "a release of number zero": {"release": "default/0"},
    "no release": {"release": "", "release_sha256": ""},
    "a digest that is none": {"release_sha256": "sha"},
}


@pytest.mark.parametrize("alteration", IMPOSSIBLE_VERDICTS.values(), ids=IMPOSSIBLE_VERDICTS.keys())
def test_a_verdict_that_no_axon_gave_is_refused_in_a_sentence(
    replay: Replay, case: Case, alteration: dict[str, Any]
) -> None:
    assert refused(replay({**case.answer, **alteration}, case.event))


def test_a_verdict_of_an_older_axon_says_so(replay: Replay, case: Case) -> None:
    older = {
        name: value
        for name, value in case.answer.items()
        if name not in {"release", "release_sha256", "input_sha256", "scored_at"}
    }

    assert "from an older Axon" in refused(replay(older, case.event))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"events": []}', b'{"kind": "flow", "features": [1]}']
)
def test_a_file_without_an_event_that_passes_the_door_is_refused(
    replay: Replay, case: Case, content: bytes
) -> None:
    assert "holds no valid one" in refused(replay(case.answer, content))


def test_a_file_that_is_not_there_is_named_without_its_folder(
    replay: Replay, case: Case, tmp_path: Path
) -> None:
    sentence = refused(replay(case.answer, tmp_path / "nothing.json"))

    assert "nothing.json cannot be read" in sentence
    assert str(tmp_path) not in sentence


def test_a_config_file_that_is_none_is_refused(replay: Replay, case: Case, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("applications: 3")

    assert "no Serve config file" in refused(
        replay(case.answer, case.event, "--config", str(tmp_path / "bad.yaml"))
    )


def test_nothing_of_a_file_reaches_the_terminal_raw(replay: Replay, case: Case) -> None:
    """A verdict may be forged, with escape codes in place of a reason."""
    evil = "\x1b[2J\x1b]0;owned\x07[bold]"
    layers = [
        {**one, "reason": evil, "version": evil, "score": one["score"] / 2}
        for one in case.answer["layers"]
    ]

    result = replay(
        {**case.answer, "layers": layers, "verdict": evil, "severity": evil, "status": evil},
        case.event,
    )

    assert result.exit_code == CHANGED
    assert "\x1b" not in result.output
    assert "\x07" not in result.output
