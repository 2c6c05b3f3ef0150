# SPDX-License-Identifier: Apache-2.0
"""Guards of an endpoint that a cluster serves itself: whom it lets in, and what is known of it afterwards."""

from __future__ import annotations

from mutants.guard import UNIT, Guard, off

FEED = UNIT + "endpoint/test_feed.py"
SERVICE = UNIT + "endpoint/test_service.py"
JOURNAL = UNIT + "endpoint/test_journal.py"
SHIP = UNIT + "endpoint/test_ship.py"
CERTIFICATE = UNIT + "endpoint/test_certificate.py"
LOCAL = UNIT + "agent/test_local.py"
RECORDS = UNIT + "api/test_agentaudit.py"

GUARDS: tuple[Guard, ...] = (
    off("served-paths-with-two-slashes", 18, "endpoint/entrance.py", 'if target.startswith(b"//"):', "if False:",
        FEED + "::test_every_path_is_the_clusters_and_unchanged"),
    off("served-dot-segments", 18, "endpoint/routes.py", "and has_dot_segments(target):", "and False:",
        SERVICE + "::test_paths_that_two_could_read_in_two_ways_are_refused"),
    off("served-tokens-of-this-cluster", 3, "endpoint/entrance.py",
        "ParsedToken(parsed[0], token_hash(self._cluster.id, parsed[1]))",
        'ParsedToken(parsed[0], token_hash("c-bbbbbbbbbbbb", parsed[1]))',
        SERVICE + "::test_a_token_whose_hash_is_of_another_cluster_is_good_for_nothing"),
    off("served-revoked-tokens-go", 13, "endpoint/feed.py", "if token.id not in kept)", "if False)",
        FEED + "::test_a_revoked_token_is_told_and_refused"),
    off("served-users-who-are-gone", 13, "endpoint/feed.py",
        "{user_id: None for user_id in before if user_id not in now}", "{}",
        FEED + "::test_a_user_who_is_gone_is_told_and_refused"),
    off("served-disabled-users", 13, "endpoint/feed.py", "enabled=user.enabled,", "enabled=True,",
        FEED + "::test_a_disabled_user_and_lost_groups_are_told"),
    off("served-rights-that-end", 13, "endpoint/feed.py", "if user.until is not None}", "if False}",
        FEED + "::test_the_right_to_enter_ends_when_it_says"),
    off("served-shards-speak-for-their-own", 4, "endpoint/feed.py",
        "if endpoint.shard_of(user.id) == number}", "if True}",
        FEED + "::test_a_shard_speaks_only_for_its_own_users"),
    off("served-grace-only-without-a-server", 13, "endpoint/feed.py",
        "self._connected = self._extra(), connected is not False", "self._connected = self._extra(), connected is True",
        FEED + "::test_an_expired_token_is_denied_unless_the_grace_says_otherwise"),
    off("served-grace-ends-what-is-open", 13, "endpoint/feed.py", "        self.recheck()\n", "",
        SERVICE + "::test_the_grace_holds_while_the_server_is_away_and_ends_with_it"),
    off("served-only-from-a-copy", 17, "endpoint/service.py",
        'return "" if self.copy.ready and self.feed.prefix else _NOT_YET', 'return ""',
        SERVICE + "::test_before_any_tokens_are_known_nobody_is_let_in"),
    off("served-what-is-open-is-cut", 13, "endpoint/service.py",
        "        self.feed.index.subscribe(self.registry.on_change)\n", "",
        SERVICE + "::test_a_right_that_is_taken_away_ends_what_is_open"),
    off("served-names-that-change", 4, "endpoint/service.py",
        '        self.registry.cut_all("user", "the names of users have changed; connect again")\n', "",
        SERVICE + "::test_a_right_that_is_taken_away_ends_what_is_open"),
    off("served-clock-never-goes-back", 13, "endpoint/service.py", "self.now = copy.now\n", "self.now = clock.now\n",
        SERVICE + "::test_a_clock_that_is_set_back_brings_nothing_back"),
    off("served-records-are-bounded", 20, "endpoint/journal.py",
        "self._full = self.waiting() >= self.limit", "self._full = False",
        JOURNAL + "::test_at_the_limit_nothing_new_is_accepted_and_the_oldest_stay",
        SERVICE + "::test_nothing_is_carried_out_that_cannot_be_recorded"),
    off("served-one-process-per-journal", 17, "endpoint/journal.py",
        "            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "",
        JOURNAL + "::test_two_processes_do_not_share_a_folder"),
    off("served-answers-are-checked", 10, "endpoint/ship.py",
        "if not batch.offset < said.offset <= batch.offset + len(batch.lines):", "if False:",
        SHIP + "::test_an_answer_that_makes_no_sense_takes_nothing"),
    off("served-records-once", 17, "control/auditinbox.py", "if start < known[journal] or line", "if line",
        RECORDS + "::test_records_are_written_once_with_the_user_and_the_agents_own_cluster"),
    off("served-records-of-the-own-cluster", 5, "control/auditinbox.py",
        "                record.cluster, record.cluster_id = cluster.name, cluster.id\n", "",
        RECORDS + "::test_records_are_written_once_with_the_user_and_the_agents_own_cluster"),
    off("served-records-in-a-minute", 20, "control/auditinbox.py",
        "if self._rate.take(cluster.id, asyncio.get_running_loop().time()) > 0:", "if False:",
        RECORDS + "::test_one_cluster_does_not_fill_the_disk_in_a_minute"),
    off("served-records-that-are-kept", 17, "control/auditinbox.py",
        "        if not self._audit.healthy:\n            return None\n", "",
        RECORDS + "::test_records_that_cannot_be_written_are_not_taken"),
    off("served-journals-have-names", 19, "api/agentaudit.py", 'if not is_id(journal, "a"):', "if False:",
        RECORDS + "::test_what_is_not_of_the_form_is_refused"),
    off("served-given-certificates-stay", 8, "endpoint/certificate.py", ".get(MADE) != MAKER:", ".get(MADE) is False:",
        CERTIFICATE + "::test_what_somebody_gave_is_shown_and_never_written"),
    off("served-streams-are-bounded", 20, "agent/local.py", "if self._unread > OVERRUN:", "if False:",
        LOCAL + "::test_a_writer_that_does_not_stop_loses_its_stream_and_hears_of_it"),
    off("served-sessions-are-bounded", 20, "agent/local.py", "if len(self._open) >= self._max:", "if False:",
        LOCAL + "::test_a_full_session_is_busy_and_a_closed_one_is_closed"),
)  # fmt: skip
