# SPDX-License-Identifier: Apache-2.0
"""Guards against the attack classes 11 to 20."""

from __future__ import annotations

from mutants.guard import BOOK, Edit, Guard, off

VERBS = BOOK + "test_11_verbs.py::test_the_audit_names_every_request_as_the_cluster_does"
ROLES = BOOK + "test_12_role_escalation.py"
STALE = BOOK + "test_13_stale_access.py"
FORGERY = BOOK + "test_14_request_forgery.py"
CANARIES = BOOK + "test_15_canaries.py"
BROWSER = BOOK + "test_16_browser.py"
KILLED = BOOK + "test_17_dependencies.py"
SMUGGLING = BOOK + "test_18_smuggling.py"
INJECTION = BOOK + "test_19_injection.py"
EXHAUSTION = BOOK + "test_20_exhaustion.py"

MAPPING = (
    off(
        "watch-is-a-verb",
        11,
        "proxy/requestinfo.py",
        'verb = "watch" if watch is not None and watch != "0" and watch.lower() != "false" else "list"',
        'verb = "list"',
        VERBS,
    ),
    off(
        "deletecollection-is-a-verb",
        11,
        "proxy/requestinfo.py",
        'return "deletecollection", ""',
        'return "delete", ""',
        VERBS,
    ),
)

ROLE_ESCALATION = (
    off(
        "api-needs-a-right",
        12,
        "api/access.py",
        "        if not allowed:\n            raise refused(resource, verb)",
        "        if False:\n            raise refused(resource, verb)",
        ROLES + "::test_every_operation_refuses_who_may_not_call_it",
    ),
    off(
        "tokens-are-ones-own",
        12,
        "api/tokens.py",
        'if others and not may(services, caller, "tokens", "create"):',
        "if False:",
        ROLES + "::test_nobody_makes_themselves_more_than_they_are",
    ),
)

STALE_ACCESS = (
    off(
        "a-right-that-goes-ends-what-is-open",
        13,
        "proxy/registry.py",
        "            self._look_again(touched.exchanges())\n",
        "            pass\n",
        STALE,
    ),
)

REQUEST_FORGERY = (
    off(
        "redirects-stay-in-the-cluster",
        14,
        "proxy/forward.py",
        "        headers = [_safe_location(pair, self._chain.prefix(self.ask.cluster)) for pair in headers]",
        "        pass",
        FORGERY + "::test_no_redirect_of_a_cluster_leads_a_client_away",
    ),
    off(
        "agent-targets",
        14,
        "agent/dispatch.py",
        "if opened.target not in TARGETS:",
        "if False:",
        FORGERY + "::test_the_agent_dials_its_api_server_whatever_it_is_asked",
    ),
)

CANARY = (
    off(
        "a-token-is-not-repeated",
        15,
        "api/problems.py",
        'return "with this name (a token was given in its place)" if holds_token(ref) else repr(ref)',
        "return repr(ref)",
        CANARIES + "::test_no_secret_turns_up_in_logs_metrics_or_answers",
    ),
)

BROWSERS = (
    off(
        "origin-of-upgrades",
        16,
        "proxy/chain.py",
        "            upgrade.check_origin(headers)\n",
        "            pass\n",
        BROWSER + "::test_a_page_of_another_site_opens_no_websocket",
    ),
    off(
        "no-cors-from-clusters",
        16,
        "proxy/forward.py",
        '_DROP_PREFIX: Final = b"access-control-"',
        '_DROP_PREFIX: Final = b"x-none-"',
        BROWSER + "::test_a_page_of_another_site_reads_no_answer",
    ),
    off(
        "bodies-are-json",
        16,
        "api/access.py",
        "if has_body and kind != wanted:",
        "if False:",
        BROWSER + "::test_a_form_of_a_page_is_not_a_request",
    ),
)

DEPENDENCIES = (
    Guard(
        "no-membership-no-way-in-whatever-is-away",
        17,
        (Edit("policy/decide.py", "    if member:\n", "    if True:\n"),),
        (KILLED,),
        own_clusters=True,
    ),
)

SECOND = SMUGGLING + "::test_no_second_request_comes_out_of_the_body_of_the_first"
PATHS = SMUGGLING + "::test_no_path_leads_from_one_cluster_to_another"
REQUEST_SMUGGLING = (
    off("targets-are-paths", 18, "wire/http1_request.py", 'if not target.startswith(b"/"):', "if False:", SECOND),
    off(
        "no-dot-segments",
        18,
        "edge/routes.py",
        'if (b"/." in target or b"%2" in target) and has_dot_segments(target):',
        "if False:",
        PATHS,
    ),
)

INJECTIONS = (
    off(
        "cluster-names-are-labels",
        19,
        "api/clusters.py",
        'name=named("name", check_cluster_name, data.name, "cluster name"),',
        "name=data.name,",
        INJECTION + "::test_cluster_names_labels_and_texts_that_mean_something_elsewhere_are_refused",
    ),
    off(
        "labels-are-checked",
        19,
        "api/clusters.py",
        "labels=check_labels(data.labels),",
        "labels=data.labels,",
        INJECTION + "::test_cluster_names_labels_and_texts_that_mean_something_elsewhere_are_refused",
    ),
)

SLOW = EXHAUSTION + "::test_slow_heads_and_bodies_end_by_their_deadlines"
EXHAUSTIONS = (
    off(
        "deadline-of-heads",
        20,
        "edge/connection.py",
        "        self._deadline = self._loop.time() + self._settings.head_timeout\n",
        "        self._deadline = _NEVER\n",
        SLOW,
        own_clusters=True,
    ),
    off(
        "handshakes-of-an-address",
        20,
        "edge/accept.py",
        "if self._handshakes_of.full(source):",
        "if False:",
        EXHAUSTION + "::test_half_open_handshakes_are_few_and_short",
        own_clusters=True,
    ),
)

GUARDS: tuple[Guard, ...] = (
    *MAPPING,
    *ROLE_ESCALATION,
    *STALE_ACCESS,
    *REQUEST_FORGERY,
    *CANARY,
    *BROWSERS,
    *DEPENDENCIES,
    *REQUEST_SMUGGLING,
    *INJECTIONS,
    *EXHAUSTIONS,
)
