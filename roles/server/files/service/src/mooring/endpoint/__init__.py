# SPDX-License-Identifier: Apache-2.0
"""The endpoint that a cluster serves itself: the server's proxy chain, in the agent, with the local copy of who may.

    edge.listener -> entrance -> proxy.chain -> (authn.index <- feed <- webhook.copy) -> agent.local -> agent.dispatch
                                      |
                                   journal -> ship -> server            what was done, also while the server was away

Why: where nobody may set flags of the API server (hosted clusters), people reach the cluster directly all the same,
also while the server is away, as the same users with the same rights. It must not: hold a rule of its own about who may
do what, or do without a step of the chain.
"""
