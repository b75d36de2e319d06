"""The own tests of Starlette and FastAPI, with their requests sent through sockets to our server.

They are run if somebody says where their source distributions are: `PERDURE_STARLETTE=DIR` and
`PERDURE_FASTAPI=DIR`. What they need, and pytest-timeout and Perdure's requirements, has to be in
`DIR/.venv` or in the environment of these tests. Each test that fails is named here, with the
reason.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
SOURCE = HERE.parent / "src"
WITHIN_S = 900.0

ON_THE_WIRE = (
    "a WebSocket that is closed before it is accepted is a 403 on the wire, without a code"
)
ONLY_THERE = "an extension, a method or an order of messages that only their test client has"
NOT_SENT = "the HTTP client refuses to send it"
HOST = "our server refuses the Host before the application sees it"
ROOT_PATH = "a server puts root_path before the path, the test client does not (as with uvicorn)"
HEADERS = "headers have other cases, keys or an order of their own"
PROBLEM = "what fails without an answer is a problem document, not an empty body"
AS_ROOT = "needs a user who may not read everything"
STARLETTE = {
    "test_received_bytes_are_counted_with_unreliable_content_length": NOT_SENT,
    "test_cookies_invalid": NOT_SENT,
    "test_staticfiles_304_with_if_none_match_wildcard": NOT_SENT,
    "test_http_endpoint_does_not_dispatch_non_verb_method": NOT_SENT,
    "test_gzip_trailers": ONLY_THERE,
    "test_gzip_excluded_content_type_trailers": ONLY_THERE,
    "test_request_send_push_promise": ONLY_THERE,
    "test_templates": ONLY_THERE,
    "test_calls_context_processors": ONLY_THERE,
    "test_template_with_middleware": ONLY_THERE,
    "test_templates_with_directories": ONLY_THERE,
    "test_templates_with_environment": ONLY_THERE,
    "test_receive_wrong_message_type": ONLY_THERE,
    "test_send_response_unsupported": ONLY_THERE,
    "test_websocket_concurrency_pattern": ONLY_THERE,
    "test_response_phrase": "a final answer has no status below 200",
    "test_https_redirect_middleware": HOST,
    "test_https_redirect_middleware_without_server": HOST,
    "test_trusted_host_middleware_ipv6": HOST,
    "test_host_routing_ignores_port": HOST,
    "test_host_routing_rejects_invalid_hosts": HOST,
    "test_host_routing_ip_literals": HOST,
    "test_force_500_response": PROBLEM,
    "test_request_headers": HEADERS,
    "test_websocket_headers": HEADERS,
    "test_websocket_route_middleware": HEADERS,
    "test_additional_headers": HEADERS,
    "test_no_additional_headers": HEADERS,
    "test_paths_with_root_path": ROOT_PATH,
    "test_url_for_with_root_path": ROOT_PATH,
    "test_url_for_with_root_path_ending_with_slash": ROOT_PATH,
    "test_rejected_connection": ON_THE_WIRE,
    "test_websocket_authentication_required": ON_THE_WIRE,
    "test_staticfiles_websocket": ON_THE_WIRE,
    "test_staticfiles_with_invalid_dir_permissions_returns_401": AS_ROOT,
}

FASTAPI = {
    "test_wrong_uri": ON_THE_WIRE,
    "test_depend_validation": ON_THE_WIRE,
    "test_depend_err_middleware": ON_THE_WIRE,
    "test_depend_err_handler": ON_THE_WIRE,
    "test_websocket_parameter_models_preserve_repeated_extras": HEADERS,
    "test_websocket_handle_disconnection": "the client waits for all runs, and another goes on",
    "test_path_operation": "the client has a real address",
    "test_token_with_whitespaces": NOT_SENT,
    "test_security_http_base_with_whitespaces": NOT_SENT,
    "test_fastapi_cli": "needs coverage",
    "test_broken_session_stream_no_raise": "what fails before any of its body is sent is a 500",
}


def results_of(directory: Path, *options: str) -> tuple[int, set[str], str]:
    """How many of its tests passed, which failed, and all that was said."""
    own = directory / ".venv" / "bin" / "python"
    done = subprocess.run(
        [
            *(str(own) if own.exists() else sys.executable, "-m", "pytest", "tests", "-q", "-rfE"),
            *("-p", "asgi.framework_suite", "--tb=no", "--timeout=30", *options),
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{SOURCE}:{HERE}:{directory}"},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    passed = re.search(r"(\d+) passed", done.stdout)
    failed = set(re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE))
    return int(passed[1]) if passed else 0, failed, done.stdout[-5000:] + done.stderr[-2000:]


def directory_of(name: str) -> Path:
    """Where a source distribution is; skips the test if nobody says."""
    given = os.environ.get(name)
    if not given:
        pytest.skip(f"{name} does not say where the source distribution is")
    return Path(given).resolve()


@pytest.mark.timeout(WITHIN_S)
def test_starlettes_own_tests_pass_but_for_those_with_a_reason() -> None:
    directory = directory_of("PERDURE_STARLETTE")
    ignored = ["tests/test_testclient.py", "tests/middleware/test_opentelemetry.py"]
    passed, failed, said = results_of(directory, *(f"--ignore={one}" for one in ignored))
    assert failed <= STARLETTE.keys(), sorted(failed - STARLETTE.keys())
    assert passed > 600, said


@pytest.mark.timeout(WITHIN_S)
def test_fastapis_own_tests_pass_but_for_those_with_a_reason() -> None:
    directory = directory_of("PERDURE_FASTAPI")
    ignored = ["tests/test_telemetry", "tests/benchmarks", "tests/memory_benchmarks"]
    options = [f"--ignore={one}" for one in ignored]
    passed, failed, said = results_of(
        directory, *options, "-W", "ignore", "--continue-on-collection-errors"
    )
    assert failed <= FASTAPI.keys(), sorted(failed - FASTAPI.keys())
    assert passed > 3_500, said
