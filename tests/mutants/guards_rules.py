# SPDX-License-Identifier: Apache-2.0
"""Guards of the classes 11 to 19 that are one rule in one place, and that the unit tests of that place must notice."""

from __future__ import annotations

from mutants.guard import UNIT, Edit, Guard, off

INFO = UNIT + "proxy/test_requestinfo.py"
PEOPLE = UNIT + "api/test_people.py"
RIGHTS = UNIT + "api/test_rights.py"
REGISTRY = UNIT + "proxy/test_registry.py"
FORWARD = UNIT + "proxy/test_forward.py"
AGENT = UNIT + "agent/test_agent.py"
CHAIN = UNIT + "proxy/test_chain.py"
NAMES = UNIT + "lib/test_names.py"
REQUEST = UNIT + "wire/test_http1_request.py"
RESPONSE = UNIT + "wire/test_http1_response.py"
HEADS = UNIT + "wire/test_headers.py"

MAPPING = (
    off("subresources-are-named", 11, "proxy/requestinfo.py",
        'subresource = parts[2] if len(parts) > 2 and verb != "proxy" else ""', 'subresource = ""', INFO),
    off("a-namespace-has-subresources", 11, "proxy/requestinfo.py",
        '_NAMESPACE_PARTS: Final = frozenset({"status", "finalize"})', "_NAMESPACE_PARTS: Final = frozenset()", INFO),
    off("old-watches-are-watches", 11, "proxy/requestinfo.py",
        'legacy = parts[0] in ("proxy", "watch")', "legacy = False", INFO),
    off("paths-are-read-decoded", 11, "proxy/requestinfo.py",
        'path = printable(unquote(raw)) if "%" in raw else raw', "path = raw", INFO),
    off("field-selectors-name-objects", 11, "proxy/requestinfo.py",
        'if key == "metadata.name" and value.removeprefix("="):', "if False:", INFO),
    off("an-exec-is-known-as-endless", 11, "proxy/requestinfo.py",
        'if info.verb in ("watch", "proxy") or info.subresource in ("exec", "attach", "portforward", "proxy"):',
        'if info.verb in ("watch", "proxy"):', INFO),
)  # fmt: skip

ROLES = (
    off("scoped-tokens-are-for-clusters", 12, "api/access.py",
        'if access != "token" and identity.token_cluster is not None:', "if False:",
        UNIT + "api/test_session.py::test_a_scoped_token_is_good_for_whoami_and_nothing_else_here"),
    off("tokens-of-others-are-not-shown", 12, "api/tokens.py",
        'if token.user_id != caller.user_id and not may(services, caller, "tokens", verb):', "if False:",
        RIGHTS + "::test_nobody_else_makes_sees_or_revokes_anothers_tokens"),
    off("a-token-makes-none-that-outlives-it", 12, "api/issue.py",
        'if caller.expires_at is None or may(services, caller, "tokens", "create") or wanted <= caller.expires_at:',
        "if True:",
        RIGHTS + "::test_a_token_does_not_outlive_the_token_that_made_it"),
    off("unknown-fields-are-refused", 12, "api/common.py",
        "class Input(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):",
        "class Input(msgspec.Struct, kw_only=True):", PEOPLE + "::test_a_field_that_is_wrong_is_named"),
    off("people-read-themselves", 12, "api/users.py",
        'if wanted not in (caller.user_id, caller.user) and not may(services, caller, "users", "get", name=wanted):',
        "if False:",
        PEOPLE + "::test_people_read_themselves_only"),
    off("the-old-password-is-asked-for", 12, "api/users.py", "    if not right:\n", "    if False:\n",
        PEOPLE + "::test_people_change_their_own_password"),
)  # fmt: skip

STALE = (
    off("changes-end-what-is-remembered-of-entries", 13, "authn/index.py",
        "        self._entries.clear()  # nobody asks before", "        pass  # nobody asks before",
        UNIT + "authn/test_index.py::test_what_is_remembered_of_an_entry_is_what_the_facts_say",
        REGISTRY + "::test_lost_membership_ends_exchanges_with_that_cluster_only"),
    off("changes-end-what-is-remembered-of-tokens", 13, "authn/index.py",
        "                    self._identities.pop(token_id, None)\n            if before",
        "                    pass\n            if before",
        UNIT + "authn/test_index.py", REGISTRY + "::test_disabled_or_deleted_user_loses_everything"),
    off("revoked-tokens-end-what-is-open", 13, "proxy/registry.py",
        "touched = self._by_token.get(token_id)", "touched = None",
        REGISTRY + "::test_revoked_token_ends_its_exchanges_only"),
    off("disabled-users-end-what-is-open", 13, "proxy/registry.py",
        "touched = self._by_user.get(user_id)", "touched = None",
        REGISTRY + "::test_disabled_or_deleted_user_loses_everything"),
    off("lost-memberships-end-what-is-open", 13, "proxy/registry.py",
        'return None if decision.allowed else ("membership", decision.reason)', "return None",
        REGISTRY + "::test_lost_membership_ends_exchanges_with_that_cluster_only"),
    off("lost-groups-end-what-is-open", 13, "proxy/registry.py",
        "if not set(before.groups) <= set(identity.groups):", "if False:",
        REGISTRY + "::test_lost_group_ends_what_went_out_with_it"),
    off("time-ends-what-is-open", 13, "proxy/registry.py",
        "        self._look_again(expired)\n", "",
        REGISTRY + "::test_expired_token_ends_its_exchanges_at_the_next_sweep"),
    off("what-is-open-is-cut-from-its-client", 13, "proxy/forward.py",
        "        if self.code:\n            self.client.abort()\n        else:\n            self.code = 403 if",
        "        if self.code:\n            pass\n        else:\n            self.code = 403 if",
        UNIT + "edge/test_listener.py::test_open_watch_ends_when_the_right_does"),
)  # fmt: skip

FORGERY = (
    off("redirects-name-no-host", 14, "proxy/forward.py", 'or value.startswith(b"//") ', "",
        FORWARD + "::test_redirect_to_anywhere_else_is_not_passed_on"),
    off("redirects-are-paths", 14, "proxy/forward.py", 'or not value.startswith(b"/") ', "",
        FORWARD + "::test_redirect_to_anywhere_else_is_not_passed_on"),
    off("redirects-climb-nowhere", 14, "proxy/forward.py",
        ' or has_dot_segments(value.split(b"#", 1)[0])', "",
        FORWARD + "::test_redirect_to_anywhere_else_is_not_passed_on"),
    off("redirects-read-as-browsers-do", 14, "proxy/forward.py",
        'odd = b"\\\\" in value or b"\\t" in value', "odd = False",
        FORWARD + "::test_redirect_to_anywhere_else_is_not_passed_on"),
    off("agent-takes-paths-only", 14, "agent/dispatch.py",
        'if not head.target.startswith(b"/") or head.target.startswith(b"//") or b"#" in head.target:', "if False:",
        AGENT + "::test_a_target_that_is_not_a_path_is_refused"),
    off("tunnels-are-dialled-with-tls", 14, "agent/identity.py", 'not url.startswith("wss://")', "False",
        UNIT + "agent/test_parts.py::test_a_tunnel_address_without_tls_is_never_dialled"),
)  # fmt: skip

CANARIES = (
    off("a-secret-prints-as-none", 15, "lib/secrets.py",
        "    def __repr__(self) -> str:\n        return REDACTED",
        "    def __repr__(self) -> str:\n        return self._value", UNIT + "lib/test_secrets.py"),
    off("a-secret-formats-as-none", 15, "lib/secrets.py", "return format(REDACTED, spec)",
        "return format(self._value, spec)", UNIT + "lib/test_secrets.py"),
    off("a-secret-is-not-pickled", 15, "lib/secrets.py", 'raise TypeError("a Secret cannot be pickled")',
        "return Secret, (self._value,)", UNIT + "lib/test_secrets.py"),
    off("logs-hide-tokens", 15, "lib/logging.py",
        'return _BEARER.sub(rf"\\1{REDACTED}", _TOKEN.sub(rf"\\1{REDACTED}", value))',
        'return _BEARER.sub(rf"\\1{REDACTED}", value)', UNIT + "lib/test_logging.py"),
    off("logs-hide-bearers", 15, "lib/logging.py",
        'return _BEARER.sub(rf"\\1{REDACTED}", _TOKEN.sub(rf"\\1{REDACTED}", value))',
        'return _TOKEN.sub(rf"\\1{REDACTED}", value)', UNIT + "lib/test_logging.py"),
    off("names-hold-no-token", 15, "lib/names.py", "    if holds_token(value):\n", "    if False:\n",
        NAMES, PEOPLE + "::test_names_that_could_forge_anything_are_refused_where_they_enter"),
)  # fmt: skip

BROWSERS = (
    off("cookies-do-not-reach-clusters", 16, "proxy/impersonate.py", '    b"cookie",\n', "",
        UNIT + "proxy/test_impersonate.py"),
    off("clusters-set-no-cookies", 16, "proxy/forward.py", '    b"set-cookie",\n', "",
        FORWARD + "::test_header_that_speaks_for_this_server_is_dropped"),
    off("plain-answers-set-no-cookies", 16, "wire/plainhead.py", '    b"set-cookie",\n', "",
        UNIT + "wire/test_plainhead.py"),
    off("no-method-hides-in-a-header", 16, "proxy/impersonate.py", '    b"x-http-method-override",\n', "",
        UNIT + "proxy/test_impersonate.py"),
    off("pages-of-clusters-are-sandboxed", 16, "proxy/forward.py",
        '        kept.append((b"Content-Security-Policy", b"sandbox"))', "        pass",
        FORWARD + "::test_page_of_a_cluster_is_sandboxed"),
    off("agents-have-no-origin", 16, "edge/agents.py", 'if get_all(headers, b"origin"):', "if False:",
        UNIT + "edge/test_agents.py::test_what_is_no_agent_is_refused_before_its_token_is_used_up"),
    off("subprotocols-hold-no-token", 16, "proxy/impersonate.py",
        "if not offer.lower().startswith(_TOKEN_PROTOCOL)", "",
        CHAIN + "::test_upgrade_is_asked_for_again_and_tokens_in_subprotocols_are_not"),
)  # fmt: skip

DEPENDENCIES = (
    off("without-control-nobody-gets-in", 17, "proxy/chain.py", "        if stale:\n", "        if False:\n",
        UNIT + "app/test_server.py::test_without_control_for_too_long_nobody_is_let_in_and_what_is_open_ends"),
    off("without-control-what-is-open-ends", 17, "app/worker.py",
        "if self._stale() and len(self._registry):", "if False:",
        UNIT + "app/test_worker.py::test_what_is_open_ends_when_nobody_can_say_who_may"),
    off("without-an-audit-log-nothing-is-forwarded", 17, "proxy/chain.py",
        "        if not self.audit.accepting:\n", "        if False:\n",
        CHAIN + "::test_nothing_is_forwarded_that_cannot_be_recorded"),
    off("without-a-token-the-agent-refuses", 17, "agent/dispatch.py",
        "            raise Refused(Code.CREDENTIAL, dispatcher.credential.problem)\n",
        '            self._token = token = Secret("")\n', AGENT + "::test_without_a_token_every_stream_is_refused"),
)  # fmt: skip

SMUGGLING = (
    off("heads-have-crlf", 18, "wire/headers.py",
        'if data.count(b"\\n") != breaks or data.count(b"\\r") != breaks:\n        raise BadMessage(400, "bare CR',
        'if False:\n        raise BadMessage(400, "bare CR', HEADS),
    off("heads-hold-no-control-characters", 18, "wire/headers.py",
        "    if data.translate(None, _HEAD_BYTES):\n", "    if False:\n", REQUEST),
    off("no-folded-lines", 18, "wire/headers.py",
        'if b"\\r\\n " in data or b"\\r\\n\\t" in data:', "if False:", REQUEST),
    off("header-lines-are-whole", 18, "wire/headers.py", "    if len(headers) != lines:\n", "    if False:\n", HEADS),
    off("nothing-writes-a-line-break", 18, "wire/headers.py",
        'if data.count(b"\\n") != breaks or data.count(b"\\r") != breaks or data.translate(None, _HEAD_BYTES):',
        "if False:", HEADS),
    off("dot-segments-also-encoded", 18, "wire/headers.py",
        'path = path.replace(b"%2e", b".").replace(b"%2E", b".")', "pass", HEADS),
    off("one-framing-of-requests", 18, "wire/http1_request.py", "    if lengths and codings:\n", "    if False:\n",
        REQUEST),
    off("one-length-of-requests", 18, "wire/http1_request.py", "    if len(lengths) > 1:\n", "    if False:\n",
        REQUEST),
    off("lengths-are-digits", 18, "wire/http1_request.py", "    if _DIGITS.fullmatch(lengths[0]) is None:\n",
        "    if False:\n", REQUEST),
    off("the-only-coding-is-chunked", 18, "wire/http1_request.py",
        'if len(codings) > 1 or codings[0].lower() != b"chunked":', "if False:", REQUEST),
    off("one-host", 18, "wire/http1_request.py",
        "if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:", "if False:", REQUEST),
    off("two-parsers-agree", 18, "wire/http1_request.py",
        "if len(sink.headers) != lines or sink.target != target:", "if False:", REQUEST),
    off("http-1-1-only", 18, "wire/http1_request.py", '    if version != b"HTTP/1.1":\n', "    if False:\n", REQUEST),
    off("no-fragments", 18, "wire/http1_request.py", '    if b"#" in target:\n', "    if False:\n", REQUEST),
    off("no-empty-line-first", 18, "wire/http1_request.py", '        if buffer[0] in b"\\r\\n":\n',
        "        if False:\n", REQUEST),
    off("upgrades-have-no-body", 18, "wire/http1_request.py", '    if upgrade and body != "none":\n',
        "    if False:\n", REQUEST),
    off("expectations-are-known", 18, "wire/http1_request.py",
        'if expects and (len(expects) > 1 or expects[0].lower() != b"100-continue"):', "if False:", REQUEST),
    off("no-chunk-extensions", 18, "wire/http1_request.py",
        '_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,15}")',
        '_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}(?:;.*)?")',
        REQUEST + "::test_chunk_framing_is_strict",
        also=(Edit("wire/http1_request.py", "self._left = int(data[at:end], 16)",
                   'self._left = int(data[at:end].split(b";")[0], 16)'),)),
    off("chunks-end-where-they-say", 18, "wire/http1_request.py",
        'if ending != b"\\r\\n"[: len(ending)]:', "if False:", REQUEST + "::test_chunk_framing_is_strict"),
    off("plain-answers-have-one-length", 18, "wire/plainhead.py", '    b"content-length:",\n', "",
        UNIT + "wire/test_plainhead.py"),
    off("one-framing-of-answers", 18, "wire/http1_response.py", "        if codings and lengths:\n",
        "        if False:\n", RESPONSE),
    off("one-length-of-answers", 18, "wire/http1_response.py", "        if len(lengths) > 1:\n", "        if False:\n",
        RESPONSE),
    off("lengths-of-answers-are-digits", 18, "wire/http1_response.py",
        "if lengths and not (lengths[0].isdigit() and len(lengths[0]) <= 18):", "if False:", RESPONSE),
    off("codings-of-answers-are-chunked", 18, "wire/http1_response.py",
        'if codings and (http_1_0 or len(codings) > 1 or codings[0].lower() != b"chunked"):', "if False:", RESPONSE),
    off("no-coding-of-a-1xx", 18, "wire/http1_response.py", "        if codings and status < 200:\n",
        "        if False:\n", RESPONSE),
    off("no-switch-unasked", 18, "wire/http1_response.py", "            if not self._upgrade:\n",
        "            if False:\n", RESPONSE),
    off("unasked-bytes-end-a-connection", 18, "wire/http1_response.py",
        'return self._state == "done" and self._persistent and not self._trailing',
        'return self._state == "done" and self._persistent', RESPONSE),
    off("a-wrong-message-ends-its-connection", 18, "edge/connection.py",
        "(code, message, retry_after=retry_after))\n        self._close()\n",
        "(code, message, retry_after=retry_after))\n",
        UNIT + "edge/test_listener.py::test_malformed_request_is_answered_and_the_connection_closed",
        # `finish` closes by itself what is not to be kept alive
        also=(Edit("edge/connection.py",
                   'self._writer = ResponseWriter(b"GET", keep_alive=False)\n        answers.refuse(self',
                   'self._writer = ResponseWriter(b"GET", keep_alive=True)\n        answers.refuse(self'),)),
)  # fmt: skip

INJECTION = (
    off("names-hold-no-control-characters", 19, "lib/names.py",
        '_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Zl", "Zp", "Cs"})', "_REFUSED_CATEGORIES: Final = frozenset()",
        NAMES),
    off("names-hold-no-direction", 19, "lib/names.py", " or char in _BIDI:", ":", NAMES),
    off("names-are-not-kubernetes-own", 19, "lib/names.py", 'if plain.startswith("system:"):', "if False:",
        NAMES),
    off("a-name-is-no-id", 19, "lib/names.py", "    if is_id(value, CLUSTER_ID_PREFIX):\n", "    if False:\n", NAMES),
    off("label-values-are-plain", 19, "api/common.py", "        if value and not _LABEL_NAME.fullmatch(value):\n",
        "        if False:\n", UNIT + "api/test_clusters.py::test_labels_are_kubernetes_labels"),
    off("paths-of-the-audit-are-printable", 19, "proxy/requestinfo.py",
        'return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")', "return text", INFO),
    off("what-a-peer-says-is-printable", 19, "wire/frames.py",
        'return "".join(char if char.isprintable() else " " for char in text)', "return text",
        UNIT + "wire/test_frames.py::test_what_a_peer_says_is_cut_and_made_printable"),
)  # fmt: skip

GUARDS: tuple[Guard, ...] = (
    *MAPPING, *ROLES, *STALE, *FORGERY, *CANARIES, *BROWSERS, *DEPENDENCIES, *SMUGGLING, *INJECTION,
)  # fmt: skip
