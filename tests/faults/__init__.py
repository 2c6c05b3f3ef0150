# SPDX-License-Identifier: Apache-2.0
"""Faults: what users see when a part of the road breaks, how long until it works again, and that nothing is lost.

wire.py       a link in user space that loses, delays and cuts packets      link.py   its namespaces
bed.py        the road under test: server, agent behind the link, API server
probe.py      clients that read, write, watch and talk all the time, and note every outcome
verdict.py    what must hold of those notes
catalogue.py  the faults, a row each                                         soak.py   many of them at random
table.py      docs/faults.md from what was measured
"""
