# SPDX-License-Identifier: Apache-2.0
"""`python -m demo up | down | server-stop`: what `make demo`, `make demo-stop` and `make demo-server-stop` call."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from demo import direct, steps
from demo.steps import DEMO, LOG, ROOT, StepFailed, fetch, run, running, start, step, until
from demo.walk import walk, walk_directly, walk_without

BIN = Path(sys.executable).parent
SERVER = DEMO / "server"
PASSWORDS = DEMO / "passwords"
CLUSTER = "demo"
TESTBED = "mooring-demo"
NAMESPACE = "mooring-demo"  # where Bob works, as demo/bob.yml has it


def write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def password(name: str) -> Path:
    path = PASSWORDS / name
    if not path.exists():
        write_private(path, secrets.token_urlsafe(18))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment() -> dict[str, str]:
    """`.demo/admin.env` as a mapping: what the collection and the command line read."""
    lines = (DEMO / "admin.env").read_text().splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))


# --- the steps


def cluster(user_kubeconfig: str | None) -> tuple[Path, Path]:
    """A cluster to import: returns its administrator's kubeconfig and the kubectl to use."""
    if user_kubeconfig:
        with step(f"Use the cluster of {user_kubeconfig}"):
            kubeconfig = Path(user_kubeconfig).expanduser().absolute()
            kubectl = shutil.which("kubectl")
            if not kubeconfig.is_file():
                raise StepFailed(f"there is no file {kubeconfig}")
            if not kubectl:
                raise StepFailed("kubectl is not in PATH")
            run([kubectl, "--kubeconfig", kubeconfig, "get", "--raw", "/readyz"], "cluster", deadline=30)
            return kubeconfig, Path(kubectl)

    from testbed import binaries
    from testbed.errors import TestbedError

    with step("Find or build etcd, kube-apiserver and kubectl"):
        try:
            folder = binaries.ensure("api")
        except TestbedError as error:
            raise StepFailed(f"{error}") from error
        print(f"   {folder}")
    with step("Start a cluster: etcd and kube-apiserver"):
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "testbed",
            "up",
            "--name",
            TESTBED,
            "--dir",
            DEMO / "cluster",
            *(f"--api-arg={flag}" for flag in direct.flags()),
        ]
        facts = json.loads(run(command, "cluster", deadline=120))
        version = run([folder / "kubectl", "--kubeconfig", facts["kubeconfig"], "version"], "cluster")
        print(f"   {facts['server']}, {version.splitlines()[-1]}")
    return Path(facts["kubeconfig"]), folder / "kubectl"


def server() -> None:
    with step("Start the Mooring server"):
        config = SERVER / "mooring.toml"
        if not config.exists():
            url = f"https://127.0.0.1:{free_port()}"
            run(
                [BIN / "mooring", "server", "init", "--data", SERVER, "--listen", url.removeprefix("https://"),
                 "--url", url, "--admin-password-file", password("admin")],
                "server-init",
            )  # fmt: skip
            (DEMO / "url").write_text(url)
        url = (DEMO / "url").read_text()
        if not running("server"):
            log = start("server", [BIN / "mooring", "server", "run", "--config", config])
        else:
            log = LOG / "server.log"

        def ready() -> bool:
            if not running("server"):
                raise StepFailed("the server ended", log)
            said = fetch(f"{url}/readyz", SERVER / "tls" / "ca.crt")
            return b'"ready"' in said or b"ok" in said

        until(f"{url}/readyz", ready, 30, log)
        print(f"   {url}")
    with step("Log in as the administrator"):
        home = {"XDG_CONFIG_HOME": str(DEMO / "admin")}
        run(
            [BIN / "mooring", "login", url, "--username", "admin", "--password-file", password("admin"),
             "--ca-file", SERVER / "tls" / "ca.crt"],
            "login", env=home,
        )  # fmt: skip
        run(
            [BIN / "mooring", "token", "create", "--description", f"demo {time.time():.0f}", "--ttl", "24h",
             "--file", DEMO / "admin.token"],
            "login-token", env=home,
        )  # fmt: skip
        token = (DEMO / "admin.token").read_text().strip()
        write_private(
            DEMO / "admin.env",
            f"export MOORING_URL={url}\nexport MOORING_TOKEN={token}\n"
            f"export MOORING_CA_FILE={SERVER / 'tls' / 'ca.crt'}\n",
        )
        print("   .demo/admin.env holds MOORING_URL, MOORING_TOKEN and MOORING_CA_FILE")


def announce(kubeconfig: Path, kubectl: Path) -> None:
    """Tell the server of the cluster's own endpoint, before the cluster is imported: its manifest depends on it."""
    with step("Say that people may go straight to the cluster: mooring cluster endpoint set"):
        view: list[str | Path] = [kubectl, "--kubeconfig", kubeconfig, "config", "view", "--raw", "--minify", "-o"]
        address = run([*view, "jsonpath={.clusters[0].cluster.server}"], "endpoint").removeprefix("https://")
        mooring: list[str | Path] = [BIN / "mooring", "cluster"]
        if CLUSTER not in run([*mooring, "list"], "endpoint", env=environment()):
            run([*mooring, "create", CLUSTER], "endpoint", env=environment())
        fqdn = address.replace("127.0.0.1", "localhost")
        words: list[str | Path] = [
            "--mode",
            "webhook",
            "--fqdn",
            fqdn,
            "--ca-file",
            DEMO / "cluster" / "pki" / "ca.crt",
        ]
        run([*mooring, "endpoint", "set", CLUSTER, *words], "endpoint", env=environment())
        print(f"   {address}, for an hour each: a token of this cluster and of no other")


def endpoint_facts() -> dict[str, Any]:
    """What kube-api-auth has to know of the cluster."""
    return dict(json.loads(run([BIN / "mooring", "cluster", "endpoint", "show", CLUSTER, "-o", "json"], "endpoint",
                               env=environment())))  # fmt: skip


def playbook(name: str, **variables: object) -> list[str]:
    words = [str(BIN / "ansible-playbook"), name]
    for key, value in variables.items():
        words += ["-e", f"{key}={value}"]
    return words


def ansible_environment() -> dict[str, str]:
    link = DEMO / "collections" / "ansible_collections" / "mooring" / "fleet"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(ROOT)
    return {
        **environment(),
        "ANSIBLE_COLLECTIONS_PATH": str(DEMO / "collections"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_HOME": str(DEMO / "ansible"),
    }


def import_cluster(kubeconfig: Path, kubectl: Path) -> None:
    """Run the playbook, and beside it what a kubelet would do: start the agent once its manifest is there."""
    log = LOG / "import.log"
    with step("Import the cluster with ansible-playbook mooring.fleet.import_cluster"):
        words = playbook(
            "mooring.fleet.import_cluster",
            mooring_cluster_name=CLUSTER, mooring_cluster_kubeconfig=kubeconfig, mooring_agent_workload="none",
        )  # fmt: skip
        with log.open("a") as output, subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, **ansible_environment()}, stdout=output, stderr=output,
            stdin=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            end = time.monotonic() + 180
            while process.poll() is None:
                if time.monotonic() > end:
                    process.terminate()
                    raise StepFailed("the playbook was not done after 180 s", log)
                if not running("agent"):
                    start_agent(kubeconfig, kubectl)
                time.sleep(0.2)
        if process.returncode:
            raise StepFailed(f"the playbook ended with {process.returncode}", log)
        for line in steps.last_lines(log, 4):
            print(f"   {line}" if line.strip() else "", end="\n" if line.strip() else "")


def start_agent(kubeconfig: Path, kubectl: Path) -> None:
    """Start the agent as a process with the rights of its service account, if the playbook has applied its manifest."""
    path = DEMO / "agent.kubeconfig"
    base = [str(kubectl), "--kubeconfig", str(kubeconfig)]
    token = subprocess.run(
        [*base, "create", "token", "mooring-agent", "--namespace", "mooring-system", "--duration", "24h"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    if token.returncode:
        return
    view = subprocess.run(
        [*base, "config", "view", "--raw", "--minify", "--flatten", "-o",
         "jsonpath={.clusters[0].cluster.server} {.clusters[0].cluster.certificate-authority-data}"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    address, authority = view.stdout.split()
    write_private(
        path,
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        f"clusters: [{{name: c, cluster: {{server: '{address}', certificate-authority-data: {authority}}}}}]\n"
        f"users: [{{name: u, user: {{token: {token.stdout.strip()}}}}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\n",
    )
    start("agent", [BIN / "mooring", "agent", "--kubeconfig", path])


def bob(kubectl: Path, has_direct: bool) -> None:
    with step("Make Bob, his team and its role: demo/bob.yml"):
        run(
            [BIN / "mooring", "kubeconfig", "--token", "-o", DEMO / "admin.kubeconfig"], "kubeconfig", env=environment()
        )
        words = playbook(
            "demo/bob.yml",
            demo_admin_kubeconfig=DEMO / "admin.kubeconfig",
            demo_bob_password_file=password("bob"),
        )
        out = run(words, "bob", env=ansible_environment())
        print("   " + out.strip().splitlines()[-1])
    with step("Bob logs in and gets his kubeconfig"):
        home = {"XDG_CONFIG_HOME": str(DEMO / "bob")}
        url = (DEMO / "url").read_text()
        run(
            [BIN / "mooring", "login", url, "--username", "bob", "--password-file", password("bob"),
             "--ca-file", SERVER / "tls" / "ca.crt"],
            "bob-login", env=home,
        )  # fmt: skip
        run([BIN / "mooring", "kubeconfig", "--token", "-o", DEMO / "bob.kubeconfig"], "bob-kubeconfig", env=home)
        contexts = [CLUSTER, *[f"{CLUSTER}-fqdn"] * has_direct]
        for context in contexts:
            words = ["config", "set-context", context, "--namespace", NAMESPACE]
            run([kubectl, "--kubeconfig", DEMO / "bob.kubeconfig", *words], "bob-kubeconfig")
        print(f"   .demo/bob.kubeconfig, in the namespace {NAMESPACE}; contexts: {', '.join(contexts)}")
    with step("What Bob runs"):
        walk(kubectl)
    if has_direct:
        with step(f"What Bob runs on the context {CLUSTER}-fqdn, straight to the cluster"):
            walk_directly(kubectl, f"{CLUSTER}-fqdn")


def up(user_kubeconfig: str | None) -> None:
    begin = time.monotonic()
    for folder in (DEMO, LOG, PASSWORDS, DEMO / "bin"):
        folder.mkdir(mode=0o700, exist_ok=True)
    chosen = DEMO / "chosen"
    choice = user_kubeconfig or "test bed"
    if chosen.exists() and chosen.read_text() != choice:
        sys.exit(f"The demo that is up uses another cluster ({chosen.read_text()}). Run `make demo-stop` first.")
    chosen.write_text(choice)
    kubeconfig, kubectl = cluster(user_kubeconfig)
    link = DEMO / "bin" / "kubectl"
    link.unlink(missing_ok=True)
    link.symlink_to(kubectl)
    server()
    # Flags of an API server that is somebody's own are not the demo's to set.
    has_direct = user_kubeconfig is None
    if has_direct:
        announce(kubeconfig, kubectl)
    import_cluster(kubeconfig, kubectl)
    if has_direct:
        direct.begin(kubectl, kubeconfig, endpoint_facts())
    bob(kubectl, has_direct)
    print(
        f"""
The demo is up ({time.monotonic() - begin:.0f} s). Try:

  export PATH=$PWD/.demo/bin:$PATH
  kubectl --kubeconfig .demo/bob.kubeconfig get --raw /version
  kubectl --kubeconfig .demo/bob.kubeconfig auth can-i --list
  kubectl --kubeconfig .demo/admin.kubeconfig get namespaces
  source .demo/admin.env && .venv/bin/mooring cluster list
  tail -n 3 .demo/server/audit.log                          # who did what
{STOPPED if has_direct else ""}  make demo-stop                                            # remove it all"""
    )


STOPPED = """\
  kubectl --kubeconfig .demo/bob.kubeconfig --context demo-fqdn get configmaps   # straight to the cluster
  make demo-server-stop                                     # the same without the server
"""


def server_stop() -> None:
    """Stop the server, see that Bob goes on, and start it again."""
    if not running("server") or not direct.KEPT.exists():
        sys.exit("There is no demo with a direct context that is up: run `make demo` first.")
    kubectl = (DEMO / "bin" / "kubectl").resolve()
    with step("Stop the server, as a crash does: kill -9"):
        steps.stop("server", crash=True)
    try:
        with step("What Bob runs through the server"):
            walk_without(kubectl, CLUSTER)
        with step(f"What Bob runs on the context {CLUSTER}-fqdn"):
            walk_directly(kubectl, f"{CLUSTER}-fqdn")
    finally:
        server()

    def connected() -> bool:
        done = run([BIN / "mooring", "cluster", "get", CLUSTER, "-o", "json"], "connected", env=environment())
        return bool(json.loads(done)["state"] == "connected")

    with step("The agent comes back by itself"):
        until("the cluster is connected", connected, 60, LOG / "agent.log")
        walk_directly(kubectl, CLUSTER)


def down() -> None:
    if not DEMO.exists():
        print("There is no demo.")
        return
    chosen = (DEMO / "chosen").read_text() if (DEMO / "chosen").exists() else ""
    if chosen not in ("", "test bed") and running("server"):
        remove_from(Path(chosen).expanduser().absolute())
    for name in ("kube-api-auth", "agent", "server"):
        steps.stop(name)
    if (DEMO / "cluster").exists():
        try:
            run(
                [sys.executable, "-m", "testbed", "down", "--name", TESTBED, "--dir", DEMO / "cluster"],
                "down",
                deadline=120,
            )
        except StepFailed as error:
            sys.exit(f"The cluster could not be removed: {error}, see {LOG / 'down.log'}")
    shutil.rmtree(DEMO)
    print("The demo is gone.")


def remove_from(kubeconfig: Path) -> None:
    """Take our objects out of a cluster that is the user's own."""
    kubectl: list[str | Path] = [DEMO / "bin" / "kubectl", "--kubeconfig", kubeconfig]
    try:
        run([*kubectl, "delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=90s"], "remove")
        run(
            playbook(
                "mooring.fleet.remove_cluster", mooring_cluster_name=CLUSTER, mooring_cluster_kubeconfig=kubeconfig
            ),
            "remove",
            env=ansible_environment(),
        )
    except StepFailed as error:
        sys.exit(f"The cluster still has Mooring's objects: {error}, see {error.log}. Nothing else was removed.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="demo", description="The product's main job on a real cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("up", help="start what is not running and run what Bob runs")
    command.add_argument("--kubeconfig", help="import this cluster instead of starting one")
    commands.add_parser("server-stop", help="stop the server, run Bob's kubectl directly, start the server again")
    commands.add_parser("down", help="remove all that `up` made")
    arguments = parser.parse_args()
    if arguments.command == "up":
        up(arguments.kubeconfig or None)
    elif arguments.command == "server-stop":
        server_stop()
    else:
        down()


if __name__ == "__main__":
    main()
