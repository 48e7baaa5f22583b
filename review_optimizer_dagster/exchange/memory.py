"""How full the model server's memory is, read beside the exchanges: a full one is asked less."""

from __future__ import annotations

import ipaddress
import json
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib import import_module
from typing import Any, Final, Protocol
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

log = logging.getLogger(__name__)

# Gauges of the share of the KV cache that is in use: 0 to 1, whatever the name says. The first that
# a server exports counts. A colon and an underscore are the same here, as in what passes a router.
GAUGES: Final = (
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",  # vLLM's former name
    "sglang:token_usage",  # the fullest of its pools
    "trtllm_kv_cache_utilization",  # TensorRT-LLM, under /prometheus/metrics
    "lmdeploy:gpu_cache_usage_perc",
    "gpu_cache_usage_perc",  # NVIDIA NIM, under /v1/metrics
    "llamacpp:kv_cache_usage_ratio",  # llama.cpp until May 2025
)
SLOTS: Final = "llamacpp:slots"  # the source of a reading of llama.cpp's /slots
_LLAMA_CPP: Final = "llamacpp_"
_SAMPLE: Final = re.compile(
    r"""(?P<name>[a-zA-Z_:][\w:]*)
    \s*(?:\{(?:[^"}]|"(?:\\.|[^"\\])*")*\})?  # labels, whose quoted values may hold a brace
    \s+(?P<value>\S+)""",
    re.VERBOSE,
)
_SECONDS: Final = 0.5  # for a connection, and for each part of an answer
_MOST_SECONDS: Final = 1.0  # for a whole answer
_MOST_BYTES: Final = 8_000_000
_RESERVED: Final = 0.8


@dataclass(frozen=True)
class MemoryReading:
    """How full the memory is that limits how much a model server can be asked at once."""

    share: float
    """0 to 1."""
    source: str
    """`nvml`, `llamacpp:slots`, or the name of the gauge."""


class MemoryProbe(Protocol):
    """Reads the memory of one model server."""

    @property
    def source(self) -> str:
        """Where it looks: `nvml`, or the address of the metrics."""

    def read(self) -> MemoryReading | None:
        """A reading, within about a second; None where nothing can be read now."""


def find_probe(base_url: str, metrics_url: str | None, api_key: str) -> MemoryProbe | None:
    """What can read the memory of the server behind `base_url`; None where nothing can.

    With a `metrics_url` its Prometheus metrics, which are sent the key only where they are on the
    same host; else the GPUs of this machine, where the server runs on it too.
    """
    if metrics_url is not None:
        return PrometheusProbe(metrics_url, api_key if _may_know(metrics_url, base_url) else "")
    return NvmlProbe.found() if _is_this_machine(base_url) else None


class PrometheusProbe:
    """Reads what a model server exports in Prometheus's text format, or llama.cpp's /slots."""

    def __init__(self, metrics_url: str, api_key: str) -> None:
        self.source = metrics_url
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._opener = build_opener(_StayHere)
        self._has_read = False
        self._has_warned = False
        self._is_divided = False  # llama.cpp's cache, among its slots

    def read(self) -> MemoryReading | None:
        """The first known gauge, its fullest series; None where there is none or no answer.

        The first time without one, of a server that never had one, is logged with what to do.
        """
        try:
            reading = self._look()
        except (OSError, HTTPException, ValueError) as problem:
            self._warn(_told(problem))
            return None
        self._has_read |= reading is not None
        return reading

    def _look(self) -> MemoryReading | None:
        found = read_gauges(self._get(self.source))
        for name in GAUGES:
            values = found.get(_plain(name))
            if values is not None:
                return MemoryReading(_clamped(max(values)), name) if values else None
        if not any(name.startswith(_LLAMA_CPP) for name in found):
            self._warn("exports none of the gauges that are known: " + ", ".join(GAUGES))
            return None
        return self._look_at_slots()

    def _look_at_slots(self) -> MemoryReading | None:
        """llama.cpp exports no such gauge any more, but says what each slot holds."""
        parts = urlsplit(self.source)
        path = parts.path.rstrip("/").rpartition("/")[0] + "/slots"
        slots = json.loads(self._get(parts._replace(path=path).geturl()))
        share, self._is_divided = slots_share(slots, self._is_divided)
        return MemoryReading(_clamped(share), SLOTS)

    def _get(self, url: str) -> str:
        """Raises OSError, HTTPException or ValueError where no whole answer came in time."""
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("is not an http or https address")
        deadline = time.monotonic() + _MOST_SECONDS
        request = Request(url, headers=self._headers)  # noqa: S310 (checked above)
        parts: list[bytes] = []
        with self._opener.open(request, timeout=_SECONDS) as response:
            while part := response.read1(65_536):
                parts.append(part)
                if time.monotonic() > deadline or sum(map(len, parts)) > _MOST_BYTES:
                    raise TimeoutError("its answer does not end")
        return b"".join(parts).decode(errors="replace")

    def _warn(self, problem: str) -> None:
        if self._has_read or self._has_warned:
            return
        self._has_warned = True
        log.warning(
            "[engine] metrics_url %s: %s. The server's memory is not watched. Set metrics_url to "
            "where it exports its Prometheus metrics (SGLang does with --enable-metrics, llama.cpp "
            "with --metrics and without --no-slots), or leave it out.",
            self.source,
            problem,
        )


class NvmlProbe:
    """Reads the memory of this machine's NVIDIA GPUs, through the extra `gpu`.

    Some servers, vLLM and SGLang among them, take nearly all of it when they start: only their
    own metrics tell how much of that is in use.
    """

    source: Final = "nvml"

    def __init__(self, nvml: Any, devices: Sequence[Any]) -> None:
        self._nvml = nvml
        self._devices = devices
        self._has_read = False

    @classmethod
    def found(cls) -> NvmlProbe | None:
        """A probe of all GPUs; None without the extra, a driver or a GPU."""
        try:
            nvml = import_module("pynvml")
        except ImportError:
            return None
        try:
            nvml.nvmlInit()
            count = nvml.nvmlDeviceGetCount()
            devices = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        except nvml.NVMLError:
            return None
        return cls(nvml, devices) if devices else None

    def read(self) -> MemoryReading | None:
        """The largest share in use of any GPU; None where none tells."""
        shares = []
        for device in self._devices:
            try:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(device)
            except self._nvml.NVMLError:
                continue  # one that is lost, or that shares the machine's memory and has no answer
            if memory.total:
                shares.append(memory.used / memory.total)
        if not shares:
            return None
        if max(shares) >= _RESERVED and not self._has_read:
            log.warning(
                "A GPU's memory is %.0f %% in use at the first look, so batches are made smaller "
                "and fewer. If the model's server reserves it (vLLM and SGLang do), set [engine] "
                "metrics_url to its Prometheus metrics.",
                100 * max(shares),
            )
        self._has_read = True
        return MemoryReading(_clamped(max(shares)), self.source)


def read_gauges(text: str) -> dict[str, list[float]]:
    r"""Name to the numbers of its series, of Prometheus's text format; a colon reads as underscore.

    >>> read_gauges('# a comment\nvllm:use{engine="0"} 2.5e-01\nvllm:use{engine="1"} NaN')
    {'vllm_use': [0.25]}
    """
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        sample = _SAMPLE.match(line.strip())
        if sample is None:
            continue
        values = found.setdefault(_plain(sample["name"]), [])
        try:
            value = float(sample["value"])
        except ValueError:
            continue
        if math.isfinite(value):
            values.append(value)
    return found


def slots_share(slots: Sequence[Mapping[str, Any]], is_divided: bool) -> tuple[float, bool]:
    """The share of llama.cpp's KV cache that its busy slots hold, and whether it is divided.

    A slot states its window: all of a cache that the slots share, or its own part of a divided
    one, and not which of the two. It is taken to be shared, so that the share is never too small,
    until the slots together hold more than one window, which in a shared cache they cannot.

    Raises ValueError where these are not slots.

    >>> slots_share([{"n_ctx": 100, "is_processing": True, "n_prompt_tokens": 30}] * 2, False)
    (0.6, False)
    """
    try:
        windows = [slot["n_ctx"] for slot in slots]
        held = [slot.get("n_prompt_tokens", 0) for slot in slots]
        busy = sum(
            tokens for slot, tokens in zip(slots, held, strict=True) if slot["is_processing"]
        )
        is_divided |= sum(held) > max(windows)
        return busy / (sum(windows) if is_divided else max(windows)), is_divided
    except (KeyError, TypeError, ZeroDivisionError) as problem:
        raise ValueError("its /slots are not those of llama.cpp") from problem


class _StayHere(HTTPRedirectHandler):
    """A redirect would take the key elsewhere."""

    def redirect_request(self, *_: object) -> None:
        return None


def _told(problem: Exception) -> str:
    if isinstance(problem, HTTPError):
        return f"answers HTTP {problem.code}"
    return str(problem) or type(problem).__name__


def _plain(name: str) -> str:
    return name.replace(":", "_")


def _clamped(share: float) -> float:
    return min(1.0, max(0.0, share))


def _may_know(metrics_url: str, base_url: str) -> bool:
    """Whether the key for `base_url` may be sent: to the same host, and no less protected."""
    metrics, base = urlsplit(metrics_url), urlsplit(base_url)
    protected = metrics.scheme == "https" or base.scheme != "https"
    return metrics.hostname == base.hostname and protected


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
