# SPDX-License-Identifier: Apache-2.0
"""The agent's half of the authorized cluster endpoint: the tokens that the server signs, brought into the cluster.

    endpoint message -> fetch (only shards that changed) -> check: signature, cluster, revision, names
                     -> vault: Secrets of the shards, then of the index, then what is left over is removed
    the link to the server, and whoever touches these Secrets -> the same vault
    nodes, CA, digest -> endpoint-status

Who reads the Secrets (`kube-api-auth` on the control plane, or the endpoint that an agent serves itself) trusts no one
on the way: the signature is checked there again. This half keeps what is there whole and new.
"""
