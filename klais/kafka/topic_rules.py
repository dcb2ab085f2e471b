"""Requirements on the topics: differences between the topics of a cluster and those that KLAIS needs. Pure."""

from dataclasses import dataclass

from klais.kafka.topics import Topics, TopicSpec

_AT_LEAST = frozenset({"retention.ms", "retention.bytes", "max.message.bytes", "min.insync.replicas"})


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One property of a topic that differs from what KLAIS needs; ``setting`` is ``partitions``, ``missing`` or a
    config name."""

    topic: str
    setting: str
    found: str
    wanted: str
    fix: str

    def __str__(self) -> str:
        if self.setting == "missing":
            return f"topic {self.topic} does not exist: {self.fix}"
        return f"topic {self.topic}: {self.setting} is {self.found}, must be {self.wanted}: {self.fix}"


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic on the cluster: ``records`` counts offsets from the first retained to the end, None = unknown."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]
    records: int | None


def compare(specs: list[TopicSpec], states: dict[str, TopicState]) -> list[Mismatch]:
    """Differences between the required and the existing topics. Pure."""
    out = []
    for spec in specs:
        state = states.get(spec.name)
        if state is None:
            out.append(Mismatch(spec.name, "missing", "", "", "`klais topics create` creates it"))
            continue
        if spec.partitions is not None and state.partitions != spec.partitions:
            out.append(_partition_mismatch(spec, state))
        for name, wanted in spec.config.items():
            found = state.config.get(name, "")
            if not _fits(name, found, wanted):
                out.append(_config_mismatch(spec.name, name, found, wanted))
    return out


def compare_safety(states: dict[str, TopicState]) -> list[Mismatch]:
    """Topics that accept no writes, or whose new leader may lack acknowledged records. Pure."""
    out = []
    for name, state in states.items():
        minimum = state.config.get("min.insync.replicas", "")
        if _is_number(minimum) and 0 < state.replication < int(minimum):
            wanted = "2" if state.replication > 2 else "1"
            out.append(_config_mismatch(name, "min.insync.replicas", f"{minimum} of {state.replication}", wanted))
        if state.config.get("unclean.leader.election.enable") == "true":
            out.append(_config_mismatch(name, "unclean.leader.election.enable", "true", "false"))
    return out


def _config_mismatch(topic: str, name: str, found: str, wanted: str) -> Mismatch:
    by_hand = f"kafka-configs --alter --topic {topic} {_add(name, wanted)}"
    return Mismatch(topic, name, found, wanted, f"`klais topics create --fix` sets it, or {by_hand}")


def compare_replication(wanted: int, states: dict[str, TopicState]) -> list[Mismatch]:
    """Topics with fewer replicas than KLAIS_REPLICATION. Pure."""
    fix = "add replicas with kafka-reassign-partitions, or set KLAIS_REPLICATION to what you accept to lose"
    return [
        Mismatch(name, "replication", str(state.replication), f"at least {wanted}", fix)
        for name, state in states.items()
        if state.replication < wanted
    ]


def compare_retention(topics: Topics, states: dict[str, TopicState]) -> list[Mismatch]:
    """A journal that expires before its raw records: a recovering lane would decide those again. Pure."""
    raw, journal = states.get(topics.raw), states.get(topics.journal)
    if raw is None or journal is None:
        return []
    wanted, found = (state.config.get("retention.ms", "") for state in (raw, journal))
    if not _is_number(wanted) or _fits("retention.ms", found, wanted):
        return []
    by_hand = f"kafka-configs --alter --topic {topics.journal} {_add('retention.ms', wanted)}"
    fix = f"it must be kept as long as {topics.raw}: `klais topics create --fix` sets it, or {by_hand}"
    return [Mismatch(topics.journal, "retention.ms", found, wanted, fix)]


def _partition_mismatch(spec: TopicSpec, state: TopicState) -> Mismatch:
    """Check the partition count of raw, journal, changelog and outputs: lane p owns partition p of each of them."""
    if spec.partitions == 1:
        fix = "delete it (kafka-topics --delete) and run `klais topics create`"
    else:
        fix = (
            f"set KLAIS_PARTITIONS={state.partitions} if all topics of KLAIS have that many; otherwise wait until "
            "`klais lag` shows none, delete this topic (kafka-topics --delete) and run `klais topics create`, or use "
            "new topics (KLAIS_TOPIC_PREFIX). Another count for a system in use would move devices between lanes"
        )
    return Mismatch(spec.name, "partitions", str(state.partitions), str(spec.partitions), fix)


def _add(name: str, wanted: str) -> str:
    return f"--add-config {name}=[{wanted}]" if "," in wanted else f"--add-config {name}={wanted}"


def _fits(name: str, found: str, wanted: str) -> bool:
    """Whether a setting suffices: more room or time than needed is allowed (-1 = no limit); lists have no order."""
    if name in _AT_LEAST and _is_number(found):
        return int(found) == -1 or int(found) >= int(wanted) != -1
    return sorted(found.split(",")) == sorted(wanted.split(","))


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdigit()
