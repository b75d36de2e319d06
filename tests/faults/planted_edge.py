"""Bugs on purpose, as in `planted.py`: at the edge, where strangers speak to the web server."""

from tests.faults.planted import Planted

_HEAD, _HTTP, _EDGE = "web/request_head.py", "web/http.py", "web/edge.py"
_FORWARDED, _LOOKUP, _TLS = "web/forwarded.py", "web/file_lookup.py", "web/tls.py"
_RAW = "tests/hostile/test_raw_cases.py"
_TABLE = "tests/unit/web/test_hostile_requests.py"
_RAW_CASES = f"{_RAW}::test_our_server_does_with_every_case_what_the_rfc_demands"
_ACTOR_CASES = (
    "tests/hostile/test_actor_cases.py"
    "::test_an_actor_is_reached_by_what_must_be_accepted_and_nothing_else"
)
_IN_TABLE = f"{_TABLE}::test_the_answer_is_the_one_in_the_table"

PLANTED_AT_THE_EDGE = (
    Planted(
        "transfer codings beside chunked are ignored",
        _HEAD,
        'if codings != [b"chunked"]:',
        'if codings[-1] != b"chunked":',
        _IN_TABLE,
    ),
    Planted(
        "a second Host is ignored",
        _HEAD,
        "        if names.count(name) > 1:",
        '        if names.count(name) > 1 and name != b"host":',
        _ACTOR_CASES,
    ),
    Planted(
        "any text is a Host",
        _HEAD,
        "not (found := _HOST.fullmatch(host)) or not _exists(found)",
        "False",
        _RAW_CASES,
    ),
    Planted(
        "the target may name another host than Host",
        _HEAD,
        "if host is not None and absolute[1].lower() != host.lower():",
        "if False:",
        _IN_TABLE,
    ),
    Planted(
        "chunked is taken from HTTP/1.0",
        _HEAD,
        '    if version == "1.0":',
        "    if False:",
        _IN_TABLE,
    ),
    Planted(
        "chunks may add up to more than a body may be",
        _HTTP,
        "        if self._body_bytes > self._body_bytes_max:",
        "        if False:",
        _IN_TABLE,
    ),
    Planted(
        "a reply overtakes the one before it",
        "web/pipeline.py",
        "        if pipeline[0] is not exchange:",
        "        if False:",
        "tests/unit/web/test_http.py::test_replies_leave_in_the_order_of_the_requests",
    ),
    Planted(
        "a body may drip for ever",
        _HTTP,
        "self._stamp_s = min(self._stamp_s + bought_s, self.dates.now_s)",
        "self._stamp_s = self.dates.now_s",
        "tests/unit/web/test_slow_bodies.py"
        "::test_a_body_that_drips_is_cut_off_although_it_never_stands_still",
    ),
    Planted(
        "a client is late while the application makes it wait",
        _HTTP,
        "            self._stamp_s = now_s  # the client has to wait, so it is not late",
        "            pass",
        "tests/unit/web/test_slow_bodies.py"
        "::test_a_client_is_not_late_while_the_application_makes_it_wait",
    ),
    Planted(
        "answers that nobody takes have no bound",
        "web/unread.py",
        "while self._bytes > self._bytes_max:",
        "while False:",
        "tests/unit/web/test_unread.py"
        "::test_who_takes_nothing_for_longest_is_cut_off_and_the_others_are_not",
    ),
    Planted(
        "who has caught up stays counted",
        "web/transport.py",
        """        self.is_write_paused = False
        self.shared.unread.forget(self.transport)""",
        "        self.is_write_paused = False",
        "tests/unit/web/test_unread.py::test_who_catches_up_is_not_counted_any_more",
    ),
    Planted(
        "everybody is a trusted proxy",
        _EDGE,
        "if client is not None and self._is_trusted(client[0]):",
        "if client is not None:",
        "tests/unit/web/test_edge.py::test_an_untrusted_one_is_not_listened_to",
    ),
    Planted(
        "the farthest hop is believed, whoever wrote it",
        _FORWARDED,
        "        if not is_trusted(client[0]):\n            break",
        "        if not is_trusted(client[0]):\n            continue",
        "tests/unit/web/test_forwarded.py::test_the_nearest_hop_that_is_not_trusted_is_the_client",
    ),
    Planted(
        "of two fields that disagree the first one is believed",
        _FORWARDED,
        "    if any(one.client[0] != found[0].client[0] for one in found):",
        "    if False:",
        "tests/unit/web/test_forwarded.py::test_two_fields_that_disagree_are_both_disbelieved",
    ),
    Planted(
        "the access log tells queries",
        _EDGE,
        '"path": exchange.path[:_PATH_BYTES_MAX].decode("latin-1"),',
        '"path": (exchange.path + b"?" + exchange.query)[:_PATH_BYTES_MAX].decode("latin-1"),',
        "tests/unit/web/test_edge.py::test_a_request_has_one_line_without_its_query",
    ),
    Planted(
        "a client's own request id goes into the log as it is",
        _EDGE,
        "name = None if given is None else request_id_of(given)",
        'name = None if given is None else given.decode("latin-1")',
        "tests/unit/web/test_edge.py::test_an_id_that_is_not_well_formed_is_replaced_everywhere",
    ),
    Planted(
        "a path may lead out of the directory",
        _LOOKUP,
        '        if segment.startswith(".") or not _FORBIDDEN.isdisjoint(segment):',
        "        if False:",
        "tests/unit/web/test_files.py::test_what_is_no_file_below_the_directory_is_not_found",
    ),
    Planted(
        "a link may lead out of the directory",
        _LOOKUP,
        "        if not _is_below(root, real):\n            return None",
        "        pass",
        "tests/unit/web/test_files.py::test_what_is_no_file_below_the_directory_is_not_found",
    ),
    Planted(
        "a new certificate is for nobody",
        _TLS,
        "        handshake.context = self._newest",
        "        pass",
        "tests/unit/web/test_tls.py::test_a_new_certificate_is_for_new_connections",
    ),
    Planted(
        "a pair that does not fit ends the watch over the files",
        _TLS,
        "        except OSError as error:\n            logger",
        "        except ValueError as error:\n            logger",
        "tests/unit/web/test_tls.py::test_what_does_not_fit_together_is_not_taken_up",
    ),
    Planted(
        "TLS 1.1 is spoken",
        _TLS,
        "    context.minimum_version = ssl.TLSVersion.TLSv1_2\n    context.set_ciphers(_CIPHERS)",
        "    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED\n"
        '    context.set_ciphers("ALL:@SECLEVEL=0")',
        "tests/unit/web/test_tls.py::test_nothing_older_or_weaker_is_spoken",
    ),
    Planted(
        "a WebSocket takes frames without a mask",
        "web/websocket.py",
        "        self._frames.receive_data(data)\n        self._take_events()",
        "        from websockets.protocol import Side\n\n"
        "        self._frames.side = Side.CLIENT\n"
        "        self._frames.receive_data(data)\n"
        "        self._frames.side = Side.SERVER\n"
        "        self._take_events()",
        "tests/unit/web/test_websocket_conformance.py::test_frames_are_answered_as_the_rfc_demands",
    ),
    Planted(
        "a message may have any length",
        "web/websocket.py",
        "            max_size=http.shared.limits.websocket_message_bytes_max,",
        "            max_size=None,",
        "tests/unit/web/test_websocket_conformance.py::test_frames_are_answered_as_the_rfc_demands",
    ),
    Planted(
        "of two query parameters of one name the last one counts",
        "web/queries.py",
        "    if len(values) < len(pairs):",
        "    if False:",
        "tests/unit/web/test_functions.py::test_a_query_has_one_meaning_or_none",
    ),
    Planted(
        "pages of other sites may call",
        "web/access.py",
        '    if site in {b"cross-site", b"same-site"} or (',
        "    if False and (",
        "tests/unit/web/test_functions.py::test_pages_of_other_sites_may_look_but_not_change",
    ),
)
