# SPDX-License-Identifier: Apache-2.0
"""kube-api-auth: tells a cluster's own API server who shows a token, from what is in the cluster: no server needed.

    Secrets -> follow -> copy (signature, no way back) -> book (who has this token, now)
                           |-> disk                        |-> tokenreview, revocation <- server <- kube-apiserver

It must not: need the server, a database or a REST framework, or ever answer that somebody *may* do something.
"""
