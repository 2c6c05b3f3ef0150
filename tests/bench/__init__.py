# SPDX-License-Identifier: Apache-2.0
"""The bench: Mooring beside a Go peer, nginx and the direct call, in one run on the same processors.

    __main__   one command: scenarios in turn, table, plot, results.json      options    what the environment asks for
    builds     Go programs, a venv for each source tree                       processes  start, stop, CPU and memory
    upstream   nginx and the stub that stand for clusters                     roads      the ways to an upstream
    wrk        the load of the rates                                          link       namespaces and a slow link
    reviews    the load of TokenReviews
    scenarios/ a file each                                                    stats, goals, results, table, plot

It must not know anything of the service's insides but the tables that `identities` fills (5,000 registrations one by
one would take longer than the measurement).
"""
