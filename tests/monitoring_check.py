#!/usr/bin/env python3
"""Holds deploy/monitoring against a real Prometheus and a real server: rules and their tests, every expression of the
dashboard, every metric's name, a section of the runbook for each alert. Grafana itself is not run.

  tests/monitoring_check.py --server build/ci/server/dotmax-server --dotmax build/ci/client/cli/dotmax
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
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
MONITORING = ROOT / "deploy/monitoring"
SAMPLE = ROOT / "deploy/sample/glove-10k.npy"


def require(condition, what):
    if not condition:
        sys.exit(f"monitoring_check.py: {what}")


def promtool(*words):
    ran = subprocess.run(["promtool", *map(str, words)], cwd=MONITORING, capture_output=True, text=True)
    require(ran.returncode == 0, f"promtool {words}:\n{ran.stdout}{ran.stderr}")


def panels():
    """Each panel's title and its expressions."""
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        yield panel["title"], [target["expr"].replace("$__rate_interval", "10s") for target in panel["targets"]]


def check_files(directory):
    promtool("check", "config", "prometheus.yml")
    promtool("test", "rules", "rules_test.yml")
    rules = (MONITORING / "rules.yml").read_text()
    expressions = [expression for _, of_panel in panels() for expression in of_panel]
    records = [{"record": f"check:{i}", "expr": expression} for i, expression in enumerate(expressions)]
    recorded = pathlib.Path(directory, "dashboard.yml")
    recorded.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": records}]}))  # JSON is YAML
    promtool("check", "rules", recorded)

    # tests/server_test.cc holds that table against /metrics.
    table = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE))
    require(len(table) > 30, "ARCHITECTURE.md has no table of metrics")
    used = set(re.findall(r"\b(?:dotmax|grpc|process)_\w+", " ".join([rules, *expressions])))
    used -= {"grpc_method", "grpc_code"}
    for name in used:
        require({name, re.sub(r"_(bucket|sum|count)$", "", name)} & table, f"there is no metric {name}")

    alerts = set(re.findall(r"alert: (\w+)", rules))
    sections = set(re.findall(r"^## (\w+)$", (ROOT / "deploy/RUNBOOK.md").read_text(), re.MULTILINE))
    require(alerts and alerts == sections, f"alerts without a section, or the other way round: {alerts ^ sections}")
    tested = set(re.findall(r"alertname: (\w+)", (MONITORING / "rules_test.yml").read_text()))
    require(alerts == tested, f"alerts without a test: {alerts - tested}")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def query(port, expression):
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(url) as reply:
        return json.load(reply)["data"]["result"]


def values(port, expression):
    return [float(series["value"][1]) for series in query(port, expression)]


def check_running(options, directory):
    flags = [f"--matrix={SAMPLE}", "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"]
    server = subprocess.Popen([options.server, *flags], stderr=subprocess.PIPE, text=True)
    prometheus = None
    try:
        listening = {}
        for line in server.stderr:
            event = json.loads(line)
            if event["event"] == "listening":
                listening = event
            if event["event"] == "ready":
                break
        require(listening, "the server does not listen")
        config = (MONITORING / "prometheus.yml").read_text()
        config = config.replace("localhost:9464", f"127.0.0.1:{listening['http_port']}").replace("15s", "1s")
        config = config.replace("rules.yml", str(MONITORING / "rules.yml"))
        pathlib.Path(directory, "prometheus.yml").write_text(config)
        port = free_port()
        prometheus = subprocess.Popen(
            ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"],
            cwd=directory, stderr=subprocess.DEVNULL,
        )
        load = [options.dotmax, "bench", "--json", f"--server=127.0.0.1:{listening['grpc_port']}", "--duration=12s"]
        bench = subprocess.run(load, stdout=subprocess.PIPE, check=True, text=True)
        require(json.loads(bench.stdout)["requests"]["ok"] > 0, "nothing was answered")
        deadline = time.monotonic() + 60
        while True:  # a scrape may be late on a busy machine
            empty = [title for title, of_panel in panels() if not all(query(port, e) for e in of_panel)]
            if not empty or time.monotonic() > deadline:
                break
            time.sleep(1)
        require(not empty, f"panels without data: {empty}")
        require(values(port, "max_over_time(sum(rate(dotmax_query_rows_total[10s]))[60s:1s])")[0] > 0, "no rate was seen")
        rules = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/rules"))["data"]["groups"]
        broken = [rule["name"] for group in rules for rule in group["rules"] if rule["health"] == "err"]
        require(rules and not broken, f"rules that fail: {broken}")
        alerts = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/alerts"))["data"]["alerts"]
        firing = [alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"]
        require(not firing, f"alerts of a server that is well: {firing}")
    finally:
        for process in filter(None, (prometheus, server)):
            process.terminate()
            process.wait(timeout=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True)
    parser.add_argument("--dotmax", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        check_files(directory)
        check_running(options, directory)
    print("monitoring ok")


if __name__ == "__main__":
    main()
