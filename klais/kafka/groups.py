"""Committed offsets of consumer groups, queried with aiokafka.

librdkafka is no option here: where a broker answers that it is no longer the coordinator of a group, as after every
restart, its requests about groups end the process with a segmentation fault (librdkafka 3663 and 4605).
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from aiokafka import errors as kafka_errors
from aiokafka.admin import AIOKafkaAdminClient

from klais.config.load import Settings
from klais.errors import KafkaUnavailable
from klais.kafka.clients import aiokafka_config
from klais.kafka.closing import close_client, start_client
from klais.kafka.offsets import Offsets
from klais.telemetry import log as logs

log = logs.get("klais.kafka.groups")

LOG_EVERY_S = 600.0
_CAPITALS = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class GroupState:
    """A consumer group: ``state`` like ``stable`` or ``empty``, and the offsets that it has committed."""

    name: str
    state: str
    members: int
    committed: Offsets


def list_groups(settings: Settings, max_groups: int, timeout_s: float) -> list[GroupState]:
    """Query the groups of the cluster, at most ``max_groups``. Blocks; call it in a thread without an event loop.

    The groups of KLAIS come first, then those of others by name. Groups of others that cannot be queried, or are beyond
    ``max_groups``, are left out and logged.

    Raises
    ------
    klais.errors.KafkaUnavailable
        If a broker does not answer within ``timeout_s``, or refuses.
    """
    try:
        return asyncio.run(asyncio.wait_for(_list_groups(settings, max_groups, timeout_s), timeout_s))
    except (kafka_errors.KafkaError, TimeoutError, OSError) as error:
        raise KafkaUnavailable(f"the consumer groups are unknown: {str(error) or 'no answer in time'}") from error


async def _list_groups(settings: Settings, max_groups: int, timeout_s: float) -> list[GroupState]:
    timeout_ms = int(1000 * timeout_s)
    admin = AIOKafkaAdminClient(client_id="klais-groups", request_timeout_ms=timeout_ms, **aiokafka_config(settings))
    await start_client(admin._client, timeout_s)  # as its `start` does; if it fails, it is closed
    try:
        own = settings.topic_prefix + "klais"
        known = sorted({name for name, *_ in await admin.list_consumer_groups()})
        names = sorted(known, key=lambda name: not name.startswith(own))[:max_groups]
        answers = await asyncio.gather(*(_group(admin, name) for name in names), return_exceptions=True)
        failed = {name: one for name, one in zip(names, answers, strict=True) if isinstance(one, BaseException)}
        if failed and (len(failed) == len(names) or any(name.startswith(own) for name in failed)):
            raise next(iter(failed.values()))
        left_out = [*failed, *(set(known) - set(names))]
        if left_out and (calls := logs.every(LOG_EVERY_S, "klais.kafka.groups")):
            why = [repr(error) for error in failed.values()][:3] or f"only {max_groups} of {len(known)} are queried"
            log.warning("groups_left_out", groups=len(left_out), some=sorted(left_out)[:5], why=why, calls=calls)
        return [one for one in answers if isinstance(one, GroupState)]
    finally:
        await close_client(admin._client)


async def _group(admin: AIOKafkaAdminClient, name: str) -> GroupState:
    node = await admin.find_coordinator(name)
    described: list[Any] = await admin.describe_consumer_groups([name], group_coordinator_id=node)
    ((_, _, state, _, _, members, *_),) = described[0].groups
    committed = await admin.list_consumer_group_offsets(name, group_coordinator_id=node)
    return GroupState(name, _snake(state), len(members), _offsets(committed))


def _snake(state: str) -> str:
    return _CAPITALS.sub("_", state).lower() or "unknown"


def _offsets(committed: dict[Any, Any]) -> Offsets:
    return {(place.topic, place.partition): found.offset for place, found in committed.items() if found.offset >= 0}
