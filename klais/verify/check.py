"""Compares a manifest with the topics: whether the sent frames have landed, once and in order."""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.config.load import Settings
from klais.kafka.offsets import begin_offsets, end_offsets, offsets_at
from klais.kafka.topics import Topics
from klais.sim.columns import FrameColumns, joined
from klais.sim.kinds import DUPLICATE, MALFORMED
from klais.sim.manifest import Manifest
from klais.verify.judge import EXAMPLES, Verdict, group_hashes, judge, out_of_order
from klais.verify.readback import read_topic_columns

__all__ = ["ManifestVerdict", "Verdict", "check_manifest", "judge", "judge_manifest", "sent_columns"]

MARGIN_MS = 60_000  # how far record timestamps may be before the sender's clock
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class ManifestVerdict:
    """Destinations of the frames of a manifest.

    ``good``: distinct well-formed frames sent; ``landed``: those found among the clean records; ``missing``: the rest;
    ``doubled``: clean records beyond one per frame; ``invented``: clean records of these devices that were never sent;
    ``out_of_order``: against the send order of a device; ``malformed``: sent; ``malformed_dead`` and
    ``malformed_landed``: those found among the dead letters and the clean records; ``wrong_reason``: dead letters with
    another reason than sent; ``good_dead``: good frames among the dead letters.
    """

    sent: int
    good: int
    landed: int
    missing: int
    doubled: int
    invented: int
    out_of_order: int
    malformed: int
    malformed_dead: int
    malformed_landed: int
    wrong_reason: int
    good_dead: int
    examples: dict[str, list[str]] = field(default_factory=dict)

    NEVER = ("doubled", "invented", "out_of_order", "malformed_landed", "wrong_reason", "good_dead")

    def ok(self, allow_missing: int = 0, strict: bool = False) -> bool:
        """Whether the run succeeded: at most ``allow_missing`` missing; ``strict``: every malformed frame is a dead
        letter.

        Without ``strict`` malformed frames may be missing: above KLAIS_DEAD_LETTER_RATE they are only counted.
        """
        bad = any(getattr(self, name) for name in self.NEVER)
        return not bad and self.missing <= allow_missing and not (strict and self.malformed_dead < self.malformed)

    def public(self) -> dict[str, Any]:
        """As a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}

    def table(self, ok: bool) -> str:
        """The verdict as a text table."""
        rows = [("frames sent", self.sent, "including repeats and malformed frames")]
        rows += [
            ("good frames", self.good, ""),
            ("landed", self.landed, ""),
            ("missing", self.missing, "lost or dropped"),
        ]
        rows += [(name.replace("_", " "), getattr(self, name), "must be 0") for name in self.NEVER]
        rows += [("malformed", self.malformed, ""), ("malformed in the dead letters", self.malformed_dead, "")]
        lines = [f"{name:<30} {count:>14,}  {note}".rstrip() for name, count, note in rows]
        lines += [f"  {name.replace('_', ' ')}: {', '.join(frames)}" for name, frames in self.examples.items()]
        return "\n".join([*lines, "OK" if ok else "NOT OK"])


def sent_columns(manifest: Manifest) -> FrameColumns:
    """The frames of a manifest, in send order; ``reason`` is the kind of each."""
    words = np.ascontiguousarray(manifest.ids()).view("<u8").astype(np.uint64)
    n = manifest.count
    return FrameColumns(
        ids=words[manifest.device],
        sequence=manifest.sequence,
        hashes=manifest.hashes,
        ts_ms=manifest.sent_at_ns // 1_000_000,
        reason=manifest.kind,
        lane=np.ones(n, np.bool_),
        partition=np.zeros(n, np.int32),
    )


def judge_manifest(sent: FrameColumns, landed: FrameColumns, dead: FrameColumns) -> ManifestVerdict:
    """Compare landed frames with sent ones (:func:`sent_columns`). Records of other devices are ignored.

    A repeated frame counts once, because the system drops its repeats. Dead letters that were never sent are also
    ignored, because a short frame has no device id.
    """
    landed = landed.take(np.isin(landed.device_keys(), sent.device_keys()))
    groups = group_hashes(sent, landed, dead)
    of_sent, of_landed, of_dead = groups.parts
    bad = sent.reason >= MALFORMED
    good = np.bincount(of_sent[~bad & (sent.reason != DUPLICATE)], minlength=groups.count)
    malformed = np.bincount(of_sent[bad], minlength=groups.count)
    got = np.bincount(of_landed, minlength=groups.count)
    gone = np.bincount(of_dead, minlength=groups.count)
    kind = np.zeros(groups.count, np.uint8)
    kind[of_sent] = sent.reason
    behind = out_of_order(sent, landed, of_sent, of_landed, groups.count)
    wrong = (malformed[of_dead] > 0) & (dead.reason != kind[of_dead])
    found = {
        "missing": _named(sent, of_sent, got < good),
        "doubled": _named(sent, of_sent, (got > good) & (good > 0)),
        "invented": _named(landed, of_landed, (good == 0) & (malformed == 0)),
        "out_of_order": _names(landed, np.flatnonzero(behind)),
        "wrong_reason": _names(dead, np.flatnonzero(wrong)),
    }
    return ManifestVerdict(
        sent=sent.count,
        good=int(good.sum()),
        landed=int(np.minimum(got, good).sum()),
        missing=int(np.maximum(good - got, 0).sum()),
        doubled=int(np.maximum(got - good, 0)[good > 0].sum()),
        invented=int(got[(good == 0) & (malformed == 0)].sum()),
        out_of_order=int(behind.sum()),
        malformed=int(malformed.sum()),
        malformed_dead=int(np.minimum(malformed, gone).sum()),
        malformed_landed=int(got[(good == 0) & (malformed > 0)].sum()),
        wrong_reason=int(wrong.sum()),
        good_dead=int(gone[good > 0].sum()),
        examples={name: names for name, names in found.items() if names},
    )


def _named(columns: FrameColumns, groups: npt.NDArray[np.int64], which: npt.NDArray[np.bool_]) -> list[str]:
    first = np.unique(groups, return_index=True)[1]
    return _names(columns, np.sort(first[which[groups[first]]]))


def _names(columns: FrameColumns, rows: npt.NDArray[np.int64]) -> list[str]:
    return [columns.name(int(i)) for i in rows[:EXAMPLES]]


def check_manifest(settings: Settings, manifest: Manifest, wait_s: float = 10.0) -> ManifestVerdict:
    """Read clean records and dead letters since the manifest's start, and judge them; waits for frames in flight.

    Stops reading as soon as every frame has landed, else after ``wait_s`` seconds.

    Raises
    ------
    klais.errors.KafkaUnavailable
        If no broker responds, or the topics do not exist.
    """
    topics, sent = Topics.of(settings), sent_columns(manifest)
    started_ms = manifest.started_ms
    parts: dict[str, list[FrameColumns]] = {topics.telemetry: [], topics.dead_letter: []}
    at = {topic: _since(settings, topic, started_ms - MARGIN_MS) for topic in parts}
    deadline = time.monotonic() + wait_s
    while True:
        for topic, pieces in parts.items():
            ends = end_offsets(settings, topic)
            columns = read_topic_columns(settings, topic, at[topic], ends)
            pieces.append(columns.take((columns.ts_ms >= started_ms) | (columns.ts_ms == 0)))
            at[topic] = ends
        verdict = judge_manifest(sent, joined(parts[topics.telemetry]), joined(parts[topics.dead_letter]))
        if verdict.ok(strict=True) or time.monotonic() >= deadline:
            return verdict
        time.sleep(POLL_S)


def _since(settings: Settings, topic: str, ts_ms: int) -> dict[int, int]:
    first = begin_offsets(settings, topic)
    return {p: max(first[p], offset) for p, offset in offsets_at(settings, topic, ts_ms).items()}
