# SPDX-License-Identifier: Apache-2.0
"""The test bed itself: what the other tests stand on, and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.road import until
from testbed import ControlPlane, Machines, Run, TestbedError, binaries, images, network, state

TESTS = Path(__file__).resolve().parents[1]


def eventually(condition: Callable[[], object], timeout: float = 30.0) -> None:
    assert state.until(lambda: bool(condition()), timeout, 0.1), "it did not happen in time"


# -- control planes


def test_the_control_plane_is_the_pinned_kubernetes(control_plane: ControlPlane) -> None:
    version = json.loads(control_plane.kubectl("get", "--raw", "/version").stdout)
    assert version["gitVersion"] == binaries.KUBERNETES_VERSION or binaries.assets_folder()
    assert control_plane.kubectl("auth", "whoami", "-o", "name").returncode == 0


def test_its_kubeconfig_is_private_and_holds_its_certificates(control_plane: ControlPlane) -> None:
    assert control_plane.kubeconfig.stat().st_mode & 0o777 == 0o600
    config = json.loads(control_plane.kubeconfig.read_text())
    assert config["clusters"][0]["cluster"]["server"] == control_plane.server
    assert "certificate-authority-data" in config["clusters"][0]["cluster"]
    assert "client-key-data" in config["users"][0]["user"]


def test_two_stand_side_by_side(control_plane: ControlPlane, testbed_run: Run) -> None:
    with ControlPlane("second") as second:
        assert second.server != control_plane.server
        second.kubectl("create", "namespace", "only-here")
        assert "only-here" in second.kubectl("get", "namespaces").stdout
        assert "only-here" not in control_plane.kubectl("get", "namespaces").stdout
        refused = second.kubectl("get", "namespaces", "--server", control_plane.server, check=False)
        assert "certificate signed by unknown authority" in refused.stderr
        folder = second.run.folder
    assert not folder.exists()


@pytest.mark.timeout(300)
def test_the_api_server_stops_dies_and_comes_back_with_its_data() -> None:
    with ControlPlane("restarts") as cluster:
        cluster.kubectl("create", "configmap", "kept", "-n", "default")
        cluster.stop_api()
        assert not cluster.healthy()
        cluster.start_api()
        cluster.kill_api()
        assert not cluster.healthy()
        cluster.start_api()
        cluster.kubectl("get", "configmap", "kept", "-n", "default")


def test_the_audit_log_shows_who_is_impersonated(control_plane: ControlPlane) -> None:
    control_plane.kubectl("get", "nodes", "--as", "mooring:alice", "--as-group", "mooring:developers", check=False)
    event = control_plane.wait_for_audit(lambda e: e.get("impersonatedUser", {}).get("username") == "mooring:alice")
    assert event["impersonatedUser"]["groups"] == ["mooring:developers", "system:authenticated"]
    assert event["responseStatus"]["code"] == 403


def test_the_audit_log_shows_the_end_of_a_watch(control_plane: ControlPlane) -> None:
    watch = subprocess.Popen(
        [control_plane.bin / "kubectl", "get", "secrets", "--watch", "-n", "kube-public"],
        env=control_plane.env(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def of_watch(stage: str) -> Callable[[dict[str, object]], bool]:
        return lambda e: (
            e["verb"] == "watch" and "namespaces/kube-public/secrets" in str(e["requestURI"]) and e["stage"] == stage
        )

    try:
        begun = control_plane.wait_for_audit(of_watch("ResponseStarted"))
        assert not any(of_watch("ResponseComplete")(event) for event in control_plane.audit_events())
    finally:
        watch.kill()
        watch.wait()
    assert control_plane.wait_for_audit(of_watch("ResponseComplete"))["auditID"] == begun["auditID"]


# -- programs


def test_a_ready_assets_folder_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert binaries.assets_folder() is None
    for name in binaries.ASSETS:
        (tmp_path / name).touch(mode=0o755)
    assert binaries.ensure("api") == tmp_path
    assert binaries.ensure("etcd", "kubectl") == tmp_path


def test_an_unknown_program_is_refused_by_name() -> None:
    with pytest.raises(TestbedError, match="no program or group 'kubelt'"):
        binaries.ensure("kubelt")


# -- nodes


@pytest.mark.nodes
@pytest.mark.timeout(300)
def test_nodes_run_a_workload(cluster_with_nodes: ControlPlane) -> None:
    cluster = cluster_with_nodes
    assert [node["metadata"]["name"] for node in cluster.get("nodes")["items"]] == ["n1", "n2"]
    cluster.kubectl("create", "namespace", "bed")
    try:
        cluster.apply(*workload())
        cluster.kubectl("rollout", "status", "daemonset/web", "-n", "bed", "--timeout=60s")
        pods = cluster.get("pods", "-n", "bed", "-l", "app=web")["items"]
        assert sorted(pod["spec"]["nodeName"] for pod in pods) == ["n1", "n2"]
        names = [pod["metadata"]["name"] for pod in pods]
        assert "serving" in cluster.kubectl("logs", names[0], "-n", "bed").stdout
        echoed = cluster.kubectl("exec", "-i", names[0], "-n", "bed", "--", "cat", input="to and fro")
        assert echoed.stdout == "to and fro"
        assert cluster.kubectl("exec", names[0], "-n", "bed", "--", "sh", "-c", "exit 7", check=False).returncode == 7
        service = cluster.get("service", "web", "-n", "bed")["spec"]["clusterIP"]
        addresses = [pod["status"]["podIP"] for pod in pods]
        for name in names:
            for address in (service + ":80", *(f"{address}:8080" for address in addresses)):
                fetch = (
                    f"import urllib.request as u; print(u.urlopen('http://{address}/etc/hostname', timeout=10).read())"
                )
                words = ("exec", name, "-n", "bed", "--", "python3", "-c", fetch)
                # Ready says that the processes run; that they listen, and that kube-proxy knows them, follows.
                until(
                    f"{name} reaches {address}",
                    lambda words=words: "web-" in cluster.kubectl(*words, check=False).stdout,  # type: ignore[misc]
                )
        for tool in ("sh", "tar", "sha256sum", "stty"):  # kubectl cp and exec -t want these
            cluster.kubectl("exec", names[0], "-n", "bed", "--", "which", tool)
    finally:
        cluster.kubectl("delete", "namespace", "bed", "--wait=false")


@pytest.mark.nodes
def test_pods_have_no_way_out_and_are_told_so_at_once(cluster_with_nodes: ControlPlane) -> None:
    node = cluster_with_nodes.nodes[0]
    dial = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=20)"
    refused = node.exec(sys.executable, "-c", dial, check=False)
    assert "No route to host" in refused.stderr or "Network is unreachable" in refused.stderr


@pytest.mark.nodes
def test_nodes_leave_the_settings_of_this_machine_alone(cluster_with_nodes: ControlPlane) -> None:
    inside = cluster_with_nodes.nodes[0].exec("cat", "/proc/sys/kernel/panic_on_oops", "/proc/sys/kernel/panic").stdout
    assert inside.split() == ["1", "10"]
    init = cluster_with_nodes.nodes[0].pid.pid
    points = Path(f"/proc/{init}/mountinfo").read_text()
    assert "/proc/sys/kernel/panic_on_oops" in points  # a file of the node, mounted over the machine's


@pytest.mark.nodes
@pytest.mark.timeout(300)
def test_the_image_of_the_agent_runs_as_its_pod_wants(cluster_with_nodes: ControlPlane) -> None:
    cluster = cluster_with_nodes
    cluster.load(images.ensure_agent_image())
    security = {
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "agent", "image": images.AGENT, "imagePullPolicy": "Never", "securityContext": security}
    program = "import os, mooring.agent.main; print('user', os.getuid())"
    pods = {"entry-point": {"args": ["--version"]}, "imports": {"command": ["python", "-c", program]}}
    for name, words in pods.items():
        spec = {"restartPolicy": "Never", "containers": [{**container, **words}]}
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    try:
        for name in pods:
            done = "--for=jsonpath={.status.phase}=Succeeded"
            cluster.kubectl("wait", done, f"pod/{name}", "--timeout=60s", timeout=70)
        assert "0.1.0" in cluster.kubectl("logs", "entry-point").stdout
        assert cluster.kubectl("logs", "imports").stdout == "user 65532\n"
    finally:
        cluster.kubectl("delete", "pod", *pods, "--wait=false", "--ignore-not-found")


def test_the_containerfile_is_read_as_an_engine_reads_it() -> None:
    stage = images.read_containerfile(
        'FROM one AS build\nUSER 0\nENTRYPOINT ["no"]\nFROM two\nCOPY --from=build /opt/x /opt/x\n'
        'ENV A=1 \\\n    B="two words"\nUSER 65532:65532\nENTRYPOINT ["yes"]\nCMD ["agent"]\n'
    )
    assert stage.target == "/opt/x"
    assert stage.config.env == {"A": "1", "B": "two words"}
    assert (stage.config.user, stage.config.entrypoint, stage.config.command) == ("65532:65532", ["yes"], ["agent"])


def workload() -> list[dict[str, object]]:
    program = "print('serving', flush=True); import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8080)"
    container = {
        "name": "web",
        "image": "localhost/py:1",
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", program],
        "readinessProbe": {"httpGet": {"path": "/etc/hostname", "port": 8080}, "periodSeconds": 1},
        "securityContext": {
            "runAsUser": 65534,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    labels = {"app": "web"}
    pod = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}}
    metadata = {"name": "web", "namespace": "bed"}
    daemon_set = {"selector": {"matchLabels": labels}, "template": pod}
    service = {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}
    return [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": daemon_set},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]


# -- machines


@pytest.mark.machines
def test_machines_run_systemd_and_answer_ssh(machines: Machines) -> None:
    for machine in machines.machines:
        assert machine.ssh("systemctl is-system-running").stdout.strip() == "running"
        assert machine.ssh("hostname").stdout.strip() == machine.name
    assert machines["m1"].ssh("cat /etc/machine-id").stdout != machines["m2"].ssh("cat /etc/machine-id").stdout
    machines["m1"].ssh("ping -c1 -W5 m2 && ping -c1 -W5 testbed-host")
    out = machines["m1"].ssh("curl -s --max-time 20 http://192.0.2.1", check=False)
    assert out.returncode == 7  # refused, not timed out


@pytest.mark.machines
@pytest.mark.timeout(300)
def test_a_machine_reboots_and_keeps_its_disk(machines: Machines) -> None:
    machine = machines["m2"]
    machine.ssh("echo kept > /root/kept; echo kept > /var/lib/kept")
    before = machine.ssh("cat /proc/sys/kernel/random/boot_id").stdout
    machine.ssh("systemctl reboot", check=False)

    def rebooted() -> bool:
        now = machine.ssh("cat /proc/sys/kernel/random/boot_id", check=False, timeout=10)
        return now.returncode == 0 and now.stdout != before

    eventually(rebooted, 60)
    assert machine.ssh("cat /root/kept /var/lib/kept").stdout == "kept\nkept\n"
    machine.cut()
    assert machine.pid is None
    machine.up()
    assert machine.ssh("cat /root/kept").stdout == "kept\n"


@pytest.mark.machines
def test_ansible_reaches_machines_by_their_inventory(machines: Machines) -> None:
    ansible = [sys.executable, "-m", "ansible", "adhoc", "all", "-i", str(machines.inventory), "-m", "ping"]
    done = subprocess.run(ansible, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("pong") == 2


# -- nothing stays behind


class Traces:
    """What a run has on this machine, as its register says."""

    def __init__(self, run: Run) -> None:
        self.folders = [run.folder, run.work]
        self.pids = [process.pid for process in run.processes()]
        self.links = [Path("/sys/class/net", facts["name"]) for _unused, facts, _unused in run.records("link")]
        self.cgroups = [
            path for _unused, facts, _unused in run.records("cgroup") for path in state.cgroup_folders(facts["name"])
        ]
        self.rules = [facts["words"] for _unused, facts, _unused in run.records("rule")]

    def left(self) -> list[str]:
        found = [str(path) for path in (*self.folders, *self.links, *self.cgroups) if path.exists()]
        found += [f"pid {pid.pid}" for pid in self.pids if pid and pid.alive()]
        found += [point for folder in self.folders for point in state.mounts_under(folder)]
        rules = subprocess.run(["ip", "rule"], capture_output=True, text=True, check=True).stdout
        return found + [link.name for link in self.links if f"iif {link.name} " in rules]


KILLED = """
import signal, sys
from testbed import ControlPlane, Machines, Run
run = Run.create(sys.argv[1])
print("created", flush=True)
if "nodes" in sys.argv:
    ControlPlane(run=run, nodes=1).up()
else:
    ControlPlane(run=run).up()
if "machines" in sys.argv:
    Machines(1, run=run).up()
print("up", flush=True)
signal.pause()
"""


@pytest.fixture
def start_run() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    children: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, *words],
            env={**os.environ, "PYTHONPATH": str(TESTS)},
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()
    state.sweep()


Start = Callable[..., subprocess.Popen[str]]


def killed_when(child: subprocess.Popen[str], line: str) -> Run:
    assert child.stdout is not None
    while (said := child.stdout.readline()) != f"{line}\n":
        assert said, "the run ended by itself"
    child.send_signal(signal.SIGKILL)
    child.wait()
    return Run(state.root() / "runs" / str(child.args[3]))  # type: ignore[index]


def test_what_a_killed_run_leaves_is_removed_by_the_next(start_run: Start) -> None:
    dead = killed_when(start_run("killed-plain"), "up")
    traces = Traces(dead)
    assert len(traces.pids) == 2
    assert all(pid and pid.alive() for pid in traces.pids)
    fresh = Run.create()
    try:
        assert traces.left() == []
    finally:
        fresh.teardown()


def test_a_run_killed_while_it_starts_leaves_nothing(start_run: Start) -> None:
    dead = killed_when(start_run("killed-early"), "created")
    traces = Traces(dead)
    assert "killed-early" in state.sweep()
    assert traces.left() == []


@pytest.mark.nodes
@pytest.mark.machines
@pytest.mark.timeout(300)
def test_nodes_and_machines_of_a_killed_run_are_removed(start_run: Start) -> None:
    dead = killed_when(start_run("killed-whole", "nodes", "machines"), "up")
    traces = Traces(dead)
    assert traces.links
    assert traces.cgroups
    assert len(traces.left()) > 10
    assert "killed-whole" in state.sweep()
    assert traces.left() == []


@pytest.mark.nodes
@pytest.mark.timeout(300)
def test_nodes_of_a_run_killed_while_they_start_are_removed(start_run: Start) -> None:
    child = start_run("killed-nodes", "nodes")
    run = Run(state.root() / "runs" / "killed-nodes")
    eventually(lambda: run.folder.exists() and run.records("cgroup"), 90)
    child.send_signal(signal.SIGKILL)
    child.wait()
    traces = Traces(run)
    assert "killed-nodes" in state.sweep()
    assert traces.left() == []


def test_a_living_run_is_not_swept(testbed_run: Run) -> None:
    assert testbed_run.id not in state.sweep()
    assert testbed_run.folder.exists()


@pytest.mark.nodes
def test_a_raised_setting_is_restored_by_the_last_that_needed_it() -> None:
    network.need_root("settings")
    name = "fs/inotify/max_queued_events"  # nobody else's
    setting = Path("/proc/sys", name)
    before = int(setting.read_text())
    one, two = Run.create(), Run.create()
    try:
        state.raise_setting(one, name, before + 1)
        state.raise_setting(two, name, before + 2)
        one.teardown()
        assert int(setting.read_text()) == before + 2
        two.teardown()
        assert int(setting.read_text()) == before
    finally:
        setting.write_text(str(before))


def test_a_process_that_got_a_recorded_number_is_not_killed(tmp_path: Path) -> None:
    run = Run.create()
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        now = state.Pid.of(stranger.pid)
        assert now is not None
        pidfile = tmp_path / "pid"
        text = Path(f"/proc/{stranger.pid}/stat").read_text()
        pidfile.write_text(text.replace(f" {now.start} ", f" {now.start - 1} "))
        run.record("process", name="stranger", pidfile=str(pidfile), log=str(tmp_path / "log"))
        run.teardown()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.timeout(300)
def test_the_command_line_starts_once_and_removes(tmp_path: Path) -> None:
    def testbed(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        argv = [sys.executable, "-m", "testbed", *words]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=140, check=False)

    name, folder = "cli-check", tmp_path / "bed"
    place = ["--name", name, "--dir", str(folder)]
    try:
        first = testbed("up", *place)
        assert first.returncode == 0, first.stderr
        facts = json.loads(first.stdout)
        assert Path(facts["kubeconfig"]) == folder / "admin.kubeconfig"
        started = time.monotonic()
        again = testbed("up", *place)
        assert json.loads(again.stdout) == facts, f"made anew after {time.monotonic() - started:.1f} s: {again.stderr}"
        assert testbed("status", "--name", name).returncode == 0
    finally:
        down = testbed("down", *place)
    assert down.returncode == 0, down.stderr
    assert not folder.exists()
    assert testbed("status", "--name", name).returncode == 1
