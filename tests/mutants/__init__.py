# SPDX-License-Identifier: Apache-2.0
"""Is each guard of the service proved by a test? Each is switched off in a copy of the source, and a test must notice.

    guards_*   the tables: a guard, the text that makes it, the text that switches it off, the tests that must notice
    changed    those that a change concerns: `make mutants CHANGED=COMMIT`
    warm       a process that has imported other people's packages, and forks for each run
    __main__   runs the list, each guard in a copy of the source: `make mutants`, `make mutants ONLY=name`

A guard that two places keep (the server and the agent, say) is switched off in both for the attack book, or in one for
the unit tests of that place. It must never change the working tree.
"""
