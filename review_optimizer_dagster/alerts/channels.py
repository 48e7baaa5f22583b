"""The ways that alerts go: the log, a signed webhook, and the JSON that Slack takes.

Addresses and secrets are read from the environment when something is sent, and are never kept or
named: an error says which channel or variable it is about, and nothing of what stands in it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import requests

from review_optimizer_dagster.alerts.rules import Alert
from review_optimizer_dagster.alerts.settings import AlertSettings, ChannelSettings

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}
_SEVERITIES = ("info", "warning", "critical")
_SECRET_PREFIX = "whsec_"  # noqa: S105 (what a secret begins with)
_GONE = 410
_SLACK_SECTION = 3_000  # characters of one section
_USER_AGENT = "review-optimizer"


class DeliveryError(Exception):
    """A channel did not take an alert; the text may be shown to anybody."""

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        """retry_after: seconds that the receiver asks to be left alone for."""
        super().__init__(text)
        self.retry_after = retry_after


class Channel(ABC):
    """One way that alerts go."""

    def __init__(self, settings: ChannelSettings) -> None:
        self.name = settings.name
        self.timeout_seconds = settings.timeout_seconds
        self._least = _SEVERITIES.index(settings.least)
        self._tenants = frozenset(settings.tenants)

    @property
    def is_local(self) -> bool:
        """Whether sending takes no time, so that it needs no thread of its own."""
        return False

    def wants(self, alert: Alert) -> bool:
        """Whether an alert is to go this way."""
        severe = _SEVERITIES.index(alert.severity) >= self._least
        return severe and (not self._tenants or alert.tenant in self._tenants)

    @abstractmethod
    def send(self, alert: Alert, now: datetime) -> None:
        """Deliver an alert, or raise DeliveryError."""


class LogChannel(Channel):
    """Python's log, or a Dagster context's."""

    def __init__(self, settings: ChannelSettings, log: logging.Logger) -> None:
        super().__init__(settings)
        self._log = log

    @property
    def is_local(self) -> bool:
        """Always: the log is on this machine."""
        return True

    def send(self, alert: Alert, now: datetime) -> None:  # noqa: ARG002 (the log has its own time)
        """Write one line, at the level of the alert's severity."""
        text = f"{_mark(alert)}{alert.message}"
        self._log.log(_LEVELS[alert.severity], "alert %s: %s", alert.alert_id, text)


class HttpChannel(Channel):
    """A POST of JSON to an address that an environment variable holds."""

    def __init__(self, settings: ChannelSettings) -> None:
        super().__init__(settings)
        self._url_env = settings.url_env or ""
        self._secret_env = settings.secret_env or ""

    @abstractmethod
    def body(self, alert: Alert) -> dict[str, Any]:
        """What is sent of an alert: the same on every attempt."""

    def headers(self, alert: Alert, body: bytes, now: datetime) -> dict[str, str]:
        """What stands beside the body."""
        del alert, body, now
        return {}

    def send(self, alert: Alert, now: datetime) -> None:
        """Deliver an alert: any 2xx is delivered, and a redirect is not followed."""
        url = _address(self._url_env)
        body = json.dumps(self.body(alert), ensure_ascii=False).encode()
        headers = {"content-type": "application/json", "user-agent": _USER_AGENT}
        headers |= self.headers(alert, body, now)
        status, retry_after = _post(url, body, headers, self.timeout_seconds)
        if 200 <= status < 300:
            return
        problem = f"HTTP {status}"
        if 300 <= status < 400:
            problem += ": redirects are not followed"
        elif status == _GONE:
            problem += " Gone: the receiver says that it is there no more"
        raise DeliveryError(problem, retry_after)


class WebhookChannel(HttpChannel):
    """A webhook as the Standard Webhooks specification 1.0 has it."""

    def body(self, alert: Alert) -> dict[str, Any]:
        """The alert as Standard Webhooks 1.0 lays it out: type, timestamp, data."""
        return {
            "type": alert.event,
            "timestamp": alert.raised_at.isoformat(),
            "data": {
                "alert_id": alert.alert_id,
                "kind": alert.kind,
                "tenant": alert.tenant,
                "period": alert.period,
                "threshold": alert.threshold,
                "version": alert.version,
                "severity": alert.severity,
                "message": f"{_mark(alert)}{alert.message}",
                "value": alert.value,
                "limit": alert.limit,
                "simulated": alert.simulated,
                "recovers": alert.recovers,
            },
        }

    def headers(self, alert: Alert, body: bytes, now: datetime) -> dict[str, str]:
        """Id, time and signature. Raises UserError where the secret is missing or none."""
        key = signing_key(_variable(self._secret_env))
        timestamp = int(now.timestamp())
        return {
            "webhook-id": alert.alert_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(key, alert.alert_id, timestamp, body),
        }


class SlackChannel(HttpChannel):
    """What Slack's incoming webhooks take, and those of Mattermost, Rocket.Chat and others."""

    def body(self, alert: Alert) -> dict[str, Any]:
        """The alert as a message of blocks, its text escaped."""
        title = f"{_mark(alert)}{alert.severity.upper()} {alert.event}"
        about = f"{alert.tenant}, {alert.period}, alert {alert.alert_id}"
        text = _escaped(alert.message)
        return {
            "text": f"{_escaped(title)}: {text}",
            "blocks": [
                {"type": "section", "text": _markdown(f"*{_escaped(title)}*\n{text}")},
                {"type": "context", "elements": [_markdown(_escaped(about))]},
            ],
        }


def channels_of(settings: AlertSettings, log: logging.Logger) -> list[Channel]:
    """The channels that are configured, in their order."""
    made: list[Channel] = []
    for each in settings.channels:
        if each.kind == "log":
            made.append(LogChannel(each, log))
        elif each.kind == "webhook":
            made.append(WebhookChannel(each))
        else:
            made.append(SlackChannel(each))
    return made


def owed_to(channels: Sequence[Channel], alert: Alert) -> list[str]:
    """The names of the channels that an alert is to go through."""
    return [channel.name for channel in channels if channel.wants(alert)]


def signing_key(secret: str) -> bytes:
    """The bytes of a secret: base64 behind `whsec_`, or the text itself.

    Raises DeliveryError where it is not what its beginning says.
    """
    if not secret.startswith(_SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise DeliveryError("the signing secret begins with whsec_ but is not base64") from None


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The signature `v1,...` over id, timestamp and body."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _mark(alert: Alert) -> str:
    return "[simulated] " if alert.simulated else ""


def _escaped(text: str) -> str:
    """Slack's three control characters as text: `<!channel>` in a name must call nobody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown(text: str) -> dict[str, str]:
    return {"type": "mrkdwn", "text": text[:_SLACK_SECTION]}


def _variable(name: str) -> str:
    if value := os.environ.get(name, "").strip():
        return value
    raise DeliveryError(f"the environment variable {name} is not set")


def _address(variable: str) -> str:
    """The address in a variable; raises DeliveryError, without it, where it may not be used."""
    url = _variable(variable)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise DeliveryError(f"what {variable} holds is no address") from None
    secure = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))
    if not host or not secure:
        raise DeliveryError(
            f"the address in {variable} must begin with https://, or with http:// and be on this "
            "machine"
        )
    if parts.username is not None:
        raise DeliveryError(f"the address in {variable} must hold no user name and password")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Unlogged(logging.Filter):
    """Drops what HTTP libraries log of our requests: their lines hold the address."""

    def __init__(self) -> None:
        super().__init__()
        self._here = threading.local()

    def filter(self, _: logging.LogRecord) -> bool:
        return not getattr(self._here, "sending", False)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Nothing of this thread is logged in the block."""
        self._here.sending = True
        try:
            yield
        finally:
            self._here.sending = False


_UNLOGGED = _Unlogged()
# A filter holds for its own logger alone, so each that may speak of a request has it.
for _name in ("connection", "connectionpool", "poolmanager", "util.retry", "response"):
    logging.getLogger(f"urllib3.{_name}").addFilter(_UNLOGGED)


def _post(url: str, body: bytes, headers: dict[str, str], timeout: float) -> tuple[int, float]:
    """The status, and the seconds that the receiver asks to wait; raises DeliveryError."""
    with _UNLOGGED.sending(), requests.Session() as session:
        # No proxy stands between us and this machine.
        session.trust_env = not _is_loopback(urlsplit(url).hostname or "")
        try:
            with session.post(
                url,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                auth=lambda request: request,  # a .netrc of the account is not for receivers
                stream=True,  # what it answers is not read
            ) as answer:
                return answer.status_code, _seconds(answer.headers.get("retry-after"))
        except requests.exceptions.Timeout:
            raise DeliveryError(f"no answer within {timeout:g} s") from None
        except requests.exceptions.SSLError:
            raise DeliveryError("the receiver's certificate was not accepted") from None
        except requests.exceptions.ConnectionError:
            raise DeliveryError("no connection, or it was cut") from None
        except (requests.exceptions.RequestException, ValueError, OSError) as error:
            # Their texts hold the address.
            raise DeliveryError(f"the request failed: {type(error).__name__}") from None


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdigit() else 0.0
