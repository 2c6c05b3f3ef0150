# SPDX-License-Identifier: Apache-2.0
"""Guards of the authorized cluster endpoint: what is believed on the way into the cluster, and who is let in there."""

from __future__ import annotations

from mutants.guard import UNIT, Guard, off

WRITER = UNIT + "agent/endpoint/test_service.py"
WATCH = UNIT + "kube/test_watch.py"
MANIFEST = UNIT + "kube/test_manifest.py"

OTHERS = WRITER + "::test_an_index_for_others_or_with_another_prefix_is_refused"
NAMES = WRITER + "::test_nobody_in_a_shard_with_a_name_of_kubernetes_gets_in_and_the_others_do"
TOUCHED = WRITER + "::test_what_somebody_deletes_or_edits_is_put_back_without_the_server"

DELIVERY: tuple[Guard, ...] = (
    off("endpoint-revision-does-not-fall", 12, "agent/endpoint/check.py", "if at < last.at:", "if False:",
        WRITER + "::test_a_lower_revision_is_taken_after_a_new_registration_only"),
    off("endpoint-registration-does-not-fall", 12, "agent/endpoint/check.py",
        "if at < last.at:", "if at[0] == last.at[0] and at < last.at:", OTHERS),
    off("endpoint-one-index-of-a-revision", 12, "agent/endpoint/check.py",
        "if at == last.at and header.sha256 != last.digest:", "if False:",
        WRITER + "::test_another_index_with_the_same_revision_is_refused"),
    off("endpoint-prefix-is-not-kubernetes", 12, "agent/endpoint/check.py", " or _reserved(prefix):", ":", OTHERS),
    off("endpoint-prefix-ends", 12, "agent/endpoint/check.py", ' or not prefix.endswith(":")', "", OTHERS),
    off("endpoint-prefix-stays", 12, "agent/endpoint/check.py",
        "if at[0] == last.at[0] and prefix != last.prefix:", "if False:", OTHERS),
    off("endpoint-shard-is-the-one-that-is-named", 12, "agent/endpoint/check.py",
        "if header.sha256 != digest:", "if False:",
        WRITER + "::test_an_old_shard_beside_a_new_index_is_not_written"),
    off("endpoint-shard-has-its-number", 12, "wire/endpoint.py", "if shard.number != number:", "if False:",
        WRITER + "::test_a_shard_in_the_place_of_another_is_not_written"),
    off("endpoint-no-names-of-kubernetes", 12, "agent/endpoint/check.py",
        "if not name or _reserved(name) or _reserved(prefix + name):", "if not name:", NAMES),
    off("endpoint-groups-count-too", 12, "agent/endpoint/check.py",
        "for name in (user.name, *user.groups):", "for name in (user.name,):", NAMES),
    off("endpoint-bad-shards-go", 12, "agent/endpoint/writer.py",
        "keep_only(known.shards.keys() - out)", "keep_only(known.shards.keys())", NAMES,
        WRITER + "::test_an_old_shard_beside_a_new_index_is_not_written"),
    off("endpoint-index-is-put-back", 12, "agent/endpoint/writer.py",
        "        if not self._vault.is_index(item.data):\n            self._touch()\n", "        return\n",
        TOUCHED, WRITER + "::test_an_older_index_that_somebody_puts_back_does_not_stay"),
    off("endpoint-shards-are-put-back", 12, "agent/endpoint/vault.py",
        "if version == self._versions.get(number):", "if True:", TOUCHED),
    off("endpoint-planted-shards-go", 12, "agent/endpoint/writer.py",
        "keep_only(known.shards, all_others=True)", "keep_only(known.shards)",
        WRITER + "::test_secrets_of_shards_that_the_index_does_not_name_go_when_an_agent_begins"),
    off("endpoint-what-was-kept-is-verified", 12, "agent/endpoint/writer.py",
        "                take_shard(shard, pin, number, digest, known.prefix)\n            except",
        "                pass\n            except",
        WRITER + "::test_after_a_restart_what_somebody_did_meanwhile_is_put_right"),
    off("endpoint-needs-a-key", 12, "agent/endpoint/writer.py",
        '            raise BadIdentity("this cluster knows no key of the server yet")\n',
        "            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey\n\n"
        "            key = Ed25519PrivateKey.generate().public_key()\n",
        WRITER + "::test_without_the_servers_key_nothing_is_believed"),
    off("kube-api-auth-reads-its-own-secrets", 8, "kube/rights.py",
        "[rule([\"\"], [\"secrets\"], _READ, _ENDPOINT_SECRETS)]", "[rule([\"\"], [\"secrets\"], _READ)]",
        MANIFEST + "::test_kube_api_auth_reads_the_tokens_of_the_endpoint_and_nothing_else"),
    off("a-watch-event-is-bounded", 17, "kube/watch.py", "if len(rest) > self._max_line:", "if False:",
        WATCH + "::test_an_event_that_has_no_end_is_not_gathered"),
    off("a-list-is-bounded", 17, "kube/watch.py", "if len(places) > MOST:", "if False:",
        WATCH + "::test_a_list_that_has_no_end_is_not_read"),
)  # fmt: skip

GUARDS: tuple[Guard, ...] = DELIVERY
