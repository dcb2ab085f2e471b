"""A real Prometheus scrapes a real system: every panel of every dashboard has an answer, an outage raises its alert.

The rules are those that are shipped, only their waiting times are cut to a second.
"""

import json
import math
import re
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from deploy.grafana.dashboards import BOARDS
from klais.broker.embedded import EmbeddedKafka
from klais.config.load import Settings
from klais.errors import SetupMissing
from tests.broker.test_up import Place
from tests.support.needs import need_command, need_missing
from tests.support.ports import free_port
from tests.support.process import HTTP_S, kill_hard, wait_for

REPO = Path(__file__).parents[2]
RULES = REPO / "deploy" / "prometheus" / "klais.rules.yml"
VARIABLES = {"$job": ".*", "$instance": ".*", "$__rate_interval": "15s"}


class Prometheus:
    """One that scrapes an edge and a worker every two seconds."""

    def __init__(self, folder: Path, edge: int, worker: int) -> None:
        folder.mkdir()
        self.port, self.log = free_port(), folder / "log.txt"
        rules = folder / "rules.yml"
        rules.write_text(re.sub(r"^( *(?:for|keep_firing_for):) .*", r"\1 1s", RULES.read_text(), flags=re.MULTILINE))
        jobs = {"klais-edge": edge, "klais-worker": worker}
        scrape = [{"job_name": n, "static_configs": [{"targets": [f"127.0.0.1:{p}"]}]} for n, p in jobs.items()]
        config = {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": scrape,
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [need_command("prometheus", "prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{self.port}"]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer; an error of Prometheus fails the test."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=HTTP_S) as answer:
                body = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{query}: {error.read().decode()}") from None
        assert body["status"] == "success" and not body.get("warnings"), body
        return body["data"]

    def answers(self) -> bool:
        """Whether it serves its API."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=HTTP_S) as answer:
                return bool(answer.status == 200)
        except OSError:  # an HTTPError too: 503 while it starts
            return False

    def now(self) -> float:
        """The newest time of its own clock."""
        return float(self.get("query", query="time()")["result"][0])

    def series(self, expr: str) -> list[list[float]]:
        """Values of the last half minute of each series."""
        now_s = self.now()
        found = self.get("query_range", query=expr, start=f"{now_s - 30}", end=f"{now_s}", step="1")
        assert found["resultType"] == "matrix"
        return [[float(value) for _, value in series["values"]] for series in found["result"]]

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        alerts = self.get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


@contextmanager
def system(tmp_path: Path) -> Iterator[tuple[Place, Prometheus, EmbeddedKafka]]:
    """`klais up` on a Kafka beside it, and the Prometheus that watches both processes."""
    place = Place(tmp_path)
    broker = EmbeddedKafka(
        Settings(state_dir=tmp_path / "kafka", kafka_port=free_port(), kafka_heap_mb=256), command="pytest"
    )
    watched = process = None
    try:
        try:
            broker.start()
        except SetupMissing as error:
            need_missing("broker", str(error))
        place.env |= {"KLAIS_KAFKA_BOOTSTRAP": broker.bootstrap, "KLAIS_BREAKER_TIMEOUT_S": "1"}
        process = place.up("--json", "--partitions", "2", "--rate", "300", "--devices", "50")
        wait_for(lambda: place.lines("ready") or process.poll() is not None, 90, place.text)
        assert process.poll() is None, place.text()
        watched = Prometheus(tmp_path / "prometheus", place.tcp["API"], place.tcp["WEB_PORT"])
        wait_for(watched.answers, 30, lambda: f"Prometheus to answer; its log ends:\n{watched.log.read_text()}")
        yield place, watched, broker
    finally:
        if process is not None:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.send_signal(signal.SIGTERM)
            psutil.wait_procs([psutil.Process(process.pid)] if process.poll() is None else [], timeout=60)
            kill_hard(process)
            for child in children:
                if child.is_running():
                    child.kill()
        if watched is not None:
            kill_hard(watched.process)
        broker.stop()


def asked(expr: str) -> str:
    """An expression of a panel with its variables set as Grafana would."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


def empty_panels(watched: Prometheus) -> list[str]:
    """Panels that are to have values in every running system, and have none."""
    empty = []
    for board in BOARDS:
        for panel in board.panels():
            found = [watched.series(asked(expr)) for expr, _ in panel.queries]
            numbers = [value for series in found for values in series for value in values if not math.isnan(value)]
            if panel.always and not (all(found) and numbers):
                empty.append(f"{board.title}: {panel.title}")
    return empty


def test_every_panel_has_an_answer_and_the_end_of_kafka_is_an_alert(tmp_path: Path) -> None:
    need_command("prometheus", "prometheus")
    with system(tmp_path) as (place, watched, broker):
        wait_for(lambda: not empty_panels(watched), 60, lambda: f"values on all panels: {empty_panels(watched)}")
        trouble = {f"Klais{name}" for name in ("Spooling", "Down", "Absent", "LaneMissing", "NotConserved", "DataLost")}
        wait_for(lambda: not watched.firing() & trouble, 60, lambda: f"quiet; these fire: {watched.firing()}")

        assert broker.pid is not None
        psutil.Process(broker.pid).kill()
        wait_for(lambda: "KlaisSpooling" in watched.firing(), 60, lambda: f"the alert; these fire: {watched.firing()}")
        with urllib.request.urlopen(f"http://127.0.0.1:{place.tcp['API']}/livez", timeout=HTTP_S) as answer:
            assert answer.status == 200, "and no probe asks for a restart of the edge"
