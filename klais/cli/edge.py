"""``klais edge``: receive frames, publish frame batches, serve the REST API."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from klais.cli.settings import load
from klais.system.address import split_address
from klais.system.imports import large_imports
from klais.system.ports import check_port
from klais.telemetry import log

if TYPE_CHECKING:
    from klais.config.load import Settings


@click.command()
@click.option(
    "--udp-bind", help="host:port to receive frames on (KLAIS_UDP_BIND, 0.0.0.0:5000; [::]:5000 accepts IPv6 too)."
)
@click.option("--api-bind", help="host:port of the REST API (KLAIS_API_BIND, 127.0.0.1:8080).")
@click.option("--edge-id", type=int, help="Number of this edge, unique in the deployment (KLAIS_EDGE_ID, 1).")
@click.option(
    "--source", help="udp, io_uring, af_xdp, ringbuf, or auto: the fastest that works here (KLAIS_SOURCE, udp)."
)
@click.option("--iface", help="Interface of the XDP filter, for af_xdp and ringbuf (KLAIS_IFACE).")
@click.option(
    "--share-port",
    is_flag=True,
    default=None,
    help="Let several edge processes share the UDP port (KLAIS_UDP_SHARE_PORT).",
)
@click.option(
    "--workers", type=int, help="Edge processes that share the port, supervised, one API (KLAIS_EDGE_WORKERS, 1)."
)
@click.option("--cpus", help="CPUs to run on: auto, or a list like 0-3,8 (KLAIS_CPUS; unset = not pinned).")
@click.option("--successor", is_flag=True, hidden=True, help="Used by the supervisor to replace a running process.")
@click.option(
    "--report-folder", type=Path, hidden=True, help="Used by the supervisor: where to leave the last figures."
)
@click.option("--now", is_flag=True, help="On SIGTERM spool unacknowledged batches without waiting for Kafka.")
def edge(
    udp_bind: str | None,
    api_bind: str | None,
    edge_id: int | None,
    source: str | None,
    iface: str | None,
    share_port: bool | None,
    workers: int | None,
    cpus: str | None,
    successor: bool,
    report_folder: Path | None,
    now: bool,
) -> None:
    """Receive frames over UDP and publish them, in batches, to the staging topic klais_raw.

    The edge checks magic and device id of each frame, finds its partition, and sends batches to Kafka. Malformed frames
    go to klais_dead_letter. It receives immediately: while Kafka does not respond, or topics are missing (`klais topics
    create`), frames go to a disk spool. SIGTERM or Ctrl-C stop it: it drains the kernel's buffer, waits up to 4 s for
    Kafka, spools the rest, and exits with 0; a second signal spools immediately. SIGHUP reads KLAIS_ENV_FILE again.

    While it runs, it serves GET /health, /stats, /metrics and /openapi.json, and POST /config sets the global rate.

    For more cores, --workers N starts N edge processes on the same port, with edge ids from KLAIS_EDGE_ID on, restarts
    failed ones, and serves the REST API for all. SIGUSR2 replaces them one by one without a gap. --cpus auto pins each
    to its own CPU near the interface.

    \b
    Examples:
      klais edge
      klais edge --udp-bind '[::]:5000' --api-bind 127.0.0.1:8080
      klais edge --workers 4 --cpus auto --iface eth0
      curl -X POST http://127.0.0.1:8080/config --json '{"new_rate": 20000}'
    """
    given: dict[str, Any] = {"udp_bind": udp_bind, "api_bind": api_bind, "udp_share_port": share_port}
    given |= {"edge_id": edge_id, "edge_id_from": None if edge_id is None else "number"}
    settings = load(**given, source=source, iface=iface, edge_workers=workers, cpus=cpus)
    log.setup(settings, "edge")
    check_port(*split_address(settings.api_bind), "tcp", "KLAIS_API_BIND")  # before it waits for Kafka
    if (settings := _numbered(settings)).edge_workers > 1:
        from klais.edge.supervisor.fleet import main as run_fleet

        raise SystemExit(run_fleet(settings, now))
    from klais.edge.listener import listen

    udp = listen(settings)  # first: frames that arrive from here on wait in the kernel
    if successor:  # the replaced process still reads, and this one may still fail
        from klais.edge.main import main

        raise SystemExit(main(settings, udp, now, successor, None, report_folder))
    from klais.edge.early import receive_early

    with receive_early(udp) as early:
        with large_imports():
            from klais.edge.main import main

        raise SystemExit(main(settings, udp, now, successor, early, report_folder))


def _numbered(settings: "Settings") -> "Settings":
    """The settings with the number of this edge. Usually a setting has it, and the port is bound without Kafka."""
    if settings.edge_id_from == "number":
        return settings
    from klais.edge.number import with_edge_id

    return with_edge_id(settings)
