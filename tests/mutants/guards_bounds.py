# SPDX-License-Identifier: Apache-2.0
"""The guards of class 20 that are bounds and deadlines: what one may take up before others feel it."""

from __future__ import annotations

from mutants.guard import UNIT, Edit, Guard, off

ACCEPT = UNIT + "edge/test_accept.py"
LISTENER = UNIT + "edge/test_listener.py"

CONNECTIONS = (
    off("half-open-handshakes-of-an-address", 20, "edge/accept.py",
        "if self._handshakes_of.full(source):", "if False:",
        ACCEPT + "::test_half_open_handshakes_are_counted_by_address"),
    off("handshakes-of-an-address-have-a-rate", 20, "edge/accept.py",
        "if self._rate_of.take(source, now) > 0:", "if False:",
        ACCEPT + "::test_an_address_begins_so_many_handshakes_a_minute_and_others_are_left_alone"),
    off("half-open-handshakes-of-all", 20, "edge/accept.py",
        "if self._handshakes.full(_EVERYBODY):", "if False:",
        ACCEPT + "::test_half_open_handshakes_of_all_have_a_bound"),
    off("handshakes-have-a-deadline", 20, "edge/accept.py",
        "ssl_handshake_timeout=settings.handshake_timeout,", "ssl_handshake_timeout=3600.0,",
        ACCEPT + "::test_half_open_handshakes_have_a_deadline_and_leave_nothing"),
    off("few-are-told-that-there-are-too-many", 20, "edge/accept.py",
        "if self._sockets_of.full(source):", "if False:",
        ACCEPT + "::test_over_the_bound_only_a_few_get_a_handshake"),
    off("connections-of-an-address", 20, "edge/listener.py",
        "if not self._by_source.take(connection.ticket.source):",
        "if not self._by_source.take(connection.ticket.source) and False:",
        ACCEPT + "::test_an_address_at_its_bound_is_told_so_and_others_get_in"),
    off("who-is-told-so-must-go", 20, "edge/connection.py",
        "            self._deadline = self._loop.time() + self._settings.linger_timeout\n", "",
        ACCEPT + "::test_who_is_told_so_and_stays_is_cut_off"),
    off("connections-of-a-user", 20, "proxy/chain.py",
        "if not client.belongs_to(ask.identity.user_id):", "if not client.belongs_to(ask.identity.user_id) and False:",
        LISTENER + "::test_user_at_the_bound_of_connections_gets_429_and_others_get_through"),
    off("an-ipv6-network-is-one-address", 20, "lib/addresses.py",
        'return socket.inet_ntop(socket.AF_INET6, raw[:8] + bytes(8)) + "/64"', "return address",
        UNIT + "lib/test_bounds.py::test_an_ipv6_host_cannot_pass_for_many"),
)  # fmt: skip

REQUESTS = (
    off("bodies-bring-bytes", 20, "edge/connection.py",
        "self._brought >= settings.body_rate * settings.body_timeout", "self._brought >= 1",
        LISTENER + "::test_body_that_trickles_gets_408"),
    off("idle-upgrades-end", 20, "edge/connection.py",
        'self._phase, self._deadline = "raw", self._service.now + self._settings.upgrade_idle_timeout',
        'self._phase, self._deadline = "raw", _NEVER',
        LISTENER + "::test_upgrade_without_a_byte_ends_and_one_in_use_does_not"),
    off("streams-of-a-user-in-a-cluster", 20, "proxy/chain.py",
        "if place.both.open >= settings.max_per_user_and_cluster:", "if False:",
        UNIT + "proxy/test_chain.py::test_one_user_cannot_fill_a_cluster"),
    off("api-requests-of-an-address", 20, "edge/rest.py",
        "if not self._open.take(source):", "if not self._open.take(source) and False:",
        UNIT + "edge/test_rest.py::test_who_holds_requests_open_does_not_keep_others_from_the_api"),
    off("a-client-that-reads-slowly-gets-no-more-credit", 20, "proxy/relay.py",
        "if room and self._upstream is not None:", "if self._upstream is not None:",
        LISTENER + "::test_slow_client_takes_no_more_credit"),
    off("what-waits-in-a-session", 20, "wire/mux.py",
        "self._out.data_bytes >= self.limits.send_total", "False",
        UNIT + "wire/test_mux_flow.py::test_many_readers_that_stand_still_do_not_hold_a_whole_buffer_each"),
)  # fmt: skip

ATTEMPTS = (
    off("wrong-passwords-cost-time", 20, "authn/throttle.py",
        "entry.failures = self._failures(key, entry, now) + 1.0", "entry.failures = 0.0",
        UNIT + "authn/test_passwords.py::test_the_first_failures_cost_nothing_and_then_the_delay_doubles"),
    off("failed-registrations-cost-time", 20, "api/agents.py",
        "        services.joins.begin(subject, address, services.clock.monotonic())\n", "",
        UNIT + "api/test_registration.py::test_failed_registrations_are_delayed_by_token_and_leave_others_alone"),
    off("handshakes-of-agents-have-a-rate", 20, "edge/agents.py",
        "            if wait > 0:\n", "            if wait > 1e9:\n",
        UNIT + "edge/test_agents.py"
        "::test_too_many_handshakes_from_one_address_get_429_and_the_key_is_not_looked_at"),
)  # fmt: skip

REQUEST = UNIT + "wire/test_http1_request.py"
RESPONSE = UNIT + "wire/test_http1_response.py"
FORWARD = UNIT + "proxy/test_forward.py"
BOUNDS = UNIT + "proxy/test_chain.py::test_bounds_are_429_with_retry_after"
MESSAGES = (
    off("heads-have-a-bound", 20, "wire/http1_request.py", "        if len(buffer) > self._head_max:\n",
        "        if False:\n", REQUEST),
    off("header-lines-have-a-bound", 20, "wire/http1_request.py", "        if lines > self._headers_max:\n",
        "        if False:\n", REQUEST),
    off("heads-of-answers-have-a-bound", 20, "wire/http1_response.py", "            if len(self._head) > MAX_HEAD:\n",
        "            if False:\n", RESPONSE),
    off("informational-answers-have-a-bound", 20, "wire/http1_response.py",
        "            if self._informational > MAX_INFORMATIONAL:\n", "            if False:\n", RESPONSE),
    off("known-lines-have-a-bound", 20, "agent/heads.py", "                if len(self._seen) >= SEEN_MAX:\n",
        "                if False:\n", UNIT + "agent/test_heads.py"),
    off("chunk-framing-has-a-bound", 20, "wire/http1_response.py",
        "if self._overhead > MAX_CHUNK_OVERHEAD and not self.complete:", "if False:", RESPONSE),
    off("heads-have-their-time", 20, "edge/connection.py",
        "        self._deadline = self._loop.time() + self._settings.head_timeout\n",
        "        self._deadline = _NEVER\n", LISTENER + "::test_slow_head_gets_408"),
    off("bodies-have-their-time", 20, "edge/connection.py",
        "        self._deadline = self._service.now + self._settings.body_timeout\n",
        "        self._deadline = _NEVER\n", LISTENER + "::test_stalled_body_gets_408_and_resets_the_stream"),
    off("idle-connections-end", 20, "edge/connection.py",
        'self._phase, self._deadline = "idle", self._service.now + self._settings.idle_timeout',
        'self._phase, self._deadline = "idle", _NEVER',
        LISTENER + "::test_idle_connection_is_closed_after_the_idle_timeout"),
    off("who-reads-nothing-is-cut", 20, "edge/connection.py",
        "        self._write_deadline = self._service.now + self._settings.write_timeout\n",
        "        self._write_deadline = _NEVER\n", LISTENER + "::test_client_that_never_reads_is_cut"),
    off("connections-of-all", 20, "edge/listener.py",
        "if not self._admitted.take(_EVERYBODY):", "if not self._admitted.take(_EVERYBODY) and False:",
        LISTENER + "::test_one_connection_too_many_gets_503"),
    off("bodies-for-the-api-have-a-bound", 20, "edge/rest.py",
        "if self.bytes_in + len(data) > self._route.settings.api_body_max:", "if False:",
        UNIT + "edge/test_rest.py::test_body_over_the_bound_is_413",
        also=(Edit("edge/rest.py", "if request.length > self.settings.api_body_max:", "if False:"),)),
    off("answers-of-the-api-have-their-time", 20, "edge/rest.py",
        "head_timeout=self._route.settings.api_answer_timeout", "head_timeout=3600.0",
        UNIT + "edge/test_rest.py::test_api_that_says_nothing_is_504"),
    off("answers-of-clusters-have-their-time", 20, "proxy/registry.py", "            exchange.late()\n", "",
        FORWARD + "::test_no_head_in_time_is_504"),
    off("what-waits-for-an-agent-has-a-bound", 20, "proxy/forward.py",
        "if sum(map(len, self._early)) > _EARLY_MAX:", "if False:",
        FORWARD + "::test_a_body_that_cannot_be_held_is_refused"),
    off("streams-of-a-user", 20, "proxy/chain.py",
        "if place.user.open >= settings.max_per_user:", "if False:", BOUNDS),
    off("streams-of-a-cluster", 20, "proxy/chain.py",
        "if place.cluster.open >= settings.max_per_cluster:", "if False:", BOUNDS),
    off("tokens-of-a-user", 20, "api/issue.py",
        "if await tx.tokens.count_active(user.id, now) >= MAX_TOKENS_PER_USER:", "if False:",
        UNIT + "api/test_rights.py::test_the_tokens_of_a_user_are_bounded"),
    off("passwords-at-once", 20, "authn/passwords.py", "        if self._inside >= self._limit:\n",
        "        if False:\n", UNIT + "authn/test_passwords.py::test_too_many_at_once_are_told_to_come_back"),
    off("long-passwords-are-not-hashed", 20, "authn/passwords.py",
        "        if len(text) > MAX_PASSWORD_BYTES:\n", "        if False:\n",
        UNIT + "authn/test_passwords.py::test_an_overlong_password_is_wrong_and_not_hashed"),
)  # fmt: skip

MUX = UNIT + "wire/test_mux.py"
FLOW = UNIT + "wire/test_mux_flow.py"
TIME = UNIT + "wire/test_mux_time.py"
FRAMES = UNIT + "wire/test_frames.py"
TUNNEL = (
    # On the road nothing notices it: without HELLO no frame is taken, so that 15 s of silence end such a session too.
    off("hello-comes-in-time", 20, "wire/heartbeat.py",
        "            return self._started + self._limits.hello_timeout\n", "            pass\n",
        TIME + "::test_a_peer_that_says_no_hello_is_given_up_after_10_s"),
    off("silent-agents-are-given-up", 20, "wire/heartbeat.py",
        "        if now - alive >= patience or (final is not None and now >= final):\n", "        if False:\n",
        TIME + "::test_silence_is_asked_after_7_s_and_ends_the_session_after_15_s"),
    off("the-first-frame-is-hello", 20, "wire/mux.py", "        if kind != frames.HELLO:\n", "        if False:\n",
        MUX + "::test_anything_but_hello_as_the_first_frame_ends_the_session"),
    off("frames-have-a-bound", 20, "wire/frames.py", "    if size > MAX_FRAME:\n", "    if False:\n", FRAMES),
    off("pieces-have-a-bound", 20, "wire/frames.py", "        if len(whole) > MAX_HEAD:\n", "        if False:\n",
        FRAMES),
    off("windows-are-kept-to", 20, "wire/flow.py", "        if self.left < 0:\n", "        if False:\n",
        FLOW + "::test_data_over_the_credit_ends_the_session"),
    off("windows-do-not-overflow", 20, "wire/flow.py", "        if self.credit > frames.MAX_WINDOW:\n",
        "        if False:\n", MUX, FLOW),
    off("late-frames-have-a-window", 20, "wire/mux.py", "                if len(payload) > left:\n",
        "                if False:\n", FLOW + "::test_late_data_on_a_stream_that_we_reset_still_has_a_bound"),
    off("the-memory-of-resets-has-a-bound", 20, "wire/mux.py",
        "        if len(memory) > self.limits.reset_memory:\n", "        if False:\n",
        FLOW + "::test_the_memory_of_reset_streams_is_bounded"),
    off("windows-grow-within-a-budget", 20, "wire/flow.py",
        "min(stream.window, self._max_window - stream.window, self._budget)",
        "min(stream.window, self._max_window - stream.window)",
        FLOW + "::test_all_windows_of_a_session_share_one_budget_to_grow_and_give_it_back"),
    off("a-peer-that-reads-nothing-is-left", 20, "wire/mux.py",
        "return self._out.control_bytes > self.limits.control_buffer", "return False",
        MUX + "::test_a_peer_that_does_not_read_cannot_make_us_queue_for_ever"),
    off("writers-heed-back-pressure", 20, "wire/flow.py", "            if self.queued >= 4 * limit:\n",
        "            if False:\n", FLOW + "::test_a_writer_that_goes_on_regardless_is_stopped"),
    off("streams-of-a-session", 20, "wire/mux.py",
        "        if len(self._streams) >= self._most:\n", "        if False:\n",
        MUX + "::test_the_server_has_a_bound_of_streams_of_its_own"),
    off("streams-of-an-agent", 20, "wire/mux.py",
        "if self.going_away or len(self._streams) >= self.hello.max_streams:", "if self.going_away:",
        MUX + "::test_a_stream_over_max_streams_is_refused_as_busy"),
    off("sessions-of-a-cluster", 20, "tunnel/hub.py",
        "if self._draining or len(sessions) >= self._max_sessions:", "if self._draining:",
        UNIT + "tunnel/test_hub.py::test_sessions_of_one_cluster_have_a_bound"),
)  # fmt: skip

GUARDS: tuple[Guard, ...] = (*CONNECTIONS, *REQUESTS, *ATTEMPTS, *MESSAGES, *TUNNEL)
