# SPDX-License-Identifier: Apache-2.0
"""The policy of this cluster: what the server announces is fetched, verified, kept and applied, and then held.

    policy message -> fetch -> signature, cluster, revision -> what a policy may say -> vault -> applier
    at the start:                                    vault -> signature, cluster -> applier

Without a policy, and without the right to manage roles (profile `proxy-only`), it waits and does nothing at all.

It must not: apply what it has not kept, what the pinned key did not sign for this very cluster, or a revision that is
lower than the last one, unless the cluster was registered anew since then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from mooring.agent.identity import BadIdentity, Identity, Registrations
from mooring.agent.lease import Lease
from mooring.agent.policy.applier import FLIGHT, Applier
from mooring.agent.policy.cluster import Cluster
from mooring.agent.policy.desired import Desired, Unacceptable, accept
from mooring.agent.policy.fetch import NoPolicy, get_bundle
from mooring.agent.policy.kinds import KINDS
from mooring.agent.policy.report import Report
from mooring.agent.policy.timekeeper import Timekeeper
from mooring.agent.policy.vault import About, Kept, TooLarge, Vault
from mooring.agent.policy.watch import Watcher
from mooring.agent.serverapi import addresses
from mooring.agent.servertime import ServerTime, Verdict
from mooring.kube.access import BadConfig
from mooring.kube.client import KubeApi, KubeError
from mooring.kube.names import POLICY_NAME
from mooring.lib import logging
from mooring.lib.backoff import Backoff
from mooring.lib.clock import Clock
from mooring.lib.tasks import Supervisor
from mooring.net.fetch import FetchError
from mooring.net.tls import BadTrust
from mooring.wire.bundle import BadBundle, Bundle, decode
from mooring.wire.sealed import public_key

CONNECTIONS: Final = 2 * FLIGHT + len(KINDS) + 4
"""To the API server: writes, watches, and the Secrets that are read at once."""
MAX_KEY: Final = 64
MAX_DIGEST: Final = 128
BUNDLE: Final = "policy"
"""What an error is of that concerns the policy as a whole."""
_ATTEMPT: Final = (KubeError, FetchError, BadConfig)
_REFUSED: Final = (BadBundle, Unacceptable, TooLarge)


class PolicyAgent:
    """Runs for as long as the agent does."""

    def __init__(
        self,
        kube: KubeApi,
        namespace: str,
        registrations: Registrations,
        send: Callable[[dict[str, Any]], None],
        *,
        clock: Clock,
        time: ServerTime,
        holder: str,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._registrations = registrations
        self._clock = clock
        self._jwt_time = time
        self._cluster = Cluster(kube, namespace)
        self._vault = Vault(kube, namespace)
        self._lease = Lease(kube, namespace, holder, clock, name=POLICY_NAME, work="applies the policy")
        self._report = Report(send, clock, holder)
        self._tasks = Supervisor("policy")
        self._needed = asyncio.Event()  # there is, or may be, a policy
        self._asked = asyncio.Event()  # the server has announced one
        self._announced: tuple[int, str, str] = (0, "", "")
        self._log = logging.get("mooring.agent.policy")

    def heard(self, message: dict[str, Any]) -> None:
        """A control message of a server; others than `policy` are not for us."""
        revision, digest, key = message.get("revision"), message.get("digest"), message.get("key", "")
        if message.get("kind") != "policy":
            return
        if not isinstance(revision, int) or not isinstance(digest, str) or len(digest) > MAX_DIGEST:
            return
        self._announced = (revision, digest, key if isinstance(key, str) and len(key) <= MAX_KEY else "")
        self._needed.set()
        self._asked.set()

    def status(self) -> dict[str, Any] | None:
        """What a new session is told; None: nothing."""
        return self._report.message() if self._report.active else None

    async def run(self) -> None:
        """Works until cancelled."""
        self._tasks.spawn(self._report.run(self._cluster), "report")
        backoff = Backoff(1.0, 30.0)
        try:
            if await self._any_kept():
                self._needed.set()
            while True:
                await self._needed.wait()
                try:
                    profile = await self._cluster.profile()
                    self._report.profile = profile
                    if profile == "proxy-only":
                        await self._idle()
                    else:
                        await self._lease.hold(self._lead)
                    backoff.reset()
                except (*_ATTEMPT, BadIdentity) as error:
                    self._report.failed(BUNDLE, error.reason)
                    await asyncio.sleep(backoff.next())
                except Exception:  # a fault of ours: the policy is held again from the start, and not given up
                    self._log.exception("the policy is begun anew")
                    await asyncio.sleep(backoff.next())
        finally:
            await self._tasks.aclose()

    async def _any_kept(self) -> bool:
        """Whether there is a policy in the cluster from before."""
        backoff = Backoff(0.5, 10.0)
        while True:
            try:
                return await self._vault.load() is not None
            except KubeError as error:
                if error.status in (401, 403):
                    return False  # the manifest is of the profile proxy-only, or older than policies
            except (FetchError, BadConfig):
                pass
            await asyncio.sleep(backoff.next())

    async def _idle(self) -> None:
        """The profile does not let the agent do anything: says so, and waits for the next word."""
        self._report.desired = self._announced[0]
        self._report.active = True
        self._report.errors[BUNDLE] = (
            "the agent may not manage roles in this cluster: its profile is proxy-only;"
            " apply a manifest of another profile"
        )
        self._report.note()
        self._needed.clear()
        await self._needed.wait()
        self._report.active = False
        self._report.errors.pop(BUNDLE, None)

    async def _lead(self) -> None:
        """This agent applies the policy."""
        kept = await self._vault.load()
        time = Timekeeper(self._clock, kept.about.offset if kept is not None else 0.0)
        applier = Applier(self._cluster, time, self._report)
        watcher = Watcher(self._kube, applier)
        self._report.active = True
        try:
            uid = await self._cluster.uid()
            await _Leader(self, applier, watcher, time, uid).run(kept)
        finally:
            self._report.active = False
            await watcher.aclose()
            await applier.aclose()

    # --- for the leader ---------------------------------------------------------------------------------------------

    async def next_word(self) -> tuple[int, str, str]:
        """Waits until the server has announced a policy: revision, digest, key."""
        await self._asked.wait()
        self._asked.clear()
        return self._announced

    @property
    def newer(self) -> bool:
        """Whether the server has announced another since."""
        return self._asked.is_set()


class _Leader:
    """The work of the agent that holds the Lease."""

    def __init__(self, agent: PolicyAgent, applier: Applier, watcher: Watcher, time: Timekeeper, uid: str) -> None:
        self._agent = agent
        self._applier = applier
        self._watcher = watcher
        self._time = time
        self._uid = uid
        self._report = agent._report
        self._log = agent._log
        self._started = False
        self._revision = -1
        self._digest = ""
        self._registration = ""

    async def run(self, kept: Kept | None) -> None:
        """Applies what was kept, then what the server announces. Raises KubeError, FetchError, BadConfig and
        BadIdentity."""
        identity = await self._agent._registrations.load()
        if kept is not None:
            await self._resume(kept, identity)
        while True:
            revision, digest, key = await self._agent.next_word()
            self._report.desired = revision
            await self._look_at_profile()
            if digest == self._digest:
                self._report.applied = max(revision, self._report.applied)  # the same content under a later number
                self._report.right(BUNDLE)
                self._report.note()
                continue
            await self._get(key)

    async def _resume(self, kept: Kept, identity: Identity) -> None:
        try:
            bundle = self._verify(kept.data, identity)
            desired = accept(bundle.revision, bundle.sha256, bundle.objects, bundle.namespaces, self._agent._namespace)
        except _REFUSED as error:
            self._report.failed(BUNDLE, f"the policy that was kept in the cluster is not used: {error}")
            return
        self._registration = kept.about.registration
        await self._adopt(desired)

    async def _look_at_profile(self) -> None:
        """Another manifest may have been applied."""
        try:
            self._report.profile = await self._agent._cluster.profile()
        except _ATTEMPT as error:
            self._log.info("what the agent may do is not known just now", reason=str(error))

    async def _get(self, key: str) -> None:
        """Fetches until there is an answer, or a newer word."""
        backoff = Backoff(0.5, 30.0)
        tried = 0
        while True:
            try:
                identity = await self._pinned(key)
                bases = addresses(identity)
                if not bases:
                    raise BadIdentity("the agent knows no address of the server's API")
                await self._once(bases[tried % len(bases)], identity)
                self._report.right(BUNDLE)
                return
            except NoPolicy as error:
                refused = error.date if error.status in (401, 403) else None
                if refused is not None and self._agent._jwt_time.learn(refused) is Verdict.CORRECTED:
                    continue
                self._report.failed(BUNDLE, error.reason)
            except (*_ATTEMPT, BadIdentity, BadTrust) as error:
                self._report.failed(BUNDLE, error.reason)
            except _REFUSED as error:
                self._report.failed(BUNDLE, f"the server's policy is refused: {error}")
                return
            tried += 1
            try:
                async with asyncio.timeout(backoff.next()):
                    await self._agent._asked.wait()
            except TimeoutError:
                continue
            return

    async def _once(self, base: str, identity: Identity) -> None:
        fetched = await get_bundle(base, identity, self._agent._jwt_time.now(), self._digest)
        if fetched.date is not None:
            self._time.learn(fetched.date)
            self._applier.tick()
        if fetched.data is None:
            self._report.note()
            return
        bundle = self._verify(fetched.data, identity)
        if bundle.revision < self._revision and identity.join_token_id == self._registration:
            raise Unacceptable(
                f"it has the revision {bundle.revision}, and {self._revision} was applied already",
                "if the server was restored from a backup, register the cluster anew with a new join token",
            )
        desired = accept(bundle.revision, bundle.sha256, bundle.objects, bundle.namespaces, self._agent._namespace)
        about = About(registration=identity.join_token_id, offset=self._time.offset)
        await self._agent._vault.save(fetched.data, about)
        self._registration = about.registration
        await self._adopt(desired)

    async def _adopt(self, desired: Desired) -> None:
        self._revision, self._digest = desired.revision, desired.digest
        adopting = self._applier.adopt(desired)
        if not self._started:
            self._started = True
            self._applier.start()
            self._watcher.start()
        await adopting

    def _verify(self, data: bytes, identity: Identity) -> Bundle:
        key = public_key(identity.policy_key)
        if key is None:
            raise BadBundle("this cluster knows no key of the server for policies")
        return decode(data, key, identity.cluster_id, self._uid)

    async def _pinned(self, key: str) -> Identity:
        """The identity with the key that policies are signed with: the one that it has, or the first that is named."""
        identity = await self._agent._registrations.load()
        if not identity.policy_key and key:
            if public_key(key) is None:
                raise BadIdentity("the server names a key for policies that is none")
            identity = replace(identity, policy_key=key)
            await self._agent._registrations.save(identity)
            self._log.info("the server's key for policies is pinned")
        elif key and key != identity.policy_key:
            raise BadIdentity(
                "the server names another key for policies than the one that is pinned",
                "register the cluster anew with a new join token",
            )
        return identity
