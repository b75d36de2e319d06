"""Every bound in one table, with its unit. Each has a named error, given in the comment."""

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one process. Pass to `App(limits=Limits(...))`; the defaults suit most."""

    # one actor
    key_bytes_max: int = 512  # InvalidKeyError
    state_bytes_max: int = 4 << 20  # StateTooLargeError
    state_bytes_warn: int = 256 << 10  # a log line, once per activation
    mailbox_depth_max: int = 1_000  # OverloadedError
    call_timeout_s: float = 30.0  # DeadlineError
    messages_per_turn_max: int = 1_000  # LimitError
    entry_bytes_max: int = 1 << 20  # LimitError, as are all about entries of collections
    entries_per_turn_max: int = 10_000  # that it writes
    entries_bytes_per_turn_max: int = 64 << 20
    entries_per_page_max: int = 1_000  # that are read at once
    timers_max: int = 1_000  # LimitError
    timer_every_min_s: float = 0.05  # no timer sets itself off more often: LimitError, or later

    # one process
    awake_max: int = 100_000  # beyond it the longest idle actors are put to sleep
    idle_sleep_s: float = 300.0  # an actor nobody called for this long leaves memory
    uncommitted_turns_max: int = 20_000  # OverloadedError
    query_rows_max: int = 1_000  # BadArgumentsError; in one page, and of values in one `__in`
    functions_running_max: int = 10_000  # OverloadedError; plain functions of the App
    request_retention_s: float = 86_400.0  # how long an idempotency key is remembered
    deliveries_max: int = 1_000  # messages and timers whose turns are under way; others wait
    delivery_attempts_max: int = 12  # then a dead letter; the waits between add up to 6 minutes
    delivery_backoff_s: float = 0.25  # the first wait; each later one is twice as long
    delivery_backoff_max_s: float = 120.0

    # other processes
    forwarded_calls_max: int = 20_000  # OverloadedError; calls that wait for other processes
    moving_calls_max: int = 20_000  # OverloadedError; calls that wait for actors that move
    watched_actors_max: int = 100_000  # by other processes, for their live views: the link is cut

    # rate limits
    rate_subjects_max: int = 65_536  # of each rate; beyond it who has spent least is dropped
    rate_wait_s: float = 1.0  # for the process that counts; then each counts for itself

    # links between processes
    links_max: int = 1_000  # that come in; beyond it a connection is cut off at once
    frame_bytes_max: int = 16 << 20  # LimitError for who sends; WireError closes the link
    link_bytes_max: int = 64 << 20  # that wait for a slow reader: OverloadedError closes the link
    link_connect_s: float = 2.0  # UnreachableError
    link_handshake_s: float = 5.0  # HandshakeError
    link_ping_s: float = 1.0  # when nothing was heard for this long, the other is asked
    link_silent_s: float = 3.0  # UnreachableError closes the link
    link_backoff_s: float = 0.02  # before the second attempt to connect; then twice as long
    link_backoff_max_s: float = 1.0
    door_ttl_s: float = 3.0  # so long balancers see a web process that has died without a word
    lease_ttl_s: float = 3.0  # after a silence this long the others may take a member's actors

    # live views
    live_topics_max: int = 10_000  # OverloadedError; different views that are watched
    live_subscribers_max: int = 20_000  # OverloadedError
    live_heartbeat_s: float = 15.0  # a sign of life for proxies, and to find dead clients

    # the web server
    connections_max: int = 10_000  # 503, then close
    header_bytes_max: int = 32 << 10  # 431
    header_count_max: int = 100  # 431
    target_bytes_max: int = 8 << 10  # 414
    call_body_bytes_max: int = 1 << 20  # 413, for actor calls
    asgi_body_bytes_max: int = 16 << 20  # 413, for the mounted ASGI app
    pipeline_depth_max: int = 32  # reading pauses
    header_timeout_s: float = 10.0  # 408
    body_timeout_s: float = 30.0  # 408 when a body is late by this much
    body_bytes_per_s_min: int = 250  # slower than this it falls behind
    idle_timeout_s: float = 75.0  # a kept-alive connection without a request is closed
    write_timeout_s: float = 60.0  # a reader that takes nothing for this long is cut off
    unread_bytes_max: int = 256 << 20  # in answers: who takes nothing for longest is cut off
    drain_grace_s: float = 1.0  # of it, how long a stopping server still accepts as before
    drain_s: float = 30.0  # the longest a graceful stop waits for what still runs
    websocket_message_bytes_max: int = 1 << 20  # close 1009


class BalanceLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one load balancer. What a client or a backend sees is in the comment."""

    # clients
    connections_max: int = 10_000  # beyond it a connection is cut off at once
    header_bytes_max: int = 32 << 10  # 431
    target_bytes_max: int = 8 << 10  # 414
    body_bytes_max: int = 64 << 20  # 413
    pipelined_bytes_max: int = 64 << 10  # that wait behind a request: reading pauses
    header_timeout_s: float = 10.0  # 408
    body_timeout_s: float = 30.0  # 408 when no byte came for this long
    idle_timeout_s: float = 75.0  # a kept-alive connection without a request is closed
    write_timeout_s: float = 60.0  # a reader that takes nothing for this long is cut off
    tunnel_idle_s: float = 3_600.0  # a WebSocket on which nothing moves for this long is closed
    drain_s: float = 30.0  # the longest a graceful stop waits for what is under way

    # backends
    backend_connections_max: int = 1_024  # to each; further requests wait for one
    waiting_requests_max: int = 1_024  # for a connection to one backend: 503
    waiting_s: float = 5.0  # the longest they wait: 503
    connect_s: float = 2.0  # 502
    answer_head_bytes_max: int = 64 << 10  # 502
    answer_s: float = 60.0  # until the head of an answer is there: 504
    answer_idle_s: float = 120.0  # an answer of which nothing came for this long is cut off
    backend_idle_s: float = 4.0  # an unused connection is closed; most servers wait 5 s or longer

    # retries
    attempts_max: int = 3  # for one request
    replay_bytes_max: int = 64 << 10  # a longer body is not sent a second time
    retry_share: float = 0.2  # of the requests of the last ten seconds
    retries_min: int = 100  # in ten seconds, however few requests there were
