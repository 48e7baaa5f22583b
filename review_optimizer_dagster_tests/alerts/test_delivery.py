"""Delivery: at least once under the same id, whatever the receiver does; and no secret anywhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from review_optimizer_dagster.alerts.channels import (
    Channel,
    DeliveryError,
    channels_of,
    owed_to,
    signature,
    signing_key,
)
from review_optimizer_dagster.alerts.outbox import Dispatcher, back_off, deliver_due
from review_optimizer_dagster.alerts.rules import Alert
from review_optimizer_dagster.alerts.settings import AlertSettings
from review_optimizer_dagster.alerts.store import (
    KEY_PREFIX,
    OUTBOX,
    acknowledge,
    kept_alerts,
    raise_once,
)
from review_optimizer_dagster.money.budgets import JSON
from review_optimizer_dagster_tests.alerts.receiver import SECRET, Receiver, serving
from review_optimizer_dagster_tests.memory_state import MemoryState

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
LOG = logging.getLogger("test_delivery")
HOOK = {"name": "hook", "kind": "webhook", "url_env": "HOOK_URL", "secret_env": "HOOK_SECRET"}
CHAT = {"name": "chat", "kind": "slack", "url_env": "CHAT_URL"}
LOGGED = {"name": "log", "kind": "log"}


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def on(self, **more: float) -> None:
        """Move it."""
        self.now += timedelta(**more)


def channels(*settings: dict[str, Any], timeout: float = 5.0) -> list[Channel]:
    """Channels of these settings."""
    timed = [each | {"timeout_seconds": timeout} for each in settings]
    return channels_of(AlertSettings.model_validate({"channels": timed}), LOG)


def an_alert(name: str = "a1", **more: Any) -> Alert:
    """An alert of a budget."""
    alert = Alert(name, "budget", "acme", "2026-11", 50, "warning", "half is spent", NOON, 50, 100)
    return replace(alert, **more)


def raising(state: MemoryState, to: list[Channel], *alerts: Alert) -> None:
    """Raise alerts that are owed to these channels."""
    raise_once(state, alerts, lambda alert: owed_to(to, alert))


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # must not stand before loopback


Setter = Callable[[str], None]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Setter:
    """Says where the webhook goes."""
    return lambda url: monkeypatch.setenv("HOOK_URL", url)


def test_a_receiver_that_fails_half_the_time_gets_each_alert_under_its_id(hook: Setter) -> None:
    """500, a cut connection, no answer, 500 after it was taken: at least once, the same id."""
    state, clock = MemoryState(), Clock()
    to = channels(HOOK, timeout=0.05)
    names = [f"{number:032x}" for number in range(25)]
    with serving(Receiver(seed=3)) as receiver:
        hook(receiver.url)
        raising(state, to, *(an_alert(name) for name in names))
        passes = 0
        while state.get(OUTBOX):
            deliver_due(state, channels(HOOK, timeout=0.05), clock, LOG)  # each a new process
            clock.on(minutes=10)
            passes += 1
            assert passes < 500
    assert set(receiver.received) == set(names)
    assert (receiver.wrong_ids, receiver.wrong_signatures) == (0, 0)
    assert len(receiver.requests) > len(names)
    bodies = {name: {json.dumps(r["body"]) for r in receiver.requests if r["id"] == name}
              for name in names}  # fmt: skip
    assert {len(each) for each in bodies.values()} == {1}  # every attempt says the same
    assert {kept.state for kept in kept_alerts(state)} == {"delivered"}
    attempts = sum(kept.deliveries["hook"].attempts for kept in kept_alerts(state))
    assert attempts == len(receiver.requests)


def test_the_signature_is_that_of_the_specification() -> None:
    """The example that libraries of Standard Webhooks are tested with."""
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    told = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert told == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signing_key("plain words") == b"plain words"
    with pytest.raises(DeliveryError, match="not base64"):
        signing_key("whsec_not base64!")


def test_a_webhook_says_what_happened_and_when_it_was_sent(hook: Setter) -> None:
    """Receivers tell events by type, and refuse what is too old by the time of the attempt."""
    state, clock = MemoryState(), Clock()
    to = channels(HOOK)
    clock.on(minutes=3)
    with serving(Receiver(failing=0)) as receiver:
        hook(receiver.url)
        raising(state, to, an_alert(simulated=True))
        deliver_due(state, to, clock, LOG)
    (request,) = receiver.requests
    assert request["body"]["type"] == "budget.threshold_reached"
    assert request["body"]["timestamp"] == NOON.isoformat()
    assert request["body"]["data"]["simulated"] is True
    assert request["body"]["data"]["message"] == "[simulated] half is spent"
    assert request["headers"]["webhook-timestamp"] == str(int(clock.now.timestamp()))


def test_slack_is_told_as_it_wants_and_no_name_can_call_everybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`<!channel>` in a message would wake a whole workspace."""
    state, to = MemoryState(), channels(CHAT)
    with serving(Receiver(failing=0)) as receiver:
        monkeypatch.setenv("CHAT_URL", receiver.url)
        raising(state, to, an_alert(tenant="<!channel>&co", message="<@U1> " * 999, simulated=True))
        deliver_due(state, to, Clock(), LOG)
    (request,) = receiver.requests
    body = request["body"]
    assert body["text"].startswith("[simulated] WARNING budget.threshold_reached: &lt;@U1&gt;")
    assert "&lt;!channel&gt;&amp;co" in body["blocks"][1]["elements"][0]["text"]
    assert len(body["blocks"][0]["text"]["text"]) <= 3_000
    assert "<" not in json.dumps(body)


@pytest.mark.parametrize(
    ("status", "error", "seconds"),
    [
        (302, "HTTP 302: redirects are not followed", 36),
        (410, "HTTP 410 Gone: the receiver says that it is there no more", 36),
        (429, "HTTP 429", 600),
        (500, "HTTP 500", 36),
    ],
)
def test_what_is_not_taken_is_tried_again(
    hook: Setter, status: int, error: str, seconds: int
) -> None:
    """Nothing switches a channel off; a receiver that says how long is left alone so long."""
    state, clock, to = MemoryState(), Clock(), channels(HOOK)
    with serving(Receiver(failing=0, status=status)) as receiver:
        hook(receiver.url)
        raising(state, to, an_alert())
        assert deliver_due(state, to, clock, LOG).failed == 1
        (kept,) = kept_alerts(state)
        assert kept.deliveries["hook"].error == error
        assert deliver_due(state, to, clock, LOG).failed == 0  # it is not due
        clock.on(seconds=seconds)
        receiver.status = 204
        assert deliver_due(state, to, clock, LOG).delivered == 1
    assert [request["path"] for request in receiver.requests] == ["/hook", "/hook"]


def test_the_back_off_doubles_up_to_an_hour() -> None:
    """With jitter that is the same for the same alert, and not for another."""
    waits = [back_off(attempts, "a|hook") for attempts in range(1, 40)]
    for attempts, wait in enumerate(waits[:6]):
        assert 0.8 * 30 * 2**attempts <= wait <= 1.2 * 30 * 2**attempts
    assert set(waits[8:]) == {3600.0}
    assert waits == [back_off(attempts, "a|hook") for attempts in range(1, 40)]
    assert back_off(1, "b|hook") != waits[0]


def test_a_broken_channel_keeps_no_other_from_delivering(
    hook: Setter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that never answers is not waited for by the others, nor for ever by the run."""
    state, to = MemoryState(), channels(HOOK, CHAT, LOGGED)
    hanging = Receiver(failing=1, ways=("no answer",))
    with serving(hanging), serving(Receiver(failing=0)) as receiver:
        hook(hanging.url)
        monkeypatch.setenv("CHAT_URL", receiver.url)
        raising(state, to, *(an_alert(name) for name in ("a1", "a2", "a3")))
        done = deliver_due(state, to, Clock(), LOG, limit_seconds=0.5)
        assert done.delivered == 6
        assert len(receiver.requests) == 3
        assert done.waiting == 3


def test_two_processes_seldom_send_the_same(hook: Setter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim keeps others off while it is sent, and falls with the process that held it."""
    state, clock, to = MemoryState(), Clock(), channels(HOOK)
    raising(state, to, an_alert())

    class Killed(BaseException):
        """The process ends here."""

    def killed(*_: object) -> None:
        raise Killed

    dying = channels(LOGGED | {"name": "hook"})[0]  # sends in the thread of the test
    monkeypatch.setattr(dying, "send", killed)
    with pytest.raises(Killed):
        deliver_due(state, [dying], clock, LOG)
    with serving(Receiver(failing=0)) as receiver:
        hook(receiver.url)
        deliver_due(state, to, clock, LOG, force=True)
        assert receiver.requests == []
        clock.on(minutes=1)
        deliver_due(state, to, clock, LOG)
        assert receiver.received == {"a1": 1}


def test_what_was_raised_without_a_channel_is_not_owed_to_it_later(hook: Setter) -> None:
    """A new channel must not begin with years of old alerts."""
    state, to = MemoryState(), channels(HOOK)
    raising(state, [], an_alert("old"))
    raising(state, to, an_alert("new"))
    with serving(Receiver(failing=0)) as receiver:
        hook(receiver.url)
        deliver_due(state, to, Clock(), LOG)
    assert receiver.received == {"new": 1}


def test_a_channel_takes_what_it_wants() -> None:
    """By severity and tenant."""
    strict = channels(HOOK | {"least": "critical"}, CHAT | {"tenants": ["bolt"]}, LOGGED)
    assert owed_to(strict, an_alert()) == ["log"]
    assert owed_to(strict, an_alert(severity="critical", tenant="bolt")) == ["hook", "chat", "log"]
    assert owed_to(strict, an_alert(severity="info", tenant="bolt")) == ["chat", "log"]


def test_what_a_removed_channel_is_owed_waits_until_somebody_acknowledges() -> None:
    """A misspelt name must lose nothing; what was seen to need not wait for ever."""
    state, clock = MemoryState(), Clock()
    raising(state, channels(HOOK, LOGGED), an_alert())
    assert deliver_due(state, channels(LOGGED), clock, LOG).waiting == 1
    acknowledge(state, "a1", "kim", clock.now)
    assert deliver_due(state, channels(LOGGED), clock, LOG).waiting == 0
    (kept,) = kept_alerts(state)
    assert (kept.state, kept.acknowledged_by) == ("acknowledged", "kim")
    assert acknowledge(state, "a1", "lee", clock.now).acknowledged_by == "kim"


def test_a_process_that_dies_between_any_two_steps_loses_no_alert() -> None:
    """The state is left as it is at each write in turn; whoever comes next delivers it."""

    class Dying(MemoryState):
        left = 0

        def _spend(self) -> None:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1

        def add(self, key: str, value: JSON) -> bool:
            self._spend()
            return super().add(key, value)

        def update(self, key: str, change: Callable[[JSON | None], JSON]) -> JSON:
            self._spend()
            return super().update(key, change)

    to = channels(LOGGED)
    for writes in range(1, 4):
        state = Dying()
        state.left = writes
        died = False
        try:
            raising(state, to, an_alert(episode="e"))
        except KeyboardInterrupt:
            died = True
        assert died == (writes < 3)
        state.left = 1_000
        raising(state, to, an_alert(episode="e"))
        assert deliver_due(state, to, Clock(), LOG).waiting == 0
        assert [kept.state for kept in kept_alerts(state)] == ["delivered"]
        assert state.get(OUTBOX) == {}


def test_what_is_open_is_read_without_what_is_not() -> None:
    """Years of delivered alerts must not be read to find one that is owed."""

    class Counting(MemoryState):
        reads = 0

        def get(self, key: str) -> JSON | None:
            self.reads += key.startswith(KEY_PREFIX)
            return super().get(key)

        def keys(self, prefix: str) -> list[str]:
            raise AssertionError(f"every key was listed: {prefix}")

    state, to = Counting(), channels(LOGGED)
    raising(state, to, *(an_alert(f"a{number}") for number in range(200)))
    deliver_due(state, to, Clock(), LOG)
    raising(state, to, an_alert("last"))
    state.reads = 0
    assert deliver_due(state, to, Clock(), LOG).delivered == 1
    assert state.reads < 10


def test_the_dispatcher_delivers_while_a_run_goes_on_and_when_it_ends(hook: Setter) -> None:
    """It is woken, and leaving the block delivers what is left."""
    state, to = MemoryState(), channels(HOOK)
    with serving(Receiver(failing=0)) as receiver:
        hook(receiver.url)
        with Dispatcher(state, to, Clock(), LOG, drain_seconds=10) as dispatcher:
            raising(state, to, an_alert("first"))
            dispatcher.wake()
            raising(state, to, an_alert("second"))
    assert receiver.received == {"first": 1, "second": 1}


def test_the_dispatcher_leaves_a_channel_that_hangs(hook: Setter) -> None:
    """A run must not wait for a receiver; what is owed stays owed."""
    state, to = MemoryState(), channels(HOOK, timeout=5)
    with serving(Receiver(failing=1, ways=("no answer",))) as receiver:
        hook(receiver.url)
        raising(state, to, an_alert())
        with Dispatcher(state, to, Clock(), LOG, drain_seconds=0.1):
            pass
    assert list(state.get(OUTBOX) or ()) == ["a1"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "variable HOOK_URL is not set"),
        ("http://example.com/secret-path", "must begin with https://"),
        ("ftp://127.0.0.1/secret-path", "must begin with https://"),
        ("https://me:secret-path@127.0.0.1:9/x", "no user name and password"),
        ("http://127.0.0.1:99999/secret-path", "is no address"),
        ("https://127.0.0.1:9/secret-path", "no connection"),
        ("http://127.0.0.1:9/secret-path", "no connection"),
    ],
)
def test_addresses_and_secrets_stand_nowhere(
    hook: Setter, url: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Slack's address is all that it takes to post: not in a log, an error, a repr or the state."""
    caplog.set_level(logging.DEBUG)
    hook(url)
    state, to = MemoryState(), channels(HOOK)
    raising(state, to, an_alert())
    done = deliver_due(state, to, Clock(), LOG)
    assert words in (done.errors or {})["hook"]
    shown = [caplog.text, repr(to), repr(vars(to[0])), repr(done), repr(kept_alerts(state))]
    shown.append(repr(state._values))
    for text in shown:
        assert "secret-path" not in text
        assert SECRET not in text


def test_what_http_libraries_log_of_a_request_is_dropped(
    hook: Setter, caplog: pytest.LogCaptureFixture
) -> None:
    """At level DEBUG they write the whole path."""
    caplog.set_level(logging.DEBUG)
    state, to = MemoryState(), channels(HOOK)
    with serving(Receiver(failing=0)) as receiver:
        hook(receiver.url)
        raising(state, to, an_alert())
        deliver_due(state, to, Clock(), LOG)
    assert receiver.received == {"a1": 1}
    assert "/hook" not in caplog.text
