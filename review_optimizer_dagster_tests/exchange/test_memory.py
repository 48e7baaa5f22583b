"""How full the model server's memory is: read from Prometheus text, llama.cpp's slots, or NVML."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace

import pytest

from review_optimizer_dagster.exchange.memory import (
    GAUGES,
    SLOTS,
    MemoryReading,
    find_probe,
    slots_share,
)

KEY = "sk-not-a-key"
ELSEWHERE = "https://models.example.com/v1"


class MetricsServer:
    """Pages on loopback by path; a number is answered as that status, any other path with 404."""

    def __init__(self, pages: Mapping[str, str | int]) -> None:
        self.pages = dict(pages)
        self.asked: list[tuple[str, str | None]] = []
        """Path and Authorization of each request."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append((self.path, self.headers.get("authorization")))
                page = owner.pages.get(self.path, 404)
                self.send_response(page if isinstance(page, int) else 200)
                if page == 302:
                    self.send_header("location", "/elsewhere")
                body = b"" if isinstance(page, int) else page.encode()
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.metrics_url = f"{self.origin}/metrics"

    def read(self, base_url: str = ELSEWHERE) -> MemoryReading | None:
        """What a new probe reads here."""
        probe = find_probe(base_url, self.metrics_url, KEY)
        assert probe is not None
        return probe.read()


@contextmanager
def serving(**pages: str | int) -> Iterator[MetricsServer]:
    """A server with these pages, until the end of the block."""
    server = MetricsServer({f"/{name}": page for name, page in pages.items()})
    serve = {"poll_interval": 0.01}
    threading.Thread(target=server._server.serve_forever, kwargs=serve, daemon=True).start()
    try:
        yield server
    finally:
        server._server.shutdown()
        server._server.server_close()


@pytest.mark.parametrize("name", GAUGES)
def test_each_known_gauge_is_read_as_it_is(name: str) -> None:
    """Whatever the server is, a name with `perc` in it included, the number is a share."""
    with serving(metrics=f"# TYPE {name} gauge\n{name} 0.85\n") as server:
        assert server.read() == MemoryReading(0.85, name)


@pytest.mark.parametrize(
    ("lines", "share"),
    [
        (["vllm:kv_cache_usage_perc 2.5e-01"], 0.25),
        (['vllm:kv_cache_usage_perc{engine="0",model_name="a/b"} 0.3 1795668336000'], 0.3),
        (['vllm:kv_cache_usage_perc{model_name="od}d \\"name\\" {"} 0.4'], 0.4),
        (['vllm:kv_cache_usage_perc{e="0"} 0.2', 'vllm:kv_cache_usage_perc{e="1"} 0.9'], 0.9),
        (['vllm:kv_cache_usage_perc{e="0"} NaN', 'vllm:kv_cache_usage_perc{e="1"} 0.1'], 0.1),
        (["vllm:kv_cache_usage_perc{} 1.0000002"], 1.0),
        (["vllm:kv_cache_usage_perc_max 0.9", "vllm:kv_cache_usage_perc 0.1"], 0.1),
        (["# HELP vllm:kv_cache_usage_perc 1 is all", "vllm:kv_cache_usage_perc 0"], 0.0),
        (["vllm:gpu_cache_usage_perc 0.7", "vllm:kv_cache_usage_perc 0.6"], 0.6),
        (['vllm_kv_cache_usage_perc{pod="a"} 0.5'], 0.5),
        (["vllm:kv_cache_usage_perc NaN"], None),
        (["vllm:kv_cache_usage_perc words"], None),
    ],
)
def test_the_text_format_is_read_in_any_form(lines: Sequence[str], share: float | None) -> None:
    """Exponents, labels, times, several engines, NaN before the first request, routers' names."""
    with serving(metrics="\n".join(lines) + "\r\n") as server:
        reading = server.read()
    assert (reading and reading.share) == share


def test_llama_cpp_is_read_by_its_slots() -> None:
    """Its gauge was removed in 2025; what each busy slot holds is what is left to go by."""
    idle = {"n_ctx": 1_000, "is_processing": False, "n_prompt_tokens": 400}
    busy = {"n_ctx": 1_000, "is_processing": True, "n_prompt_tokens": 500}
    slots = json.dumps([busy, idle, {"n_ctx": 1_000, "is_processing": False}])
    with serving(metrics="llamacpp:requests_processing 1\n", slots=slots) as server:
        assert server.read() == MemoryReading(0.5, SLOTS)
        assert [path for path, _ in server.asked] == ["/metrics", "/slots"]


def test_a_divided_cache_shows_once_the_slots_hold_more_than_one_window() -> None:
    """Four half-full slots are two thirds full or far too full, by what `-np` made of the cache."""
    slots = [{"n_ctx": 1_000, "is_processing": True, "n_prompt_tokens": 300}] * 3
    assert slots_share(slots, False) == (0.9, False)
    fuller = [*slots, {"n_ctx": 1_000, "is_processing": False, "n_prompt_tokens": 300}]
    assert slots_share(fuller, False) == (900 / 4_000, True)
    assert slots_share(slots, True) == (900 / 3_000, True)


@pytest.mark.parametrize("slots", ["[]", "{}", "[{}]", "null", "not JSON", '[{"n_ctx": 0}]', 501])
def test_slots_that_are_none_are_warned_of(
    slots: str | int, caplog: pytest.LogCaptureFixture
) -> None:
    """llama.cpp answers 501 with --no-slots; anything else there must not end a run either."""
    with serving(metrics="llamacpp:n_decode_total 1\n", slots=slots) as server:
        assert server.read() is None
    assert "--no-slots" in caplog.text


@pytest.mark.parametrize(
    ("base_url", "sent"),
    [
        ("http://127.0.0.1:1/v1", f"Bearer {KEY}"),  # the same host, a port of its own
        ("https://127.0.0.1/v1", None),  # the key was meant for an encrypted connection
        (ELSEWHERE, None),
    ],
)
def test_the_key_goes_only_to_the_host_it_is_for(base_url: str, sent: str | None) -> None:
    """A metrics address is often another service; it has no business with the model's key."""
    with serving(metrics="sglang:token_usage 0.5\n") as server:
        assert server.read(base_url) is not None
        assert server.asked == [("/metrics", sent)]


def test_a_redirect_is_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    """It would take the key along, and to another host."""
    with serving(metrics=302, elsewhere="sglang:token_usage 0.5\n") as server:
        assert server.read() is None
        assert len(server.asked) == 1
    assert "HTTP 302" in caplog.text


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("process_cpu_seconds_total 3\n", "none of the gauges that are known"),
        ("<html>not metrics</html>", "none of the gauges that are known"),
        (404, "HTTP 404"),
        (401, "HTTP 401"),
    ],
)
def test_one_warning_says_what_to_do(
    page: str | int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A watch that sees nothing must not go unnoticed, nor fill the log of a long run."""
    with serving(metrics=page) as server:
        probe = find_probe(ELSEWHERE, server.metrics_url, KEY)
        assert probe is not None
        assert [probe.read() for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert said in record.getMessage()
    assert "Set metrics_url to" in record.getMessage()
    assert KEY not in caplog.text


def test_nobody_there_is_one_warning_too(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong port is the likeliest mistake."""
    with serving() as server:
        pass
    assert server.read() is None
    assert "refused" in caplog.text


def test_a_server_that_answered_before_may_be_away_for_a_moment(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is busiest when its memory is full; that is no reason to change settings."""
    with serving(metrics="sglang:token_usage 0.5\n") as server:
        probe = find_probe(ELSEWHERE, server.metrics_url, KEY)
        assert probe is not None
        assert probe.read() == MemoryReading(0.5, "sglang:token_usage")
        server.pages["/metrics"] = 503
        assert probe.read() is None
        server.pages["/metrics"] = "sglang:token_usage 0.9\n"
        assert probe.read() == MemoryReading(0.9, "sglang:token_usage")
    assert caplog.records == []


def test_no_file_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """An address is a setting, and settings are shared between people."""
    probe = find_probe(ELSEWHERE, "file:///etc/hostname", KEY)
    assert probe is not None
    assert probe.read() is None
    assert "http" in caplog.text


class FakeNvml(ModuleType):
    """Stands for `pynvml`: GPUs by used and total bytes; None is one that does not tell."""

    class NVMLError(Exception):
        """What every call may raise."""

    def __init__(self, *gpus: tuple[int, int] | None, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.gpus = gpus
        self.driver = driver

    def nvmlInit(self) -> None:  # noqa: N802 (NVML's own name, as those below)
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        gpu = self.gpus[handle]
        if gpu is None:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(used=gpu[0], total=gpu[1])


LOCAL = "http://localhost:8000/v1"


@pytest.mark.parametrize("base_url", [LOCAL, "http://127.0.0.1/v1", "http://[::1]:80/v1"])
def test_the_fullest_gpu_of_this_machine_counts(
    base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model over several GPUs stops at the first that is full."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml((10, 100), (70, 100), None, (0, 0)))
    probe = find_probe(base_url, None, KEY)
    assert probe is not None
    assert probe.source == "nvml"
    assert probe.read() == MemoryReading(0.7, "nvml")


def test_a_gpu_that_is_full_from_the_start_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """vLLM reserves 90 % when it starts; a run that crawls must say why, and what helps."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml((90, 100)))
    probe = find_probe(LOCAL, None, KEY)
    assert probe is not None
    assert [probe.read(), probe.read()] == [MemoryReading(0.9, "nvml")] * 2
    (record,) = caplog.records
    assert "metrics_url" in record.getMessage()


def test_gpus_of_another_machine_are_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU here says nothing of a server elsewhere."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml((10, 100)))
    assert find_probe(ELSEWHERE, None, KEY) is None


@pytest.mark.parametrize("nvml", [None, FakeNvml(driver=False), FakeNvml()])
def test_no_extra_no_driver_and_no_gpu_are_no_probe(
    nvml: ModuleType | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Most machines have none; that needs no word."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert find_probe(LOCAL, None, KEY) is None
    assert caplog.records == []


def test_gpus_that_stop_telling_are_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost GPU must not end a run that may do without the watch."""
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(None))
    probe = find_probe(LOCAL, None, KEY)
    assert probe is not None
    assert probe.read() is None
