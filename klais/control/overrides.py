"""Writes overrides. A new request keeps the fields that it does not name: the stored record is read first. Blocking,
for commands."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import orjson
from confluent_kafka import KafkaException

from klais.config.load import Settings
from klais.control.setpoints import DEVICE, OVERRIDE, ControlFollower
from klais.errors import KafkaUnavailable
from klais.kafka.probe import need_kafka
from klais.kafka.stats import ControlProducer
from klais.system.clock import now_ms

READ_S = 10.0
REFUSED_S = 1.5  # Kafka refuses a new topic for a moment
BLOCK_FIELDS = ("block", "unblock", "until_ms")
LIMIT_FIELDS = ("rate", "burst", "limits_until_ms")


@contextmanager
def following(settings: Settings) -> Iterator[ControlFollower]:
    """Yield a follower that has read the whole topic.

    Raises
    ------
    KafkaUnavailable
        If no broker listens at the configured address, or the topic was not read within 10 s.
    """
    need_kafka(settings)
    follower = ControlFollower(settings)
    follower.start()
    try:
        until_s = time.monotonic() + READ_S
        while not follower.wait_caught_up(0.25):
            what = f"topic {follower.topic} at {settings.bootstrap} ({settings.origin('kafka_bootstrap')})"
            if follower.refused and time.monotonic() > until_s - READ_S + REFUSED_S:
                fix = "`klais topics check` lists missing topics, `klais topics create` creates them"
                raise KafkaUnavailable(f"{what} cannot be read: {follower.refused}. {fix}")
            if time.monotonic() > until_s:
                raise KafkaUnavailable(f"{what} could not be read within {READ_S:g} s")
        yield follower
    finally:
        follower.stop()


def until(for_s: float | None) -> int | None:
    """The time ``for_s`` seconds from now (epoch ms); None stays None."""
    return None if for_s is None else now_ms() + int(for_s * 1000)


class Writer(Protocol):
    """Writes changes (:class:`klais.kafka.stats.ControlProducer`)."""

    def change(
        self, scope: str, record: Mapping[str, Any], before: Mapping[str, Any] | None, address: str = ""
    ) -> None: ...


def apply(
    control: ControlFollower,
    writer: Writer,
    scope: str,
    changes: dict[str, Any],
    author: str,
    reason: str,
    address: str = "",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Change the record of a scope and return it before and after: ``changes`` replace fields, None removes one.

    Blocks until Kafka has acknowledged the record. ``control`` applies it immediately, before it reads the record from
    the topic, so that the next change starts from it.

    Raises
    ------
    confluent_kafka.KafkaException
        If Kafka did not acknowledge the record, which is then not in force.
    """
    before = (control.override() if scope == OVERRIDE else control.record(scope)) or {}
    record = merged(before, changes) | {"author": author, "reason": reason, "at": now_ms()}
    stored = {"scope": scope, **record}
    writer.change(scope, stored, before, address)
    control.consume(scope, orjson.dumps(stored))
    return before, record


def write(settings: Settings, scope: str, changes: dict[str, Any], author: str, reason: str) -> dict[str, Any]:
    """As :func:`apply`, for a command without a follower. Return the written record.

    Raises
    ------
    KafkaUnavailable
        If the record could not be read, or Kafka did not acknowledge the new one.
    """
    with following(settings) as follower:
        producer = ControlProducer(settings, "klais-control")
        try:
            return apply(follower, producer, scope, changes, author, reason)[1]
        except KafkaException as error:
            raise KafkaUnavailable(f"the record of {scope} was not acknowledged: {error}") from error
        finally:
            producer.close()


def merged(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The record after the changes; objects (``gains``, ``setpoints``) are merged field by field.

    Examples
    --------
    >>> merged({"rate": 5, "gains": {"kp": 1}, "until_ms": 9}, {"gains": {"ki": 2}, "until_ms": None})
    {'rate': 5, 'gains': {'kp': 1, 'ki': 2}}
    """
    out = {**before}
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(out.get(name), dict):
            out[name] = out[name] | value
        else:
            out[name] = value
    return {name: value for name, value in out.items() if value is not None and name != "scope"}


def device_scope(device_id: str) -> str:
    """The scope of a device."""
    return DEVICE + device_id
