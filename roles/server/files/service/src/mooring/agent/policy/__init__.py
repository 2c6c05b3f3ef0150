# SPDX-License-Identifier: Apache-2.0
"""The agent's half of policies: what the server wants in the cluster is put there, and stays.

    service      one agent of several works (lease); a message of the server -> fetch -> verify -> vault -> applier
    fetch        the signed bundle, from the server
    vault        the last one, in Secrets of the cluster, for when the server is away
    desired      what a bundle may say at all; anything else is refused as a whole
    watch        what is in the cluster: a list, then a watch, of each kind
    applier      from one policy to the next, and back to it after each drift; ends bindings by the second
    cluster      the few writes: server-side apply, delete, namespaces
    report       policy-status for the server, Events for people

It must not: touch what is not the policy's own, or give a right for a moment that neither policy gives.
"""
