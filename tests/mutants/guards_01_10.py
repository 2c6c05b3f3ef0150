# SPDX-License-Identifier: Apache-2.0
"""Guards against the attack classes 1 to 10."""

from __future__ import annotations

from mutants.guard import BOOK, UNIT, Edit, Guard, off

HOP = BOOK + "test_01_hop_by_hop.py"
ASKED = BOOK + "test_02_client_impersonation.py"
ACROSS = BOOK + "test_03_across_clusters.py"
NAMES = BOOK + "test_04_names.py"
OTHER = BOOK + "test_05_agent_of_another.py"
JWT = BOOK + "test_06_altered_jwt.py"
TUNNEL = BOOK + "test_07_tunnel_credential.py"
AGENT = BOOK + "test_08_agents_credential.py"
TOKENS = BOOK + "test_09_tokens.py"
WRONG = BOOK + "test_10_wrong_server.py"
UNIT_AGENT = UNIT + "agent/test_agent.py"
REVIEW = UNIT + "agent/test_review.py"
ACTING = UNIT + "agent/test_acting.py"
MUST_NOT = UNIT_AGENT + "::test_what_a_server_must_not_send_is_refused_before_anything_is_sent"

# A header named in `Connection` that is an identity header is refused; without that, it must at least not be taken off.
NAMED_IS_REFUSED = Edit(
    "proxy/impersonate.py",
    'impersonates = impersonates or any(verdict(name) == "impersonation" for name in named)',
    "pass",
)

HOP_BY_HOP = (
    off("named-headers-go", 1, "proxy/impersonate.py",
        "        kept = [pair for pair in kept if pair[0].lower() not in named]\n", "",
        HOP + "::test_a_header_that_speaks_of_one_connection_does_not_travel_on"),
    off("hop-by-hop-headers-go", 1, "proxy/impersonate.py",
        "_DROP: Final = HOP_BY_HOP | {", "_DROP: Final = frozenset() | {",
        HOP + "::test_a_header_that_speaks_of_one_connection_does_not_travel_on"),
    off("identity-after-stripping", 1, "proxy/chain.py",
        "            lines += self._impersonator.lines(ask.identity, request_id)\n",
        "            named = connection_tokens(request.head.headers)\n"
        "            ours = self._impersonator.lines(ask.identity, request_id).splitlines(keepends=True)\n"
        '            lines += b"".join(line for line in ours if line.split(b":")[0].lower() not in named)\n',
        HOP + "::test_a_header_named_in_connection_takes_nothing_off_the_identity",
        also=(NAMED_IS_REFUSED,
              Edit("proxy/chain.py", "from mooring.wire.headers import Headers,",
                   "from mooring.wire.headers import connection_tokens, Headers,"))),
    off("named-identity-is-refused", 1, NAMED_IS_REFUSED.file, NAMED_IS_REFUSED.old, NAMED_IS_REFUSED.new,
        HOP + "::test_an_upgrade_keeps_only_its_own_connection_option"),
    off("agent-connection-options", 1, "agent/dispatch.py",
        "if connection_tokens(head.headers) - _CONNECTION_OPTIONS:", "if False:", MUST_NOT),
    off("agent-exactly-one-user", 1, "agent/dispatch.py",
        "if len(users) != 1 or not users[0]:", "if False:", MUST_NOT),
)  # fmt: skip

IMPERSONATION = (
    off("impersonation-by-prefix", 2, "proxy/impersonate.py",
        "if is_client(name):",
        'if plain in (b"impersonate-user", b"impersonate-uid", b"impersonate-group"):',
        ASKED + "::test_an_administrator_gets_no_header_through_that_kubernetes_does_not_know"),
    off("underscores-are-hyphens", 2, "wire/actas.py",
        'return (name.lower().replace(b"_", b"-") + b"-").startswith(prefix)',
        'return (name.lower() + b"-").startswith(prefix)',
        ASKED + "::test_an_administrator_gets_no_header_through_that_kubernetes_does_not_know"),
    off("underscores-of-front-proxies", 2, "proxy/impersonate.py",
        'plain = name.lower().replace(b"_", b"-")', "plain = name.lower()", UNIT + "proxy/test_impersonate.py"),
    off("no-impersonation-elsewhere", 2, "edge/routes.py",
        'if any(verdict(name) == "impersonation" for name, _unused in request.head.headers):', "if False:",
        ASKED + "::test_no_other_route_takes_such_a_header"),
    off("front-proxy-headers-go", 2, "proxy/impersonate.py",
        '_DROP_PREFIXES: Final = (b"x-remote-", ', "_DROP_PREFIXES: Final = (",
        ASKED + "::test_nobody_is_somebody_else_in_a_cluster_by_a_header"),
    off("agent-front-proxy-headers", 2, "agent/dispatch.py",
        '_FORBIDDEN_PREFIX: Final = b"x-remote-"', '_FORBIDDEN_PREFIX = b"x-nothing-"', MUST_NOT),
    off("agent-credentials-of-others", 2, "agent/dispatch.py",
        "if lower in _FORBIDDEN or lower.startswith(_FORBIDDEN_PREFIX):", "if lower.startswith(_FORBIDDEN_PREFIX):",
        MUST_NOT),
    off("bare-line-ends", 2, "wire/headers.py",
        'if data.count(b"\\n") != breaks or data.count(b"\\r") != breaks:\n        raise BadMessage',
        "if False:\n        raise BadMessage",
        UNIT + "wire/test_http1_request.py", UNIT + "wire/test_headers.py"),
)  # fmt: skip

ACTING_AS = (
    off("as-the-cluster-decides", 2, "agent/review.py",
        "if isinstance(answer, Verdict) and not answer.allowed:", "if False:",
        ASKED + "::test_nobody_is_somebody_else_in_a_cluster_by_a_header"),
    off("as-is-asked-for-the-real-user", 2, "agent/review.py", "                    *real,\n", "",
        ASKED + "::test_nobody_is_somebody_else_in_a_cluster_by_a_header"),
    off("as-users-are-asked-for", 2, "agent/review.py", "asked = [_user(wanted.user)]", "asked = []",
        ASKED + "::test_a_right_to_act_as_one_is_no_right_to_act_as_another"),
    off("as-groups-are-asked-for", 2, "agent/review.py",
        '    asked += [Question("groups", group) for group in wanted.groups]\n', "",
        ASKED + "::test_a_right_to_act_as_one_is_no_right_to_act_as_another"),
    off("as-no-answer-is-no", 2, "agent/review.py",
        "            if isinstance(answer, Undecided):\n", "            if False:\n", REVIEW),
    off("as-only-a-plain-yes", 2, "agent/review.py",
        'isinstance(status.get("allowed"), bool)', '"allowed" in status', REVIEW),
    off("as-an-answer-gets-old", 2, "agent/review.py", "self._clock.monotonic() < kept[0]", "True", REVIEW),
    off("as-an-answer-is-one-users", 2, "agent/review.py",
        "if name.lower() != _REQUEST_ID:", "if name.lower() == _REQUEST_ID:", REVIEW),
    off("as-accounts-are-no-users", 2, "agent/review.py", "if match is not None and", "if False and", REVIEW),
    off("as-nothing-before-the-decision", 2, "agent/acting.py",
        "self._task = tasks.spawn(self._decide(reviewer), \"act as\")",
        "self._go_on()", ACTING),
    off("as-who-one-really-is", 2, "agent/acting.py",
        'headers.append((extra_header(ORIGINAL_USER), get(real, b"impersonate-user") or b""))', "pass", ACTING),
    off("as-only-on-its-target", 2, "agent/dispatch.py", "if not acts and is_wire(name):", "if False:", ACTING),
    off("as-extras-of-ours", 2, "wire/actas.py", "if key.lower().startswith(RESERVED):", "if False:",
        UNIT + "wire/test_actas.py"),
    off("as-one-user", 2, "wire/actas.py", "if len(users) > 1 or len(uids) > 1:", "if False:",
        UNIT + "wire/test_actas.py"),
    off("as-not-to-old-agents", 2, "tunnel/hub.py", "actas.FEATURE in session.peer.features", "True",
        UNIT + "tunnel/test_hub.py"),
    off("as-no-token-in-a-log", 2, "proxy/actas.py", "if any(holds_token(text) for text in identity.texts()):",
        "if False:", UNIT + "proxy/test_actas.py"),
)  # fmt: skip

ACROSS_CLUSTERS = (
    off("scope-of-a-token", 3, "policy/decide.py",
        "if identity.token_cluster is not None and identity.token_cluster != cluster_id:", "if False:",
        ACROSS + "::test_a_token_for_one_cluster_is_good_for_nothing_else"),
    off("membership", 3, "policy/decide.py", "    if member:\n", "    if True:\n",
        ACROSS + "::test_a_member_of_one_cluster_does_not_enter_the_other"),
    off("decision-is-kept", 3, "proxy/chain.py", "if not decision.allowed:", "if False:",
        ACROSS + "::test_a_member_of_one_cluster_does_not_enter_the_other"),
    off("scoped-tokens-and-the-api", 3, "api/access.py",
        'if access != "token" and identity.token_cluster is not None:', "if False:",
        ACROSS + "::test_a_token_for_one_cluster_is_good_for_nothing_else"),
    off("metrics-and-scoped-tokens", 3, "edge/builtin.py",
        "if not identity.admin or identity.token_cluster is not None:", "if not identity.admin:",
        ACROSS + "::test_a_token_for_one_cluster_is_good_for_nothing_else"),
    off("metrics-are-for-administrators", 3, "edge/builtin.py",
        "if not identity.admin or identity.token_cluster is not None:", "if identity.token_cluster is not None:",
        ACROSS + "::test_a_connection_remembers_nobody"),
    off("clusters-of-others-are-hidden", 3, "api/clusters.py",
        "    if not may_see(services, caller, cluster.id, cluster.name):\n        raise not_found",
        "    if False:\n        raise not_found",
        ACROSS + "::test_a_cluster_that_one_may_not_enter_does_not_exist_in_the_api"),
    off("lists-show-ones-own", 3, "api/clusters.py",
        "visible = None if sees_all else VisibleTo(caller.user_id, services.clock.now())", "visible = None",
        ACROSS + "::test_a_cluster_that_one_may_not_enter_does_not_exist_in_the_api"),
    off("tokens-for-ones-own-clusters", 3, "api/tokens.py",
        "if not may_enter(services, caller, cluster.id):", "if False:",
        ACROSS + "::test_a_cluster_that_one_may_not_enter_does_not_exist_in_the_api"),
    off("logins-for-ones-own-clusters", 3, "api/session.py",
        "if not enters(services, user.id, cluster.id):", "if False:",
        ACROSS + "::test_a_cluster_that_one_may_not_enter_does_not_exist_in_the_api"),
    off("kubeconfigs-for-ones-own-clusters", 3, "api/kubeconfig.py",
        "if cluster is None or not may_enter(services, caller, cluster.id):", "if cluster is None:",
        ACROSS + "::test_a_cluster_that_one_may_not_enter_does_not_exist_in_the_api"),
    # An API server would refuse such a path too: what is shown here is that it does not come so far.
    off("dot-segments", 3, "edge/routes.py",
        'if (b"/." in target or b"%2" in target) and has_dot_segments(target):', "if False:",
        UNIT + "edge/test_routes.py"),
    off("two-tokens-are-none", 3, "proxy/entrance.py",
        "if match is None or len(values) > 1:", "if match is None:",
        ACROSS + "::test_a_connection_remembers_nobody"),
)  # fmt: skip

ODD_NAMES = (
    off("control-characters-in-names", 4, "lib/names.py",
        "if unicodedata.category(char) in _REFUSED_CATEGORIES or char in _BIDI:", "if False:",
        NAMES + "::test_no_source_takes_a_name_that_could_forge_anything"),
    off("length-of-names", 4, "lib/names.py", "if size > MAX_NAME_BYTES:", "if False:",
        NAMES + "::test_no_source_takes_a_name_that_could_forge_anything"),
    off("names-of-kubernetes", 4, "lib/names.py", 'if plain.startswith("system:"):', "if False:",
        NAMES + "::test_no_source_takes_a_name_that_could_forge_anything"),
    off("spaces-around-names", 4, "lib/names.py", "if value != value.strip():", "if False:",
        NAMES + "::test_no_source_takes_a_name_that_could_forge_anything"),
    off("tokens-as-names", 4, "lib/names.py", "if holds_token(value):", "if False:", UNIT + "lib/test_names.py"),
    off("names-of-clusters", 4, "lib/names.py", "if not _DNS_LABEL.fullmatch(value):", "if False:",
        NAMES + "::test_no_source_takes_a_name_that_could_forge_anything"),
    off("control-characters-in-text", 4, "api/common.py",
        'if unicodedata.category(char) in ("Cc", "Cs") and char not in "\\n\\t":', "if False:",
        NAMES + "::test_free_text_cannot_forge_a_line_or_a_header"),
    off("labels-are-labels", 4, "api/common.py", "if value and not _LABEL_NAME.fullmatch(value):", "if False:",
        NAMES + "::test_free_text_cannot_forge_a_line_or_a_header"),
    off("no-control-character-is-written", 4, "wire/headers.py",
        'if data.count(b"\\n") != breaks or data.count(b"\\r") != breaks or data.translate(None, _HEAD_BYTES):',
        "if False:", UNIT + "wire/test_headers.py", UNIT + "proxy/test_chain.py"),
    off("agent-users-of-kubernetes", 4, "agent/dispatch.py",
        'if users[0].lower().startswith(b"system:"):', "if False:", UNIT_AGENT, keyword="kubernetes_own"),
    off("agent-groups-of-kubernetes", 4, "agent/dispatch.py",
        'if group.lower().startswith(b"system:") and group not in _ALLOWED_SYSTEM_GROUPS:', "if False:", MUST_NOT),
    off("prefix-of-kubernetes", 4, "lib/config.py",
        'if config.identity.prefix.casefold().startswith("system:"):', "if False:",
        NAMES + "::test_the_first_administrator_and_the_prefix_are_sources_too",
        also=(Edit("proxy/impersonate.py", 'if not prefix or prefix.lower().startswith("system:"):', "if False:"),),
        own_clusters=True),
)  # fmt: skip

AGENTS = (
    off("issuer-and-key-agree", 5, "authn/agents.py", 'if claims.get("iss") != cluster_id:', "if False:",
        OTHER + "::test_the_key_of_one_cluster_is_no_way_into_the_tunnel_of_another"),
    off("signature", 5, "authn/agents.py",
        "decoded = jwt.decode(token, _public(key), algorithms=[ALGORITHM])",
        'decoded = type("Decoded", (), {"header": _header(token), "claims": msgspec.json.decode('
        'urlsafe_b64decode(token.split(".")[1].encode()))})',
        OTHER + "::test_the_key_of_one_cluster_is_no_way_into_the_tunnel_of_another"),
    off("join-token-is-spent", 5, "api/agents.py", "    if token.used_at is not None:\n", "    if False:\n",
        OTHER + "::test_a_join_token_registers_one_key_for_one_cluster"),
    off("join-token-has-a-secret", 5, "api/agents.py",
        "if token is None or presented is None or not tokens.same(token.hash, presented.hash):",
        "if token is None or presented is None:",
        OTHER + "::test_a_join_token_registers_one_key_for_one_cluster"),
    off("a-cluster-keeps-its-uid", 5, "api/agents.py",
        "if cluster.cluster_uid is not None and cluster.cluster_uid != data.cluster_uid:", "if False:",
        OTHER + "::test_a_join_token_registers_one_key_for_one_cluster"),
    # Each worker ends its sessions; the control process has none.
    off("sessions-of-an-old-key", 5, "app/worker.py",
        '            self.hub.remove(change.cluster_id, "the agent registered with another key")', "            pass",
        OTHER + "::test_sessions_of_an_old_key_end_when_a_new_one_is_registered"),
    off("sessions-of-a-deleted-cluster", 5, "app/worker.py",
        '            self.hub.remove(change.cluster_id, "the cluster was deleted")', "            pass",
        OTHER + "::test_an_agent_of_a_cluster_that_was_deleted_does_not_come_back"),
    off("conditions-that-are-ours", 5, "control/status.py",
        '_OWN: Final = ("Connected", "APIServerHealthy", "NodesReady")', '_OWN: Final = ("APIServerHealthy",)',
        OTHER + "::test_what_an_agent_says_is_about_its_own_cluster"),
)  # fmt: skip

ALTERED = "::test_an_altered_credential_opens_no_tunnel"
CREDENTIALS = (
    off("type-of-the-jwt", 6, "authn/agents.py", ' or decoded.header.get("typ") != TYP:', ":", JWT + ALTERED),
    off("audience", 6, "authn/agents.py", 'if claims.get("aud") != self._audience:', "if False:", JWT + ALTERED),
    off("life-of-the-jwt", 6, "authn/agents.py", "if not (0 <= exp - iat <= MAX_LIFE):", "if False:", JWT + ALTERED),
    off("times-of-the-jwt", 6, "authn/agents.py",
        "if not (iat <= now + SKEW and nbf <= now + SKEW and exp > now - SKEW):", "if False:", JWT + ALTERED),
    off("jti-of-the-jwt", 6, "authn/agents.py", "or not 8 <= len(jti) <= 128", "or not jti", JWT + ALTERED),
    off("times-are-numbers-of-a-size", 6, "authn/agents.py",
        "if not all(-MAX_TIME <= value <= MAX_TIME for value in times if value is not None):", "if False:",
        JWT + ALTERED),
    off("no-other-algorithm", 6, "authn/agents.py",
        "decoded = jwt.decode(token, _public(key), algorithms=[ALGORITHM])",
        'decoded = jwt.decode(token, OctKey.import_key(key) if _header(token).get("alg") != ALGORITHM else '
        '_public(key), algorithms=["EdDSA", "HS256", "HS384", "HS512", "none"])',
        JWT + "::test_no_algorithm_but_ours_is_taken_whatever_the_header_says",
        also=(Edit("authn/agents.py", "from joserfc.jwk import OKPKey", "from joserfc.jwk import OctKey, OKPKey"),
              Edit("authn/agents.py", 'if decoded.header.get("alg") != ALGORITHM or', "if"))),
    off("deep-headers", 6, "authn/agents.py",
        "except (msgspec.MsgspecError, ValueError, RecursionError) as error:",
        "except (msgspec.MsgspecError, ValueError) as error:",
        JWT + "::test_deep_or_broken_json_is_a_refusal_and_not_a_fault"),
    off("deep-claims", 6, "authn/agents.py",
        "except (JoseError, ValueError, TypeError, RecursionError):", "except (JoseError, ValueError, TypeError):",
        JWT + "::test_deep_or_broken_json_is_a_refusal_and_not_a_fault"),
    off("weak-keys-are-not-registered", 6, "api/agents.py", "if is_weak_key(raw):", "if False:",
        JWT + "::test_a_key_that_proves_nothing_is_not_registered"),
    off("weak-keys-prove-nothing", 6, "authn/agents.py", "if is_weak_key(key):", "if False:",
        UNIT + "authn/test_agents.py", keyword="small_order"),
    off("size-of-a-key", 6, "api/agents.py", "if len(raw) != 32:", "if False:",
        JWT + "::test_a_key_that_proves_nothing_is_not_registered"),
)  # fmt: skip

ONLY_AGENTS = "::test_only_an_agents_request_is_looked_at"
THE_TUNNEL = (
    off("good-once", 7, "authn/agents.py",
        "if not self._replays.first_time(cluster_id, jti, until, now):", "if False:",
        UNIT + "authn/test_agents.py", keyword="good_once or replay"),
    # With two workers or more, which is what there is on two processors or more.
    off("good-once-whoever-answers", 7, "bus/roster.py",
        "first = self._replays.first_time(cluster_id, jti, until, self._clock.now())", "first = True",
        TUNNEL + "::test_a_credential_is_good_once_whoever_answers"),
    off("agents-are-no-browsers", 7, "edge/agents.py", 'if get_all(headers, b"origin"):', "if False:",
        TUNNEL + ONLY_AGENTS),
    off("subprotocol", 7, "edge/agents.py", "if SUBPROTOCOL.encode() not in _offers(headers):", "if False:",
        TUNNEL + ONLY_AGENTS),
    off("one-credential", 7, "edge/agents.py",
        "match = _BEARER.fullmatch(tokens[0]) if len(tokens) == 1 else None",
        "match = _BEARER.fullmatch(tokens[-1]) if tokens else None", TUNNEL + ONLY_AGENTS),
    off("tunnel-is-one-path", 7, "edge/routes.py", "if path == TUNNEL:",
        'if path.lower().rstrip(b"/") == TUNNEL:', TUNNEL + ONLY_AGENTS),
    off("audit-log-or-no-start", 7, "app/worker.py",
        '        except OSError as error:\n            raise ConfigError(\n                f"the audit log',
        '        except ZeroDivisionError as error:\n            raise ConfigError(\n                f"the audit log',
        TUNNEL + "::test_a_server_without_its_security_does_not_start",
        also=(Edit("app/worker.py", "            audit.start()\n",
                   "            with contextlib.suppress(OSError):\n                audit.start()\n"),),
        own_clusters=True),
    off("agent-verifies", 7, "kube/access.py", 'if cluster.get("insecure-skip-tls-verify"):', "if False:",
        TUNNEL + "::test_an_agent_that_would_not_verify_its_api_server_does_not_start"),
)  # fmt: skip

AGENTS_ACCESS = (
    off("token-kind", 8, "authn/tokens.py", "if match is None or match[1] != kind:", "if match is None:",
        UNIT + "authn/test_tokens.py"),
    off("api-asks-who", 8, "api/access.py",
        "identity = self._services.index.authenticate(bearer.strip(), now)",
        "try:\n            identity = self._services.index.authenticate(bearer.strip(), now)\n"
        "        except Exception:\n"
        '            identity = Identity("u-x", "x", "x", (), "t-x", None, None, False)',
        AGENT + "::test_no_credential_of_an_agent_opens_any_path"),
    off("agent-reads-its-own-secrets", 8, "kube/rights.py",
        '["get", "update", "patch"], [JOIN_SECRET, IDENTITY_SECRET])', '["get", "update", "patch"])',
        AGENT + "::test_in_its_cluster_it_reads_its_own_secrets_and_no_list_of_them"),
    off("agent-makes-tokens-of-the-impersonator", 8, "kube/rights.py",
        '["create"], [IMPERSONATOR])', '["create"])',
        AGENT + "::test_in_its_cluster_it_reads_its_own_secrets_and_no_list_of_them"),
    off("impersonator-impersonates-only", 8, "kube/rights.py",
        '"resources": ["users", "groups", "serviceaccounts"], "verbs": ["impersonate"]}',
        '"resources": ["users", "groups", "serviceaccounts", "pods"], "verbs": ["impersonate", "get"]}',
        AGENT + "::test_the_impersonator_can_do_nothing_by_itself"),
)  # fmt: skip

THE_TOKENS = (
    off("a-token-has-a-secret", 9, "authn/index.py",
        "if token is None or not tokens.same(token.hash, parsed.hash):", "if token is None:",
        TOKENS + "::test_no_answer_tells_how_much_of_a_guess_is_right"),
    off("256-bits", 9, "authn/tokens.py", "secrets.token_bytes(32)", "secrets.token_bytes(4) * 8",
        TOKENS + "::test_each_token_holds_256_bits_that_nothing_else_tells"),
    off("only-the-hash-is-kept", 9, "authn/tokens.py",
        "return hashlib.sha256(secret.encode()).digest()", 'return secret.encode()',
        TOKENS + "::test_what_is_stored_or_shown_is_no_token"),
    off("revoked-tokens-are-dead", 9, "authn/index.py",
        "            if token is not None and token.revoked_at is None:\n", "            if token is not None:\n",
        TOKENS + "::test_a_token_is_dead_once_it_is_replaced[revoked]",
        also=(Edit("authn/index.py", "        if token.revoked_at is not None:\n", "        if False:\n"),)),
    off("new-password-ends-tokens", 9, "api/users.py",
        "        await tx.tokens.revoke_all_of(caller.user_id, now, keep=caller.token_id)", "        pass",
        TOKENS + "::test_a_token_is_dead_once_it_is_replaced[new password]"),
    off("password-of-an-administrator-ends-tokens", 9, "api/users.py",
        "            await tx.tokens.revoke_all_of(user.id, now, keep=caller.token_id)", "            pass",
        TOKENS + "::test_a_token_is_dead_once_it_is_replaced[password set by an administrator]"),
    off("one-spelling-of-a-token", 9, "authn/tokens.py",
        "match = _FORM.fullmatch(text)", "match = _FORM.match(text.lower())",
        TOKENS + "::test_no_answer_tells_how_much_of_a_guess_is_right"),
    off("tokens-end", 9, "authn/index.py",
        "if token.expires_at is not None and token.expires_at <= now:", "if False:", UNIT + "authn/test_index.py"),
)  # fmt: skip

TRUST = "context.minimum_version = ssl.TLSVersion.TLSv1_2"
SERVERS = (
    off("only-the-ca-that-was-given", 10, "net/tls.py", f"    {TRUST}\n",
        f"    {TRUST}\n    context.set_default_verify_paths()\n",
        WRONG + "::test_an_agent_says_nothing_to_a_server_of_another_authority"),
    off("certificates-are-verified", 10, "net/tls.py", f"    {TRUST}\n",
        f"    {TRUST}\n    context.check_hostname = False\n    context.verify_mode = ssl.CERT_NONE\n",
        WRONG + "::test_an_agent_says_nothing_to_a_server_of_another_authority"),
    off("names-are-checked", 10, "net/tls.py", f"    {TRUST}\n", f"    {TRUST}\n    context.check_hostname = False\n",
        UNIT + "net/test_tls.py"),
    off("command-line-trusts-its-ca", 10, "cli/client.py", f"    {TRUST}\n",
        f"    {TRUST}\n    context.set_default_verify_paths()\n",
        WRONG + "::test_the_command_line_sends_no_token_to_a_server_of_another_authority"),
)  # fmt: skip

GUARDS: tuple[Guard, ...] = (
    *HOP_BY_HOP,
    *IMPERSONATION,
    *ACTING_AS,
    *ACROSS_CLUSTERS,
    *ODD_NAMES,
    *AGENTS,
    *CREDENTIALS,
    *THE_TUNNEL,
    *AGENTS_ACCESS,
    *THE_TOKENS,
    *SERVERS,
)
