"""Pods as the Kubernetes templates start them: ready, together, and gone when told to be."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.deploy.test_templates import command_lines

from perdure.testing.postgres import fresh_database

_START_S = 60.0
_STOP_S = 45.0
_APP = """
from perdure import Actor, App, expose


class Counter(Actor):
    count: int = 0

    @expose
    async def add(self) -> int:
        self.count += 1
        return self.count


app = App(Counter)
"""


class Pod:
    """One process with a loopback address of its own, in place of a pod."""

    def __init__(self, name: str, address: str, ports: dict[str, str], folder: Path) -> None:
        self.place = f"{address}:{ports[':8000'][1:]}"
        arguments = []
        for argument in command_lines()[name]:
            for there, here in ports.items():
                argument = argument.replace(there, here)
            argument = argument.replace("0.0.0.0", address).replace("$(POD_IP)", address)
            arguments.append(argument)
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("perdure"), "run", *arguments],
            cwd=folder,
            env=os.environ | {"PERDURE_CLUSTER_KEY": "k" * 64},
        )

    def ask(self, method: str, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.place, timeout=10)
        try:
            connection.request(method, path)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    def is_ready(self) -> bool:
        try:
            return self.ask("GET", "/-/ready")[0] == 200
        except OSError:
            return False


def test_state_and_web_pods_find_each_other_and_a_state_pod_leaves(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(_APP)
    ports = {
        "postgresql://shop@postgres.database:5432/shop": fresh_database(),
        ":8000": f":{_free_port()}",
        ":7000": f":{_free_port()}",
    }
    kinds = {"127.0.1.2": "StatefulSet", "127.0.1.3": "StatefulSet", "127.0.1.4": "Deployment"}
    names = {"StatefulSet": "StatefulSet/shop-state", "Deployment": "Deployment/shop-web"}
    pods = [Pod(names[kind], address, ports, tmp_path) for address, kind in kinds.items()]
    try:
        end_s = time.monotonic() + _START_S
        while not all(pod.is_ready() for pod in pods):
            assert time.monotonic() < end_s
            assert all(pod.process.poll() is None for pod in pods)
            time.sleep(0.05)
        web = pods[-1]
        keys = [f"key-{number}" for number in range(20)]  # on both state pods
        assert {web.ask("POST", f"/counter/{key}/add") for key in keys} == {(200, "1")}
        pods[0].process.send_signal(signal.SIGTERM)
        assert {web.ask("POST", f"/counter/{key}/add") for key in keys} == {(200, "2")}
        assert pods[0].process.wait(_STOP_S) == 0
        assert {web.ask("POST", f"/counter/{key}/add") for key in keys} == {(200, "3")}
    finally:
        for pod in pods:
            pod.process.terminate()
        for pod in pods:
            pod.process.wait(_STOP_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
