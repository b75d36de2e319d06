"""A collector of traces on loopback: takes OTLP over HTTP, decodes it, and keeps it."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_KINDS = ("", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")


class Span(msgspec.Struct):
    """One span as it came."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str  # empty: none
    links: list[str]
    attributes: dict[str, Any]
    resource: dict[str, Any]
    began_ns: int
    ended_ns: int

    @property
    def process(self) -> str:
        """Which of the processes on its machine."""
        return str(self.resource["perdure.process"]).rpartition("/")[2]


class Collector:
    """Use as a context manager. With `hangs` it takes connections and answers nothing."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.requests = 0
        self._spans: list[Span] = []
        self._lock = threading.Lock()
        self._goes_on = threading.Event()
        if not hangs:
            self._goes_on.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._goes_on.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process send its spans here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def spans(self) -> list[Span]:
        """All that came, in the order in which they began."""
        with self._lock:
            return sorted(self._spans, key=lambda span: span.began_ns)

    def of(self, trace: str) -> list[Span]:
        """Those of one trace."""
        return [span for span in self.spans() if span.trace == trace]

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self.requests += 1
            for of_resource in request.resource_spans:
                resource = _attributes(of_resource.resource.attributes)
                for of_scope in of_resource.scope_spans:
                    self._spans += [_span(one, resource) for one in of_scope.spans]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector._goes_on.wait()
                collector.take(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


def _span(one: Any, resource: dict[str, Any]) -> Span:
    return Span(
        one.name,
        _KINDS[one.kind],
        one.trace_id.hex(),
        one.span_id.hex(),
        one.parent_span_id.hex(),
        [link.span_id.hex() for link in one.links],
        _attributes(one.attributes),
        resource,
        one.start_time_unix_nano,
        one.end_time_unix_nano,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
