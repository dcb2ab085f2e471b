"""Why a device's frames pass or are dropped now: each rule of the lane, in evaluation order.

The order is that of :func:`klais.core.dam.admit.judge`: duplicate, blocked, device rate, then the global bucket and its
queue.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from klais.text import counted
from klais.worker.rows import DeviceLimits
from klais.worker.web.device import device_id_text, last_seen, newest_flag, tokens_of
from klais.worker.web.times import iso

LARGE_SHARE = 0.5  # share of a device's frames
MAX_WAIT_S = 1e9  # a later end is not shown
MANY = 3  # count above one or two normal occurrences


@dataclass(frozen=True, slots=True)
class LaneNow:
    """State of the lane that affects one device: queue, global bucket (frames/s, frames), waiting frames.

    ``mine`` frames of the device wait, ``ahead`` frames leave before its first one (None: none of its frames waits),
    and ``before_new`` frames would leave before a new one.
    """

    rate: float
    tokens: float
    queue_depth: int
    queue_limit: int
    mine: int
    ahead: int | None
    before_new: int


def why(
    row: Any,
    partition: int,
    limits: DeviceLimits,
    lane: LaneNow,
    control: dict[str, Any] | None,
    names: Mapping[int, str],
) -> dict[str, Any]:
    """Body of ``/devices/{device_id}/why/``; ``control``: the device's record on ``klais_control``, if any."""
    rules = [
        _blocked(limits, control, _is_blocked(row, limits), int(row["blocked"])),
        _device_rate(row, limits),
        _dam(row, limits, lane),
        _duplicates(row),
        _sequence(row),
        _sources(row),
        _malformed(row),
        _anomaly(row, names),
    ]
    acting = [rule for rule in rules[:4] if rule["active"]]
    verdict = acting[0]["verdict"] if acting else "passed"
    explanation = (
        acting[0]["explanation"] if acting else "No rule limits this device: a new frame would pass immediately."
    )
    return {
        "device_id": device_id_text(row),
        "partition": partition,
        "at": iso(limits.now_ns),
        "last_seen": iso(last_seen(row)),
        "verdict": verdict,
        "explanation": explanation,
        "rules": rules,
    }


def _rule(name: str, active: bool, explanation: str, **facts: Any) -> dict[str, Any]:
    """One rule. ``since`` and ``until`` are ISO times, null = unknown, without end, or not in force."""
    return {"rule": name, "active": active, "explanation": explanation, "since": None, "until": None, **facts}


def _is_blocked(row: Any, limits: DeviceLimits) -> bool:
    return row["id"].tobytes()[: int(row["id_size"])] in limits.blocked


def _blocked(limits: DeviceLimits, control: dict[str, Any] | None, active: bool, count: int) -> dict[str, Any]:
    record = control or {}
    until_ms, at_ms = record.get("until_ms"), record.get("at")
    since = iso(int(at_ms) * 1_000_000) if isinstance(at_ms, int | float) else None
    until = iso(int(until_ms) * 1_000_000) if isinstance(until_ms, int) else None
    by, reason = record.get("author"), record.get("reason")
    whom = f" by {by}" if by else ""
    because = f" ({reason})" if reason else ""
    if active:
        end = f"until {until}" if until else "until an operator unblocks it"
        explanation = f"Blocked{whom}{because} {end}: every frame is dropped."
    elif record.get("block") is True and until and record.get("unblock") is not True:
        explanation = f"A block{whom}{because} ended at {until}."
    else:
        explanation = "Not blocked."
    facts = {"since": since, "until": until, "by": by, "reason": reason} if record.get("block") is True else {}
    return _rule("blocked", active, explanation, verdict="blocked", dropped=count, **facts)


def _device_rate(row: Any, limits: DeviceLimits) -> dict[str, Any]:
    tokens = tokens_of(row, limits)
    dropped = int(row["device_rate"])
    active = tokens < 1.0
    wait_s = (1.0 - tokens) / limits.rate
    until = iso(limits.now_ns + int(wait_s * 1e9)) if active and wait_s < MAX_WAIT_S else None
    of = f"{tokens:.1f} of {limits.burst:g} frames are left at {limits.rate:g} frames/s"
    if active:
        when = f"at {until}" if until else "in more than 30 years"
        explanation = f"Above its own rate: {of}; frames are dropped until the next token, {when}."
    elif dropped:
        explanation = f"Within its own rate now ({of}); {dropped} frames were dropped above it so far."
    else:
        explanation = f"Within its own rate: {of}."
    # A bucket does not record when it became empty: the newest frame is the last known moment.
    since = iso(int(row["refilled_ns"])) if active else None
    return _rule(
        "device_rate", active, explanation, verdict="device_rate", dropped=dropped, tokens=round(tokens, 3)
    ) | {
        "since": since,
        "until": until,
    }


def _dam(row: Any, limits: DeviceLimits, lane: LaneNow) -> dict[str, Any]:
    full = lane.queue_depth > 0 and lane.queue_depth >= lane.queue_limit
    active = lane.queue_depth > 0 or lane.tokens < 1.0
    wait_s = max(0.0, lane.before_new - lane.tokens) / lane.rate
    until = iso(limits.now_ns + int(wait_s * 1e9)) if active and wait_s < MAX_WAIT_S else None
    if full or (active and lane.queue_limit == 0):
        explanation = (
            f"The lane's queue is full ({lane.queue_depth} of {lane.queue_limit} frames): new frames are dropped."
        )
    elif active:
        explanation = (
            f"{lane.queue_depth} frames wait in the lane. Devices take turns: {lane.before_new} of them leave before a "
            f"new frame of this device, which takes about {wait_s:.1f} s at {lane.rate:g} frames/s."
        )
    else:
        explanation = "The queue of its lane is empty: frames pass on arrival."
    if lane.mine:
        explanation += f" {lane.mine} frames of this device wait, {lane.ahead} before the first."
    verdict = "queue_full" if full or lane.queue_limit == 0 else "queued"
    facts = {
        "queue_depth": lane.queue_depth,
        "queue_limit": lane.queue_limit,
        "waiting": lane.mine,
        "ahead": lane.ahead,
        "before_new": lane.before_new,
    }
    return _rule("dam", active, explanation, verdict=verdict, dropped=int(row["queue_full"]), until=until) | facts


def _duplicates(row: Any) -> dict[str, Any]:
    received, duplicate = int(row["received"]), int(row["duplicate"])
    share = duplicate / received if received else 0.0
    mostly = share >= LARGE_SHARE and duplicate >= MANY
    if mostly:
        explanation = (
            f"Most of its frames ({duplicate} of {received}, {share:.0%}) are dropped as duplicates: a recent frame "
            "had the same sequence number and bytes. Either they really arrive twice, or its firmware has no counter "
            "or restarts it at each wake-up, or two devices share this id. For firmware without a counter set "
            "KLAIS_SEQUENCE_OFF."
        )
    elif duplicate:
        explanation = f"{duplicate} of {received} frames ({share:.1%}) arrived twice; the second copy was dropped."
    else:
        explanation = "No frame arrived twice."
    return _rule("duplicate", mostly, explanation, verdict="duplicate", dropped=duplicate, share=round(share, 6))


def _sequence(row: Any) -> dict[str, Any]:
    resets, gaps, late, jumps = (int(row[name]) for name in ("resets", "gaps", "late", "jumps"))
    received = int(row["received"])
    explanation = (
        f"Its sequence restarted {_times(resets)} (no frame is dropped for that); "
        f"{counted(gaps, 'number is', 'numbers are')} missing, {counted(late, 'frame', 'frames')} arrived late."
    )
    if jumps > LARGE_SHARE * received or gaps > received:
        explanation += f" It jumped ahead {_times(jumps)}: the counter may not count frames, but for example time."
    return _rule("sequence", False, explanation, resets=resets, gaps=gaps, late=late, jumps=jumps)


def _sources(row: Any) -> dict[str, Any]:
    turns = int(row["source_turns"])
    if turns >= MANY:
        explanation = (
            f"Its frames alternate between two addresses ({_times(turns)} back to the previous one): two devices may "
            "share this id (a sender may cut ids longer than 16 bytes), or it has two networks. "
            "`klais tail raw` shows the addresses."
        )
    elif row["source"]:
        explanation = "Its frames come from one address."
    else:
        explanation = "Source addresses are not recorded (KLAIS_BATCH_SOURCES)."
    return _rule("sources", turns >= MANY, explanation, turns=turns)


def _malformed(row: Any) -> dict[str, Any]:
    count = int(row["malformed"])
    frames = counted(count, "frame was", "frames were")
    explanation = f"{frames} malformed: see klais_dead_letter." if count else "No frame was malformed."
    return _rule("malformed", False, explanation, dropped=count)


def _anomaly(row: Any, names: Mapping[int, str]) -> dict[str, Any]:
    flag = newest_flag(row, names)
    if flag is None:
        return _rule("anomaly", False, "Never flagged.", flags=0)
    explanation = (
        f"Flagged {_times(int(row['flags']))}, last at {flag['at']}: {flag['explanation']} Flags drop nothing."
    )
    return _rule("anomaly", bool(flag["at_newest_frame"]), explanation, since=flag["at"], flags=int(row["flags"]))


def _times(number: int) -> str:
    return counted(number, "time", "times")
