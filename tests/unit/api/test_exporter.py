# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics of a real daemon, scraped over HTTP and read with Prometheus' own parser; and the probes."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from ctdbpy.api.exporter import Server, main
from ctdbpy.client import databases
from ctdbpy.client.connection import VOLATILE
from tests.unit.daemon.conftest import LIMIT_S, Cluster, Daemon, wait_until

Serve = Callable[[Path], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve the daemon behind a socket: gives the URL."""
    servers: list[Server] = []

    def start(socket: Path) -> str:
        server = Server("127.0.0.1", 0, str(socket), str(socket.with_name("eventd.socket")))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(url: str) -> dict[str, Metric]:
    status, text = fetch(f"{url}/metrics")
    assert status == 200
    return {metric.name: metric for metric in text_string_to_metric_families(text)}


def value(metrics: dict[str, Metric], name: str, **labels: str) -> float:
    """The one sample with these labels."""
    metric = next(
        metric
        for metric in metrics.values()
        for sample in metric.samples
        if name in (metric.name, sample.name)
    )
    found = [sample.value for sample in metric.samples if labels.items() <= sample.labels.items()]
    assert len(found) == 1, found
    return found[0]


def test_a_daemon_is_scraped(daemon: Daemon, serve: Serve) -> None:
    with daemon.connect() as connection:
        databases.attach(connection, "some.tdb", VOLATILE)
        metrics = scrape(serve(daemon.socket))
    assert value(metrics, "ctdbpy_up") == 1
    assert value(metrics, "ctdbpy_leader") == 0
    assert value(metrics, "ctdbpy_is_leader") == 1
    assert value(metrics, "ctdbpy_recovery_mode") == 0
    assert value(metrics, "ctdbpy_node_flag", node="0", flag="banned") == 0
    assert value(metrics, "ctdbpy_clients") == 2
    assert value(metrics, "ctdbpy_recoveries_total") >= 1
    assert value(metrics, "ctdbpy_packets_total", peer="client", way="received") > 0
    assert value(metrics, "ctdbpy_vacuum_runs_total", database="some.tdb") >= 0
    assert value(metrics, "ctdbpy_public_addresses_here") == 0
    assert value(metrics, "ctdbpy_scrape_seconds") > 0
    assert all(metric.documentation for metric in metrics.values())


def test_lock_waits_are_a_histogram(daemon: Daemon, serve: Serve) -> None:
    waits = scrape(serve(daemon.socket))["ctdbpy_lock_wait_seconds"]
    assert waits.type == "histogram"
    buckets = [sample for sample in waits.samples if sample.name.endswith("_bucket")]
    assert buckets[0].labels["le"] == "0.001"
    assert buckets[-1].labels["le"] == "+Inf"
    counts = [sample.value for sample in buckets]
    assert counts == sorted(counts)


def test_event_scripts_are_told_about(make: Cluster, serve: Serve) -> None:
    daemon = make()[0]
    legacy = daemon.base / "events" / "legacy"
    legacy.mkdir(parents=True)
    script = legacy / "50.some.script"
    script.write_text('#!/bin/sh\n[ "$1" != monitor ] || exit 3\n')
    script.chmod(0o755)
    url = serve(daemon.start().socket)
    wait_until(lambda: "ctdbpy_event_script_result" in scrape_text(url), "the monitor event has run")
    metrics = scrape(url)
    assert value(metrics, "ctdbpy_event_script_result", event="monitor", script="50.some") == 3
    assert value(metrics, "ctdbpy_event_script_seconds", event="monitor", script="50.some") >= 0
    assert fetch(f"{url}/ready")[0] == 503
    assert fetch(f"{url}/live")[0] == 200


def scrape_text(url: str) -> str:
    return "\n".join(line for line in fetch(f"{url}/metrics")[1].splitlines() if 'event="monitor"' in line)


def test_probes_of_a_node_that_is_well(daemon: Daemon, serve: Serve) -> None:
    url = serve(daemon.socket)
    assert fetch(f"{url}/live") == (200, "yes\n")
    wait_until(lambda: fetch(f"{url}/ready") == (200, "yes\n"), "the node is ready")
    assert fetch(f"{url}/elsewhere")[0] == 404


def test_without_a_daemon_that_is_said_and_nothing_else(tmp_path: Path, serve: Serve) -> None:
    url = serve(tmp_path / "nothing")
    assert set(scrape(url)) == {"ctdbpy_up", "ctdbpy_scrape_seconds"}
    assert value(scrape(url), "ctdbpy_up") == 0
    assert fetch(f"{url}/live")[0] == 503
    assert fetch(f"{url}/ready")[0] == 503


def test_a_port_that_is_taken_is_one_line(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    port = serve(tmp_path / "nothing").rpartition(":")[2]
    assert main(["--port", port]) == 1
    assert f"ctdbpy-exporter: cannot listen on 127.0.0.1 port {port}: " in capsys.readouterr().err


def test_dashboard_and_alerts_ask_for_what_there_is(daemon: Daemon, serve: Serve) -> None:
    text = fetch(f"{serve(daemon.socket)}/metrics")[1]
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    # A histogram has buckets, and a metric without samples (no address, no script) is told by its type alone.
    known = told | {f"{name}_bucket" for name in told}
    etc = Path(__file__).resolve().parents[3] / "etc"
    asked = set[str]()
    for file in ("grafana/ctdbpy.json", "prometheus/ctdbpy.rules.yml"):
        asked |= set(re.findall(r"\bctdbpy_\w+", (etc / file).read_text(encoding="utf-8")))
    assert len(asked) > 10
    assert asked <= known
