# SPDX-License-Identifier: Apache-2.0
"""Guards of endpoints in the REST API, and of kubeconfigs: who gets a token for where, and what is left of a file."""

from __future__ import annotations

from mutants.guard import UNIT, Edit, Guard, off

API = UNIT + "api/test_endpoints.py::"
DOCUMENT = UNIT + "kube/test_kubeconfig.py::"
TEXT = UNIT + "kube/test_configtext.py::"
MERGE = UNIT + "kube/test_configmerge.py::"
FILE = UNIT + "cli/test_kubefile.py::"
CREDENTIAL = UNIT + "cli/test_credential.py::"
FALLBACK = UNIT + "cli/test_fallback.py::"

ENTERS = API + "test_only_who_may_enter_gets_one"
LIVES = API + "test_it_lives_as_long_as_the_settings_say_and_never_longer_than_its_maker"
LIMITED = API + "test_a_token_that_is_limited_to_the_cluster_makes_none"
TOGETHER = API + "test_all_tokens_of_a_file_end_together"
SEEN = API + "test_who_enters_a_cluster_sees_its_endpoint_and_nobody_else"
BELOW = '("clusters", "update", "cluster"),\n    tags=["endpoint"],\n    summary='

GUARDS: tuple[Guard, ...] = (
    off("endpoint-tokens-for-who-enters", 3, "api/tokens.py",
        "if not may_enter(services, caller, cluster.id):", "if False:", ENTERS),
    off("endpoint-tokens-of-others-who-enter", 3, "api/tokens.py",
        "if not enters(services, user.id, cluster.id):", "if False:", ENTERS),
    off("endpoint-tokens-do-not-outlive", 9, "api/tokens.py",
        "end_of_life(services, caller, data.ttl_seconds, settings.ttl_seconds, MAX_TTL)",
        "services.clock.now() + (data.ttl_seconds or settings.ttl_seconds)", LIVES),
    off("endpoint-tokens-live-thirty-days", 9, "api/tokens.py",
        "settings.ttl_seconds, MAX_TTL)", "settings.ttl_seconds)", LIVES),
    off("limited-tokens-make-no-tokens", 3, "api/tokens.py",
        '@post("/tokens", opt=USER,', '@post("/tokens", opt={"access": "token"},', LIMITED),
    off("limited-tokens-make-no-kubeconfigs", 3, "api/kubeconfig.py",
        '@post("/kubeconfig", opt=USER,', '@post("/kubeconfig", opt={"access": "token"},', LIMITED),
    off("endpoint-tokens-in-files-live-thirty-days", 9, "api/kubeconfig.py",
        "MAX_TTL if direct else None", "None", TOGETHER),
    off("endpoint-tokens-in-files-follow-the-settings", 9, "api/kubeconfig.py",
        "min([services.settings.login_ttl, *ttls])", "services.settings.login_ttl", TOGETHER),
    off("endpoints-are-set-by-right", 12, "api/endpoints.py",
        f'opt=needs{BELOW}"Set up', 'opt=USER,\n    tags=["endpoint"],\n    summary="Set up', SEEN),
    off("endpoints-are-turned-off-by-right", 12, "api/endpoints.py",
        f'opt=needs{BELOW}"Turn', 'opt=USER,\n    tags=["endpoint"],\n    summary="Turn', SEEN),
    off("endpoints-are-seen-by-who-enters", 3, "api/endpoints.py",
        "if not may_see(services, caller, cluster.id, cluster.name):", "if False:", SEEN),
    off("endpoint-tokens-end-with-it", 13, "api/endpoints.py",
        "    await tx.tokens.revoke_endpoint(cluster.id, now)\n", "",
        API + "test_tokens_do_not_come_back_with_the_endpoint"),
    off("endpoint-tokens-leave-before-the-cluster", 13, "api/clusters.py",
        "        if cluster.endpoint is None:\n            await tx", "        if True:\n            await tx",
        API + "test_the_tokens_leave_a_cluster_before_it_is_deleted"),
    off("nodes-take-no-names-of-clusters", 3, "kube/kubeconfig.py",
        "used = {place.cluster for place in ordered} | set(taken)", "used: set[str] = set()",
        DOCUMENT + "test_no_node_takes_the_name_of_another_cluster"),
    off("clusters-that-are-not-in-the-file-count", 3, "api/kubeconfig.py",
        "taken = [cluster.name for cluster in _entered(services, caller)]", "taken: list[str] = []",
        API + "test_what_a_cluster_reports_cannot_take_the_name_of_another_or_lead_astray"),
    off("nodes-have-names-of-nodes", 19, "kube/kubeconfig.py", " or not _NODE.fullmatch(place.node)", "",
        DOCUMENT + "test_a_node_whose_name_is_none_gives_no_context"),
    off("nodes-have-addresses", 19, "kube/kubeconfig.py",
        "elif len(host) > _MAX_NAME or not _HOST.fullmatch(host):", "elif False:",
        DOCUMENT + "test_hosts_that_a_cluster_reports_are_checked"),
    off("words-are-written-as-words", 19, "kube/configtext.py",
        '_Dumper.add_implicit_resolver(_TAG + "float", _DOUBTFUL, [*_NUMERIC, *"yYnN="])\n', "",
        TEXT + "test_a_string_that_looks_like_something_else_is_quoted"),
    off("no-key-is-lost", 19, "kube/configtext.py", "if key.value in seen:", "if False:",
        TEXT + "test_what_cannot_be_read_is_refused"),
    off("refusals-show-no-file", 15, "kube/configtext.py", "{error.problem or 'it is not YAML'}", "{error}",
        TEXT + "test_a_refusal_shows_nothing_of_the_file"),
    off("others-entries-stay", 19, "kube/configmerge.py", "if name in new and not mine:", "if False:",
        MERGE + "test_a_name_that_another_has_stops_the_merge"),
    off("entries-of-another-server-are-others", 10, "kube/configmerge.py",
        "mine = mark is not None and mark[0] == url", "mine = mark is not None",
        MERGE + "test_the_same_cluster_of_another_server_is_anothers"),
    off("no-weaker-trust-stays", 10, "kube/configmerge.py", " if key not in _AGAINST_OURS", "",
        MERGE + "test_nothing_weakens_what_we_trust_and_no_other_credential_stays_in_our_entry"),
    off("kubeconfigs-are-private", 15, "cli/kubefile.py", 'return b"", 0o600, None', 'return b"", 0o644, None',
        FILE + "test_a_new_file_is_private_and_so_is_its_folder"),
    off("kubeconfigs-are-locked", 19, "cli/kubefile.py", "os.O_CREAT | os.O_EXCL |", "os.O_CREAT |",
        FILE + "test_kubectls_lock_is_waited_for"),
    off("cached-tokens-are-of-a-login", 9, "cli/credential.py", "self.login.token.reveal(), ", "",
        CREDENTIAL + "test_each_cluster_login_and_kind_has_its_own"),
    off("cached-tokens-are-of-a-kind", 3, "cli/credential.py", ', *(["endpoint"] if self.endpoint else [])', "",
        CREDENTIAL + "test_each_cluster_login_and_kind_has_its_own"),
    off("grace-is-for-a-server-that-is-away", 9, "cli/credential.py",
        "if self.away and not self.good(now) else 0.0", "if not self.good(now) else 0.0",
        CREDENTIAL + "test_an_ended_token_is_used_in_its_grace_only_while_the_server_cannot_be_reached"),
    off("only-the-current-context-falls-back", 19, "cli/fallback.py",
        "if current is None or ours.ways.get(current) != way or", "if current is None or",
        FALLBACK + "test_a_call_with_another_context_than_the_current_one_changes_nothing"),
    off("only-our-contexts-fall-back", 19, "cli/fallback.py",
        'if mark_of(entry, "context") == mark and entry', "if entry",
        FALLBACK + "test_an_unmarked_context_with_our_address_is_not_ours",
        also=(Edit("cli/fallback.py", 'if mark_of(entry, "cluster") == mark:', "if True:"),)),
    off("what-answers-shows-its-certificate", 10, "cli/fallback.py",
        "        context = ssl.create_default_context(cadata=way.ca_pem or None)\n",
        "        context = ssl._create_unverified_context()\n",
        FALLBACK + "test_only_a_server_with_a_certificate_of_its_ca_answers"),
)  # fmt: skip
