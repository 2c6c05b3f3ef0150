# SPDX-License-Identifier: Apache-2.0
"""Attack class 21: the cluster's own endpoint. Somebody gets in, or stays in, past the server.

A real API server asks a real kube-api-auth; the documents are signed by the test, since what is attacked is what
stands in the cluster, with the server gone or slow. Guards: `webhook/copy.py` (signatures, no way back),
`webhook/heldtime.py` (clocks), `webhook/book.py` (who has which token now), `webhook/revocation.py` (what was revoked),
`webhook/server.py` (who may ask), `webhook/disk.py` and `webhook/follow.py`.
"""

from __future__ import annotations

import base64
import http.client
import json
import random
import signal
import socket
import ssl
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from mooring.wire.endpoint import Settings
from support.apiauth import NAMESPACE, OUTER_CACHE, Direct
from support.endpoint import CLUSTER_ID, Person, Sealer, person, secret_objects, token_id
from support.road import until
from testbed import pki
from testbed.state import Run

SLACK = 3.0
"""Seconds that a busy machine may add to a bound."""
DELIVERED_AND_GUARDED = 1.0 + SLACK
"""From the Secret to the refusal: a watch event, and what the API server keeps of an answer of the guard."""
YESTERDAY = """
import sys, time
now = time.time
time.time = lambda: now() - 86400
from mooring.cli.main import main
main(sys.argv[1:])
"""
"""A program in which the clock was set back by a day."""


@pytest.fixture(scope="module")
def direct(testbed_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Direct]:
    with Direct("direct", tmp_path_factory.mktemp("direct"), testbed_run) as it:
        it.rights()
        yield it


@pytest.fixture
def bob(direct: Direct, fresh_name: Callable[[str], str]) -> Person:
    """In the group that may read configmaps."""
    return person(fresh_name("bob"), "deckhands")


def let_in(direct: Direct, *people: Person) -> None:
    direct.deliver(people)
    direct.taken()


def test_somebody_with_a_token_is_known_as_through_the_server(direct: Direct, bob: Person) -> None:
    token = direct.sealer.token(bob)
    let_in(direct, bob)
    assert direct.whoami(token) == {
        "username": f"mooring:{bob.name}",
        "uid": bob.uid,
        "groups": ["mooring:deckhands", "system:authenticated"],
        "extra": {"mooring.fleet/token-id": [token_id(token)]},
    }
    assert direct.may(token) == 200
    assert direct.may(token, "/api/v1/namespaces/default/secrets") == 403


def test_no_token_but_a_good_one_lets_anybody_in(direct: Direct, bob: Person) -> None:
    token = direct.sealer.token(bob)
    expired = direct.sealer.token(bob, time.time() - 1)
    let_in(direct, bob)
    other = Sealer(cluster_id="c-bbbbbbbbbbbb")
    elsewhere = other.token(bob)  # of the same user, for another cluster
    bad = [
        expired,
        elsewhere,
        token[:-1] + ("a" if token[-1] != "a" else "b"),
        token.upper(),
        token + "a",
        f"mrg_t-aaaaaaaaaaaa_{token[-52:]}",
        f"mre_{token_id(token)}_{elsewhere[-52:]}",
        "mre_",
        "a" * 9000,
        "{}",
    ]
    assert [text[:40] for text in bad if direct.whoami(text) is not None] == []


def test_how_long_an_answer_takes_does_not_say_which_ids_there_are(direct: Direct, bob: Person) -> None:
    """A test of means, over the wire: of ids that there are and of ids that there are not, in random turn, with a wrong
    secret each. Welch's t stays where chance alone puts it."""
    tokens = [direct.sealer.token(bob) for _unused in range(50)]
    let_in(direct, bob)
    secret = Sealer().token(person("eve"))[-52:]
    known = [f"mre_{token_id(token)}_{secret}" for token in tokens]
    unknown = [f"mre_{token_id(Sealer().token(person('eve')))}_{secret}" for _unused in tokens]
    connection = http.client.HTTPSConnection(
        "127.0.0.1", direct.auth.port, context=direct.auth.context(pair=direct.auth.client), timeout=30
    )
    times: dict[bool, list[float]] = {True: [], False: []}
    for _unused in range(4000):
        kind = random.random() < 0.5
        token = random.choice(known if kind else unknown)
        body = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}})
        begin = time.perf_counter()
        connection.request("POST", "/authenticate", body)
        answer = connection.getresponse().read()
        times[kind].append(time.perf_counter() - begin)
        assert b'"authenticated":false' in answer
    connection.close()
    # What a busy machine adds says nothing: of each the quicker half.
    halves = [sorted(times[kind])[: len(times[kind]) // 2] for kind in (True, False)]
    means = [statistics.fmean(half) for half in halves]
    error = sum(statistics.variance(half) / len(half) for half in halves) ** 0.5
    print(f"means {means[0] * 1e6:.2f} and {means[1] * 1e6:.2f} us, t = {(means[0] - means[1]) / error:.2f}")
    assert abs(means[0] - means[1]) < max(5 * error, 2e-6)


def test_a_hash_from_another_cluster_is_worth_nothing_here(direct: Direct, bob: Person) -> None:
    """Whoever reads the Secrets of one cluster, and may write those of another, still has no token."""
    other = Sealer(cluster_id="c-bbbbbbbbbbbb", cluster_uid=direct.sealer.cluster_uid)
    token = other.token(bob)  # its hash is in bob.tokens, and so in what the server delivers here
    let_in(direct, bob)
    assert direct.whoami(token) is None


def test_a_secret_that_somebody_wrote_himself_is_not_believed(direct: Direct, bob: Person) -> None:
    """An administrator of the namespace makes himself a token; or of another, where nobody looks."""
    token = direct.sealer.token(bob)
    let_in(direct, bob)
    forger = Sealer(cluster_id=CLUSTER_ID, cluster_uid=direct.sealer.cluster_uid, revision=900)
    evil = Person("admin", ("admins",), id=bob.id)
    forged = forger.token(evil)
    elsewhere = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "elsewhere"}}
    documents = forger.documents([evil])
    direct.plane.apply(elsewhere, *secret_objects(documents, namespace="elsewhere"))
    direct.put(documents)
    until("it was looked at", lambda: "was not signed with the policy key" in direct.auth.log)
    assert direct.whoami(forged) is None
    assert direct.may(token) == 200, "and what was true before stays true"
    # Only a shard: the index is the server's own.
    direct.sealer.token(bob)
    index, _shards = direct.sealer.documents([bob])
    direct.put((index, documents[1]))
    until("the shard is missed", lambda: direct.auth.ask(token)["authenticated"] is False)
    assert direct.whoami(forged) is None
    let_in(direct, bob)
    assert direct.may(token) == 200


def test_garbage_in_the_secret_changes_nothing(direct: Direct, bob: Person) -> None:
    token = direct.sealer.token(bob)
    index, _shards = direct.deliver([bob])
    direct.taken()
    for data in ({}, {"document": ""}, {"document": base64.b64encode(index[:-9]).decode()}, {"link": "AAAA"}):
        thing = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mooring-endpoint", "namespace": NAMESPACE}}
        direct.plane.kubectl("replace", "-f", "-", input=json.dumps({**thing, "data": data}))
        time.sleep(0.3)
        assert direct.whoami(token) is not None, data


def test_a_document_of_yesterday_is_refused_also_after_a_restart(direct: Direct, bob: Person) -> None:
    revoked = direct.sealer.token(bob)
    old = direct.deliver([bob])
    direct.taken()
    assert direct.auth.ask(revoked)["authenticated"]
    bob.tokens.clear()
    kept = direct.sealer.token(bob)
    let_in(direct, bob)
    direct.put(old)
    until("it is refused", lambda: "was taken already" in direct.auth.log)
    assert [direct.auth.ask(token)["authenticated"] for token in (revoked, kept)] == [False, True]
    direct.auth.stop(signal.SIGKILL)
    direct.auth.start()
    time.sleep(1.0)  # the Secrets are read again, and are the old ones
    assert [direct.auth.ask(token)["authenticated"] for token in (revoked, kept)] == [False, True]


def test_a_registration_of_before_is_refused(direct: Direct, bob: Person) -> None:
    """The cluster was registered anew: a document of the old registration may have a higher revision."""
    before = direct.sealer.token(bob)
    old = direct.deliver([bob], revision=5_000)
    direct.taken()
    bob.tokens.clear()
    after = direct.sealer.token(bob)
    direct.sealer.registered_at += 100
    direct.deliver([bob], revision=1)
    until("the new registration holds", lambda: direct.auth.ask(after)["authenticated"])
    assert not direct.auth.ask(before)["authenticated"]
    direct.put(old)
    time.sleep(1.0)
    assert [direct.auth.ask(token)["authenticated"] for token in (before, after)] == [False, True]


def test_the_token_of_a_disabled_user_ends(direct: Direct, bob: Person) -> None:
    token = direct.sealer.token(bob)
    let_in(direct, bob)
    assert direct.may(token) == 200
    bob.enabled = False
    direct.deliver([bob])
    took = direct.refused_within(token, DELIVERED_AND_GUARDED)
    print(f"disabled -> refused in {took:.2f} s")
    assert direct.auth.ask(token) == {"authenticated": False, "error": "mooring: the user of this token is disabled"}


def test_a_token_that_was_revoked_ends_while_the_api_server_still_believes_it(direct: Direct, bob: Person) -> None:
    token = direct.sealer.token(bob)
    let_in(direct, bob)
    assert direct.may(token) == 200
    bob.tokens.clear()
    direct.deliver([bob])
    took = direct.refused_within(token, DELIVERED_AND_GUARDED)
    status, said = direct.call(token, "/api/v1/namespaces/default/configmaps")
    print(f"revoked -> refused in {took:.2f} s: {status} {said['message']}")
    assert took < OUTER_CACHE / 2, "sooner than what the API server keeps"
    assert status == 403
    assert "the token is unknown or was revoked" in said["message"]
    time.sleep(max(0.0, OUTER_CACHE - took) + 1.0)
    assert direct.may(token) == 401, "and then it is no token at all"


def test_a_group_that_was_taken_away_gives_nothing_any_more(direct: Direct, bob: Person) -> None:
    token = direct.sealer.token(bob)
    let_in(direct, bob)
    assert direct.may(token) == 200
    bob.groups = ()
    direct.deliver([bob])
    took = direct.refused_within(token, DELIVERED_AND_GUARDED)
    print(f"group removed -> refused in {took:.2f} s")
    end = time.monotonic() + OUTER_CACHE + SLACK
    while time.monotonic() < end and direct.whoami(token) is None:
        time.sleep(0.2)
    known = direct.whoami(token)
    assert known is not None
    assert known["groups"] == ["system:authenticated"]
    assert direct.may(token) == 403


def test_the_guard_is_not_avoided_by_acting_as_another(direct: Direct, bob: Person) -> None:
    """Bob may act as alice. Once his token is revoked he may not, whatever he says about himself."""
    api = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [""], "resources": ["users", "groups"], "verbs": ["impersonate"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["*"], "verbs": ["impersonate"]},
    ]
    name = f"acts-{bob.name}"
    direct.plane.apply(
        {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules},
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": api, "kind": "User", "name": f"mooring:{bob.name}"}],
        },
    )
    alice = person("alice", "deckhands")
    token, hers = direct.sealer.token(bob), direct.sealer.token(alice)
    let_in(direct, bob, alice)
    acting = {"Impersonate-User": "mooring:alice", "Impersonate-Group": "mooring:deckhands"}
    path = "/api/v1/namespaces/default/configmaps"
    until("he may act as her", lambda: direct.call(token, path, headers=acting)[0] == 200)
    bob.tokens.clear()
    let_in(direct, bob, alice)
    time.sleep(1.5)
    for more in (
        {},
        {"Impersonate-Extra-mooring.fleet%2ftoken-id": token_id(hers)},
        {"Impersonate-Extra-mooring.fleet%2ftoken-id": "t-aaaaaaaaaaaa"},
        {"Impersonate-Extra-mooring.fleet%2foriginal-user": "x"},
        {"Impersonate-Uid": alice.uid},
    ):
        status, said = direct.call(token, path, headers={**acting, **more})
        assert status in (401, 403), (more, said)
    assert direct.may(hers) == 200


def test_a_clock_that_is_set_back_brings_no_token_back(direct: Direct, bob: Person) -> None:
    """The node's clock goes back by a day, and kube-api-auth is started again."""
    token = direct.sealer.token(bob, time.time() + 2)
    let_in(direct, bob)
    assert direct.auth.ask(token)["authenticated"]
    time.sleep(2.5)
    assert not direct.auth.ask(token)["authenticated"]
    direct.auth.stop()
    program = direct.auth.program
    direct.auth.program = [sys.executable, "-c", YESTERDAY]
    try:
        direct.auth.start()
        said = direct.auth.ask(token)
    finally:
        direct.auth.stop()
        direct.auth.program = program
        direct.auth.start()
    assert said == {"authenticated": False, "error": "mooring: the token has expired"}


@pytest.mark.parametrize(
    ("connected", "grace", "taken"), [(False, 0, False), (True, 600, False), (None, 600, False), (False, 600, True)]
)
def test_an_expired_token_is_taken_only_in_its_grace_and_without_the_server(
    direct: Direct, bob: Person, connected: bool | None, grace: int, taken: bool
) -> None:
    fresh, stale = direct.sealer.token(bob, time.time() - 5), direct.sealer.token(bob, time.time() - 700)
    direct.deliver([bob], connected=connected, settings=Settings(prefix="mooring:", grace=grace))
    direct.taken()
    assert [direct.auth.ask(token)["authenticated"] for token in (fresh, stale)] == [taken, False]


def test_a_user_with_a_name_of_kubernetes_is_nobody(direct: Direct, bob: Person) -> None:
    """Should the server's key ever sign that: no document makes a cluster administrator."""
    evil, master = Person("tem:admin"), Person(bob.name, ("tem:masters",))
    tokens = [direct.sealer.token(one) for one in (evil, master)]
    direct.deliver([evil, master], settings=Settings(prefix="sys"))
    direct.taken()
    assert [direct.auth.ask(token)["authenticated"] for token in tokens] == [False, False]


def test_only_the_api_server_is_answered(direct: Direct, bob: Person) -> None:
    token = direct.sealer.token(bob)
    let_in(direct, bob)
    body = json.dumps(
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    ).encode()
    assert b'"authenticated":true' in direct.auth.post("/authenticate", body)[1]
    # Without a certificate: told so. With one of another authority, or of the cluster's own: no connection.
    status, said = nobody(direct, body)
    assert (status, "a client certificate" in said) == (403, True), said
    strangers = pki.Authority(direct.auth.folder / "strangers", "client-ca")
    for pair in (strangers.issue("client", "kube-apiserver", client=True), direct.plane.admin, direct.auth.serving):
        with pytest.raises((ssl.SSLError, ConnectionError, OSError)):
            direct.auth.post("/authenticate", body, pair=pair)
    # Plain HTTP.
    with socket.create_connection(("127.0.0.1", direct.auth.port), 5) as plain:
        plain.sendall(b"POST /authenticate HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        plain.settimeout(10)
        try:
            said_plain = plain.recv(65536)
        except ConnectionError:
            said_plain = b""
    assert b"authenticated" not in said_plain
    assert direct.auth.get("/healthz") == direct.auth.get("/readyz") == 200
    assert direct.auth.get("/metrics") == 403, "not unless it is switched on"


def nobody(direct: Direct, body: bytes) -> tuple[int, str]:
    with (
        socket.create_connection(("127.0.0.1", direct.auth.port), 5) as raw,
        direct.auth.context().wrap_socket(raw, server_hostname="127.0.0.1") as it,
    ):
        it.sendall(
            b"POST /authenticate HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        it.sendall(body)
        got = b""
        while data := it.recv(65536):
            got += data
    return int(got.split(b" ")[1]), got.decode()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "not a TokenReview"),
        (b"{", 400, "not a TokenReview"),
        (b"[" * 100_000, 400, "not a TokenReview"),
        (b"\xff\xfe{}", 400, "not a TokenReview"),
        (b"{}", 400, "only"),
        (
            b'{"apiVersion":"authentication.k8s.io/v1beta1","kind":"TokenReview","spec":{"token":"x"}}',
            400,
            "-version=v1",
        ),
        (b'{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"token":"x"}}', 400, "only"),
        (b'{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":7}}', 400, "not a Tok"),
        (b'{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{}}', 400, "no token"),
        (b'{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview"}', 400, "not a TokenReview"),
        (
            b'{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","status":{"authenticated":true},'
            b'"spec":{"token":"x"}}',
            200,
            '"authenticated":false',
        ),
        (
            b'{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"' + b"a" * 9000 + b'"}}',
            200,
            '"authenticated":false',
        ),
        (b" " * (257 * 1024), 413, "at most"),
    ],
)
def test_what_is_no_review_is_refused_in_words(direct: Direct, body: bytes, status: int, said: str) -> None:
    for path in ("/authenticate", "/revocation"):
        code, answer = direct.auth.post(path, body)
        assert b'"authenticated":true' not in answer
        assert b'"allowed":true' not in answer
        if path == "/authenticate":
            assert code == status, answer
            assert said in answer.decode()
        else:
            assert code in (400, 413), answer


def test_a_certificate_that_was_swapped_lets_nobody_in_and_shows_no_token(direct: Direct, bob: Person) -> None:
    """Somebody listens in the place of kube-api-auth, with a certificate for the name from another authority, and says
    yes to everything. The API server must not even show him the token."""
    token = direct.sealer.token(bob)
    let_in(direct, bob)
    assert direct.whoami(token) is not None
    good = direct.auth.serving
    impostor = pki.Authority(direct.auth.folder / "impostor", "webhook-ca")
    fresh = direct.sealer.token(bob)
    let_in(direct, bob)
    direct.auth.stop()
    swapped = impostor.issue("serving", "kube-api-auth", names=["127.0.0.1"], server=True)
    direct.auth.settings |= {"tls_cert": str(swapped.crt), "tls_key": str(swapped.key)}
    try:
        with pytest.raises(AssertionError):
            direct.auth.start()  # nobody who pins the authority gets an answer
        assert direct.whoami(fresh) is None
        assert direct.may(token) in (401, 500), "and the guard, whom nobody can ask, denies"
    finally:
        direct.auth.stop()
        direct.auth.settings |= {"tls_cert": str(good.crt), "tls_key": str(good.key)}
        direct.auth.start()
    assert direct.whoami(fresh) is not None


def test_without_kube_api_auth_nobody_of_ours_gets_in_and_others_do(direct: Direct, bob: Person) -> None:
    token, unused = direct.sealer.token(bob), direct.sealer.token(bob)
    let_in(direct, bob)
    assert direct.may(token) == 200
    account = direct.plane.kubectl(
        "create", "token", "mooring-kube-api-auth", "--namespace", NAMESPACE, "--duration", "1h"
    ).stdout.strip()
    direct.auth.stop(signal.SIGKILL)
    try:
        time.sleep(1.2)  # what the API server keeps of the guard's last answer
        begin = time.monotonic()
        status, said = direct.call(token, "/api/v1/namespaces/default/configmaps")
        print(f"kube-api-auth is gone: {status} after {time.monotonic() - begin:.1f} s: {said['message']}")
        assert status == 500, "still known, but nobody can say whether it was revoked"
        assert direct.whoami(unused) is None
        known = direct.whoami(account)
        assert known is not None
        assert known["username"] == f"system:serviceaccount:{NAMESPACE}:mooring-kube-api-auth"
        assert direct.plane.kubectl("get", "namespaces").returncode == 0
    finally:
        direct.auth.start()
    until("back", lambda: direct.may(token) == 200)


def test_it_starts_without_the_api_server_and_serves_from_disk(direct: Direct, bob: Person) -> None:
    token = direct.sealer.token(bob)
    let_in(direct, bob)
    direct.plane.kill_api()
    try:
        assert direct.auth.ask(token)["authenticated"], "the API server is away, and it goes on"
        direct.auth.stop(signal.SIGKILL)
        took = direct.auth.start()
        print(f"first answer {took:.2f} s after the start")
        assert direct.auth.ask(token)["authenticated"]
    finally:
        direct.plane.start_api()
    assert direct.may(token) == 200
    bob.tokens.clear()
    direct.deliver([bob])
    direct.refused_within(token, 2.0 + DELIVERED_AND_GUARDED)


def test_removing_the_secret_ends_it_for_everybody(direct: Direct, bob: Person) -> None:
    token = direct.sealer.token(bob)
    let_in(direct, bob)
    assert direct.may(token) == 200
    direct.plane.kubectl("-n", NAMESPACE, "delete", "secret", "mooring-endpoint")
    direct.refused_within(token, DELIVERED_AND_GUARDED)
    let_in(direct, bob)
    until("back", lambda: direct.may(token) == 200)
    direct.auth.stop()
    direct.plane.kubectl("-n", NAMESPACE, "delete", "secret", "mooring-endpoint")
    direct.auth.start()
    until("nobody", lambda: not direct.auth.ask(token)["authenticated"])


def test_its_own_account_reads_the_tokens_of_the_endpoint_and_nothing_else(direct: Direct, bob: Person) -> None:
    let_in(direct, bob)
    account = json.loads((direct.auth.folder / "own.kubeconfig").read_text())["users"][0]["user"]["token"]
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    assert direct.call(account, f"{secrets}/mooring-endpoint")[0] == 200
    for path in (secrets, f"{secrets}/mooring-agent-identity", "/api/v1/secrets", "/api/v1/namespaces", "/api/v1/pods"):
        assert direct.call(account, path)[0] == 403, path
    assert direct.call(account, f"{secrets}/mooring-endpoint", "PUT", {})[0] == 403
