"""``klais replay``: compares the journal from step 0 with topics and tables."""

import asyncio
import dataclasses

import click

from klais.cli.options import PARTITION
from klais.cli.printing import say, say_json
from klais.cli.settings import load
from klais.cli.waiting import Progress


@click.command()
@click.option("--check", is_flag=True, help="Exit with 1 if there is a difference.")
@click.option("--partition", type=PARTITION, multiple=True, help="Only this lane (may be given again). Default: all.")
@click.option("--settled", is_flag=True, help="Also require that all raw records are read and all queues are empty.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per lane.")
def replay(check: bool, partition: tuple[int, ...], settled: bool, as_json: bool) -> None:
    """Replay each lane's journal from step 0 and compare it with the topics in Kafka.

    Every record of iot_telemetry, klais_anomalies and klais_dead_letter must be one that the journal decided, once and
    in order. Every row and counter of the devices table must equal the result of the replay at the checkpoint's step.
    This needs the whole journal: retention must not have cut it (24 h by default). Run it while no worker writes, or
    while those lanes are idle. What it cannot compare because Kafka lost something is listed as NOT COMPARED.

    \b
    Example:
      klais replay --check --settled
    """
    from klais.kafka.offsets import need_partitions
    from klais.kafka.probe import need_kafka
    from klais.kafka.topics import Topics
    from klais.verify.audit import audit_lane

    settings = load()
    need_kafka(settings)
    if not partition:  # a smaller number would leave lanes out
        need_partitions(settings, Topics.of(settings).journal)
    wrong = False
    for number in partition or range(settings.partitions):
        audit = asyncio.run(audit_lane(settings, number, progress=Progress(f"steps of lane {number}")))
        if settled and not audit.settled:
            audit.problem(
                f"not settled: raw read up to {audit.next_raw} of {audit.raw_end}, {audit.queued} frames wait"
            )
        wrong |= bool(audit.problems)
        if as_json:
            say_json({**dataclasses.asdict(audit), "settled": audit.settled})
            continue
        verdicts = " ".join(f"{name}={count}" for name, count in audit.verdicts.items()) or "nothing yet"
        say(
            f"lane {number}: {audit.steps} steps, raw {audit.next_raw}/{audit.raw_end}, {audit.devices} devices, "
            f"{audit.telemetry} clean, {audit.dead_letters} dead letters, {audit.anomalies} anomalies; {verdicts}"
        )
        if audit.not_compared:
            why = "Kafka lost records of this lane, which the lane has counted"
            say(f"  NOT COMPARED: {', '.join(audit.not_compared)} ({why})")
        for text in audit.problems:
            say(f"  DIFFERS: {text}")
        if audit.problems and audit.written:
            say(
                f"  the lane wrote {audit.written:,} records to its journal meanwhile, which may be all that differs: "
                "repeat this while no worker writes"
            )
    if check and wrong:
        raise SystemExit(1)
