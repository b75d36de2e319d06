"""Bugs on purpose in the load balancer; see `planted`."""

from tests.faults.planted import Planted

_EXCHANGE, _UPSTREAM, _BACKENDS = (
    "balance/exchange.py",
    "balance/upstream.py",
    "balance/backends.py",
)
_HEADS, _FRONT, _TCP = "balance/heads.py", "balance/front.py", "balance/tcp.py"
_FORWARDING = "tests/unit/balance/test_forwarding.py"
_LOSSES = "tests/unit/balance/test_losses.py"
_STATES = "tests/unit/balance/test_backends.py"
_TCP_TEST = "tests/unit/balance/test_tcp.py"
_FAULTS = "tests/faults/test_balancer.py"

PLANTED_IN_BALANCER = (
    Planted(
        "any request is sent again",
        _EXCHANGE,
        "and (self.method in _IDEMPOTENT or self.head.has_idempotency_key)",
        "and True",
        f"{_FORWARDING}::test_a_request_that_may_be_repeated_is_and_another_is_not",
    ),
    Planted(
        "an idempotency key is no reason to send again",
        _EXCHANGE,
        "self.method in _IDEMPOTENT or self.head.has_idempotency_key",
        "self.method in _IDEMPOTENT",
        f"{_FAULTS}::test_a_kill_costs_nothing_that_may_be_repeated",
    ),
    Planted(
        "a request that was read and lost counts as never arrived",
        "balance/evidence.py",
        ">= sent_bytes)",
        ">= 0)",
        f"{_LOSSES}::test_what_was_read_and_then_lost_is_not_sent_again",
    ),
    Planted(
        "what never arrived is not sent again",
        _EXCHANGE,
        "or (had_end and self._never_arrived())",
        "or (had_end and False)",
        f"{_LOSSES}::test_what_meets_a_connection_just_closed_is_sent_again",
    ),
    Planted(
        "retries have no budget",
        "balance/budget.py",
        "        if retries >= requests * self._share + self._minimum:",
        "        if False:",
        f"{_FORWARDING}::test_retries_end_with_their_budget",
    ),
    Planted(
        "a request is repeated without its body",
        _EXCHANGE,
        '        body = b"".join(self._pieces)',
        '        body = b"".join(self._pieces) if self.attempts < 2 else b""',
        f"{_FORWARDING}::test_a_request_that_may_be_repeated_is_and_another_is_not",
    ),
    Planted(
        "a backend that takes no connections is asked twice and then given up",
        _EXCHANGE,
        "        if len(self._tried) < _UNREACHABLE_MAX:",
        "        if len(self._tried) < 2:",
        f"{_LOSSES}::test_one_backend_that_lives_is_found_among_many_that_do_not",
    ),
    Planted(
        "a frozen backend keeps what it was sent",
        "balance/shared.py",
        "                if backend.is_silent:",
        "                if False:",
        f"{_LOSSES}::test_a_frozen_backend_loses_what_may_be_repeated_and_keeps_the_rest",
    ),
    Planted(
        "a draining backend still gets requests",
        _BACKENDS,
        '        return "draining"\n    if not backend.is_healthy:',
        '        return "up"\n    if not backend.is_healthy:',
        f"{_STATES}::test_unhealthy_and_drained_backends_get_nothing",
    ),
    Planted(
        "a backend that no source names any more is cut off",
        _BACKENDS,
        '        return "draining" if backend.in_flight else "gone"',
        '        return "gone"',
        f"{_STATES}::test_a_backend_that_is_not_named_any_more_ends_its_work_and_goes",
    ),
    Planted(
        "who says 503 is asked twice before it is believed",
        "balance/health.py",
        "1 if is_first or status == 503 else",
        "1 if is_first else",
        f"{_LOSSES}::test_who_says_503_is_believed_at_once",
    ),
    Planted(
        "all may be ejected",
        _BACKENDS,
        "backend.is_leaving or 2 * (ejected + 1) > serving:",
        "backend.is_leaving:",
        f"{_STATES}::test_at_most_half_are_ejected",
    ),
    Planted(
        "nobody is ever ejected",
        _BACKENDS,
        "            if self.failures_in_a_row >= self._group.rules.eject_after_failures:",
        "            if False:",
        f"{_FORWARDING}::test_failures_in_a_row_leave_a_backend_out",
    ),
    Planted(
        "who was ejected stays so",
        _BACKENDS,
        "        if not backend.is_ejected or backend.ejection != number:",
        "        if True:",
        f"{_STATES}::test_each_ejection_lasts_twice_as_long_and_is_forgotten_at_last",
    ),
    Planted(
        "a backend that cannot be reached is left out for longer each time",
        _BACKENDS,
        "        if is_away:",
        "        if False:",
        f"{_STATES}::test_a_backend_that_is_away_is_not_left_out_for_longer_each_time",
    ),
    Planted(
        "a backend that was started anew is still ejected",
        _BACKENDS,
        "            backend.is_ejected = False\n        backend.is_healthy",
        "        backend.is_healthy",
        f"{_STATES}::test_a_backend_that_was_away_altogether_comes_back_without_its_past",
    ),
    Planted(
        "anybody may say whom a request is from",
        _HEADS,
        "        and (peer.is_trusted or not _ASSERTED",
        "        and (True or not _ASSERTED",
        f"{_FORWARDING}::test_what_only_a_trusted_proxy_may_say_is_dropped",
    ),
    Planted(
        "what Connection names is passed on",
        _HEADS,
        "    dropped = _HOP_BY_HOP | options\n",
        "    dropped = _HOP_BY_HOP\n",
        f"{_FORWARDING}::test_what_only_a_trusted_proxy_may_say_is_dropped",
    ),
    Planted(
        "any text may be a request id",
        _HEADS,
        "    if request_id_of(request_id) is None:",
        "    if not request_id:",
        f"{_LOSSES}::test_a_request_has_an_id_and_its_trace_is_passed_on",
    ),
    Planted(
        "a length beside chunked is passed over",
        _HEADS,
        "        if length is not None:\n            raise RefusedError(400",
        "        if False:\n            raise RefusedError(400",
        "tests/unit/balance/test_smuggling.py::test_what_is_not_clear_is_refused",
    ),
    Planted(
        "half an answer ends like a whole one",
        _EXCHANGE,
        "        self.client.abort()",
        '        self.client.end_answer(b"0\\r\\n\\r\\n")',
        f"{_FORWARDING}::test_half_an_answer_is_never_taken_for_a_whole_one",
    ),
    Planted(
        "a connection with bytes left over is used again",
        _UPSTREAM,
        "            self._saw_end = True  # more than an answer",
        "            pass  # more than an answer",
        f"{_FORWARDING}::test_bytes_behind_an_answer_never_become_the_next_one",
    ),
    Planted(
        "an answer that nobody asked for is kept for the next request",
        _UPSTREAM,
        "            self.cut()  # an answer that nobody asked for",
        "            self._held = data  # an answer that nobody asked for",
        f"{_LOSSES}::test_bytes_that_nobody_asked_for_end_a_connection",
    ),
    Planted(
        "a tunnel that both sides have ended stays open",
        _FRONT,
        "        if self._saw_end or self.peer.scheme",
        "        if self.peer.scheme",
        f"{_FORWARDING}::test_a_websocket_is_a_tunnel_once_the_backend_agrees",
    ),
    Planted(
        "a balancer that is replaced says that it is not ready",
        "balance/shared.py",
        "(not self.closing or self.is_replaced)",
        "not self.closing",
        f"{_LOSSES}::test_a_balancer_that_is_replaced_stays_ready",
    ),
    Planted(
        "in TCP mode the end of one direction ends both",
        _TCP,
        "            transport.write_eof()\n        return True",
        "            transport.close()\n        return True",
        f"{_TCP_TEST}::test_bytes_go_both_ways_and_the_end_of_one_direction_is_passed_on",
    ),
    Planted(
        "in TCP mode a header is believed from anybody",
        _TCP,
        "        return any(address in network for network in trusted)",
        "        return True",
        f"{_TCP_TEST}::test_from_who_is_not_trusted_a_header_is_nothing_but_bytes",
    ),
)
