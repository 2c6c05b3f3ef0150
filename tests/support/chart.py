# SPDX-License-Identifier: Apache-2.0
"""A small helm chart: a ConfigMap that says its revision, and a Deployment of as many pods as it has sails."""

from __future__ import annotations

from pathlib import Path

CHART = {
    "Chart.yaml": "apiVersion: v2\nname: boat\nversion: 0.1.0\n",
    "values.yaml": "sails: 1\n",
    "templates/configmap.yaml": (
        'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: "{{ .Release.Name }}"}\n'
        'data: {sails: "{{ .Values.sails }}", revision: "{{ .Release.Revision }}"}\n'
    ),
    "templates/deployment.yaml": """
apiVersion: apps/v1
kind: Deployment
metadata: {name: "{{ .Release.Name }}"}
spec:
  replicas: {{ .Values.sails }}
  selector: {matchLabels: {app: "{{ .Release.Name }}"}}
  template:
    metadata: {labels: {app: "{{ .Release.Name }}"}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: "{{ .Values.image }}", imagePullPolicy: Never, command: [sleep, "100000"]}]
""",
}


def write(folder: Path) -> Path:
    """Write the chart into a folder and return that."""
    for name, text in CHART.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
