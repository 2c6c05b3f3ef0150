# SPDX-License-Identifier: Apache-2.0
"""The server, put together: the only place that wires parts to each other.

    supervisor (server)    owns the listening sockets and the certificate; starts, replaces and stops the others
      control              the database, the REST API, the clusters' states; one process
      worker 1..N          edge, proxy chain, tunnel sessions; all in memory, no database

    client -> worker: edge -> chain -> hub -> agent                 the data path
    client -> worker: edge -> unix socket -> control: api -> store  people and automation
    agent  -> worker: edge -> hub -> bus -> control                 what agents report

Every process but the supervisor may die at any time: it is replaced, and the others go on.
"""

from mooring.app.server import Server, run, serve

__all__ = ["Server", "run", "serve"]
