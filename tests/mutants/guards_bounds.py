# SPDX-License-Identifier: Apache-2.0
"""The guards of class 20 that are bounds and deadlines: what one may take up before others feel it."""

from __future__ import annotations

from mutants.guard import UNIT, Guard, off

ACCEPT = UNIT + "edge/test_accept.py"
LISTENER = UNIT + "edge/test_listener.py"

CONNECTIONS = (
    off("half-open-handshakes-of-an-address", 20, "edge/accept.py",
        "if self._handshakes_of.full(source):", "if False:",
        ACCEPT + "::test_half_open_handshakes_are_counted_by_address"),
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
        "if not client.belongs_to(user_id):", "if not client.belongs_to(user_id) and False:",
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
        "if registry.of_user_in(user_id, cluster.id) >= settings.max_per_user_and_cluster:", "if False:",
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

GUARDS: tuple[Guard, ...] = (*CONNECTIONS, *REQUESTS, *ATTEMPTS)
