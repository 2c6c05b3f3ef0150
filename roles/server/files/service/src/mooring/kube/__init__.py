# SPDX-License-Identifier: Apache-2.0
"""Kubernetes vocabulary: Status errors and the objects of the import manifest."""
