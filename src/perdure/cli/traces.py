"""Traces for `perdure run`, as OpenTelemetry's own environment variables say.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 perdure run shop.py

They are on if one of them names where spans go: an OTLP endpoint, or OTEL_TRACES_EXPORTER. What
samples, how much is queued and when it leaves is the SDK's to read. It sends from a thread of its
own, and drops what is too much: neither a slow collector nor one that is away holds anything up,
but for a stop, which waits a moment for what is left.

A wrong setting does not keep a server from serving; it says so in one line, and goes without.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from perdure.base.ids import new_id
from perdure.cli.options import ServeOptions

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger("perdure.traces")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_LAST_SPANS_S = 3.0  # at a stop


class _WrongError(Exception):
    """What is asked for cannot be had."""


@contextmanager
def traces(options: ServeOptions) -> Iterator[None]:
    """Let the process have a provider of tracers, if one is asked for; send what is left at the
    end. Where the app has set one up itself, that is used, and is the app's to end."""
    provider = None
    try:
        provider = _provider(options)
    except _WrongError as error:
        if options.is_first and not options.is_again:  # of several processes one tells
            log.warning("no traces", extra={"why": str(error)})
    try:
        yield
    finally:
        if provider is not None:
            # a daemon: who does not answer cannot keep the process from ending
            last = Thread(target=provider.shutdown, daemon=True)
            last.start()
            last.join(_LAST_SPANS_S)


def _provider(options: ServeOptions) -> "TracerProvider | None":
    names = _exporters()
    if not names:
        return None
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise _WrongError('they need: pip install "perdure[otel]"') from None
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    exporters = [_exporter(name) for name in names]
    resource = Resource.create()
    own = {SERVICE_INSTANCE_ID: new_id(), "perdure.process": options.place.name}
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        own[SERVICE_NAME] = _name_of(options.target)
    provider = TracerProvider(resource=resource.merge(Resource(own)), shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider


def _exporters() -> list[str]:
    """Where spans are to go, by the names that exporters are registered under."""
    given = os.environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or given == "none":
        return []
    if not given:
        given = "otlp" if _first(_ENDPOINTS) else ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    return [_otlp() if name == "otlp" else name for name in names]


def _otlp() -> str:
    protocol = _first(_PROTOCOLS) or "http/protobuf"
    if protocol not in _OTLP:
        raise _WrongError(f"{_PROTOCOLS[1]} is {protocol!r}; use one of: {', '.join(_OTLP)}")
    endpoint = _first(_ENDPOINTS)
    if endpoint and urlsplit(endpoint).scheme not in {"http", "https"}:
        raise _WrongError(f"{_ENDPOINTS[1]} is {endpoint!r}; use http://HOST:PORT")
    return _OTLP[protocol]


def _exporter(name: str) -> Any:
    found = entry_points(group="opentelemetry_traces_exporter", name=name)
    if not found:
        known = sorted(entry_points(group="opentelemetry_traces_exporter").names)
        raise _WrongError(f"no exporter {name!r} is installed; there are: {', '.join(known)}")
    try:
        return next(iter(found)).load()()
    except Exception as error:  # whatever an exporter does not like about its settings
        raise _WrongError(f"the exporter {name!r} cannot be made: {error}") from error


def _first(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")


def _name_of(target: str) -> str:
    """`shop` for `examples/shop.py:app`."""
    module = target.rpartition(":")[0] if ":" in target else target
    return module.rpartition("/")[2].removesuffix(".py") or "perdure"
