"""The access rights that each role needs on a cluster with an authorizer. Declared once for command, document and test.

``klais topics rights`` prints them as ``kafka-acls`` commands. Source: the table "Operations
and Resources on Protocols" in Apache Kafka's security documentation.
"""

import shlex
from dataclasses import dataclass
from typing import Literal

from klais.config.load import Settings
from klais.kafka.topics import Topics

Role = Literal["edge", "worker", "admin"]
ROLES: tuple[Role, ...] = ("edge", "worker", "admin")


@dataclass(frozen=True, slots=True)
class Right:
    """Operations that a role may perform on one resource, or on all whose name begins with ``name``."""

    resource: Literal["topic", "group", "transactional-id"]
    name: str
    prefixed: bool
    operations: tuple[str, ...]


def rights(settings: Settings, role: Role) -> list[Right]:
    """The rights of a role and no more; Read, Write and Alter imply Describe.

    Examples
    --------
    >>> [r.operations for r in rights(Settings(), "edge") if r.name == "klais_raw"]
    [('Write', 'DescribeConfigs')]
    """
    topics = Topics.of(settings)
    ours = settings.topic_prefix + "klais"
    every = [spec.name for spec in topics.specs()]
    if role == "admin":
        manage = ("Create", "Describe", "DescribeConfigs", "AlterConfigs")
        return [Right("topic", name, False, manage) for name in every]
    writes = {
        "edge": {topics.raw, topics.dead_letter, topics.stats, topics.control, topics.audit},
        "worker": set(every) - {topics.raw},
    }[role]
    reads = {"edge": {topics.stats, topics.control}, "worker": set(every)}[role]
    out = []
    for name in every:
        # All topics are checked at the start. Write and Read imply Describe.
        operations = [op for op, names in (("Read", reads), ("Write", writes)) if name in names] or ["Describe"]
        out.append(Right("topic", name, False, (*operations, "DescribeConfigs")))
    # The consumer group of the workers, and a separate one for each reader of a small topic (those commit
    # nothing).
    out.append(Right("group", ours, True, ("Read",)))
    if role == "worker":
        # Lanes and the controller fence their predecessors with a transactional id.
        out.append(Right("transactional-id", ours + "-", True, ("Write",)))
    return out


def acl_commands(settings: Settings, role: Role, principal: str) -> list[str]:
    """The rights of a role as commands of Kafka's own tool.

    Each is safe to paste into a shell.

    Examples
    --------
    >>> acl_commands(Settings(), "worker", "User:klais")[-1].split("--allow-principal ")[1]
    'User:klais --transactional-id klais- --resource-pattern-type prefixed --operation Write'
    """
    out = []
    for right in rights(settings, role):
        words = ["kafka-acls", "--add", "--allow-principal", principal, f"--{right.resource}", right.name]
        words += ["--resource-pattern-type", "prefixed"] if right.prefixed else []
        words += [word for operation in right.operations for word in ("--operation", operation)]
        out.append(shlex.join(words))
    return out
