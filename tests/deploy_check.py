#!/usr/bin/env python3
"""Holds deploy/systemd and deploy/haproxy against the real tools, with real servers: the unit is verified and rated by
systemd-analyze; behind HAProxy, one of two servers is stopped under load, then killed, and comes back.

  tests/deploy_check.py --server build/ci/server/dotmax-server --dotmax build/ci/client/cli/dotmax
"""

import argparse
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
SAMPLE = DEPLOY / "sample/glove-10k.npy"
MOST_EXPOSED = 2.0  # of 10, by systemd-analyze security


def require(condition, what):
    if not condition:
        sys.exit(f"deploy_check.py: {what}")


def output(*words, **options):
    ran = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    require(ran.returncode == 0, f"{' '.join(map(str, words))}:\n{ran.stdout}")
    return ran.stdout


def check_unit(options, directory):
    text = (DEPLOY / "systemd/dotmax.service").read_text()
    known = output(options.server, "--help")
    for flag in re.findall(r"--[a-z-]+(?==)", text):
        require(f"  {flag}=" in known, f"dotmax.service: there is no flag {flag}")
    for name in re.findall(r"DOTMAX_[A-Z_]+", text):
        require(f"environment {name})" in " ".join(known.split()), f"dotmax.service: there is no variable {name}")
    unit = pathlib.Path(directory, "dotmax.service")
    unit.write_text(text.replace("/usr/local/bin/dotmax-server", str(options.server)))
    said = output("systemd-analyze", "verify", unit)
    require("dotmax.service" not in said, f"systemd-analyze verify:\n{said}")
    threshold = f"--threshold={int(MOST_EXPOSED * 10)}"
    output("systemd-analyze", "security", "--offline=yes", "--no-pager", threshold, unit)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


class Server:
    def __init__(self, options, grpc_port, http_port):
        flags = [f"--matrix={SAMPLE}", "--threads=1", "--drain-grace=5s"]
        flags += [f"--listen=127.0.0.1:{grpc_port}", f"--metrics-listen=127.0.0.1:{http_port}"]
        self.http_port = http_port
        self.process = subprocess.Popen([options.server, *flags], stderr=subprocess.PIPE, text=True)
        require(any('"event":"ready"' in line for line in self.process.stderr), "a server does not start")

    def answered(self):
        """Searches that ended well."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics") as reply:
            lines = reply.read().decode().splitlines()
        name = "grpc_server_handled_total{"
        found = [line for line in lines if line.startswith(name) and '"OK"' in line and '"Search"' in line]
        return sum(float(line.split()[-1]) for line in found)


def check_balancing(options, directory):
    front, *grpc_ports, http_a, http_b = free_ports(5)
    text = (DEPLOY / "haproxy/haproxy.cfg").read_text()
    places = {
        "bind :50050": f"bind 127.0.0.1:{front}",
        "127.0.0.1:50051 port 9464": f"127.0.0.1:{grpc_ports[0]} port {http_a}",
        "127.0.0.1:50052 port 9465": f"127.0.0.1:{grpc_ports[1]} port {http_b}",
    }
    for place, here in places.items():
        require(place in text, f"haproxy.cfg has no {place}")
        text = text.replace(place, here)
    config = pathlib.Path(directory, "haproxy.cfg")
    config.write_text(text)
    output("haproxy", "-c", "-f", config)
    servers = [Server(options, grpc_ports[0], http_a), Server(options, grpc_ports[1], http_b)]
    haproxy = subprocess.Popen(["haproxy", "-f", config], stderr=subprocess.DEVNULL)

    def load(seconds):
        command = [options.dotmax, "bench", "--json", f"--server=127.0.0.1:{front}", "--concurrency=4", "--warmup=0s"]
        return subprocess.Popen([*command, f"--duration={seconds}s"], stdout=subprocess.PIPE, text=True)

    def result(bench):
        printed = bench.communicate(timeout=60)[0]
        require(bench.returncode == 0, "dotmax bench failed")
        return json.loads(printed)

    try:
        time.sleep(3)  # until HAProxy has looked at both
        found = result(load(2))
        require(found["requests"]["failed"] == 0, f"requests failed: {found['errors']}")
        shares = [server.answered() for server in servers]
        require(min(shares) > 0.2 * sum(shares), f"one connection's requests were not balanced: {shares}")

        bench = load(10)
        time.sleep(2)
        servers[0].process.terminate()
        require(servers[0].process.wait(timeout=60) == 0, "the stopped server did not exit well")
        found = result(bench)
        require(found["requests"]["failed"] == 0, f"requests failed as a server was stopped: {found['errors']}")

        servers[0] = Server(options, grpc_ports[0], http_a)
        time.sleep(3)
        bench = load(6)
        time.sleep(2)
        servers[1].process.kill()
        found = result(bench)
        failed = found["requests"]["failed"]
        require(failed <= 4 * 3, f"{failed} requests failed as a server was killed, more than were with it")
        require(servers[0].answered() > 0, "the server that came back has no requests")
    finally:
        haproxy.terminate()
        haproxy.wait(timeout=60)
        for server in servers:
            server.process.kill()
            server.process.wait(timeout=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=pathlib.Path, required=True)
    parser.add_argument("--dotmax", type=pathlib.Path, required=True)
    options = parser.parse_args()
    options.server = options.server.resolve()
    with tempfile.TemporaryDirectory() as directory:
        check_unit(options, directory)
        check_balancing(options, directory)
    print("deploy ok")


if __name__ == "__main__":
    main()
