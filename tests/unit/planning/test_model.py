"""The model of ``klais plan``: its figures follow from the costs, and more work never needs less of anything."""

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import klais
from klais.planning.costs import Cost, costs
from klais.planning.model import BUSY, MAX_DEVICE_RATE, MAX_PARTITIONS, Question, batches_per_s, plan

COSTS = costs()
SIZES = [
    ("edges", "cores"), ("edges", "processes"), ("workers", "cores"), ("workers", "processes"), ("Kafka", "cores"),
    ("Kafka", "partitions"), ("Kafka", "brokers"), ("Kafka", "written"), ("Kafka", "disk"), ("Kafka", "changelog"),
]  # fmt: skip
QUESTIONS = st.builds(
    Question,
    devices=st.integers(1, 10**9),
    rate=st.floats(1, 1e8),
    payload_bytes=st.integers(2, 10_000),
    latency_s=st.floats(0.005, 10),
    retention_s=st.floats(60, 1e7),
    replication=st.integers(1, 5),
)


def test_batches_are_one_a_frame_when_frames_are_rare_and_one_a_linger_when_they_are_many() -> None:
    assert batches_per_s(1.0, 64, 4, 0.01) == pytest.approx(1.0, rel=1e-3)
    assert batches_per_s(1e9, 64, 4, 0.01) == pytest.approx(64 * 4 / 0.01)
    assert batches_per_s(0.0, 64, 4, 0.01) == 0.0


def test_the_figures_of_a_small_system() -> None:
    found = plan(Question(devices=1000, rate=2000, payload_bytes=60, latency_s=0.1, replication=1), COSTS)
    batches = found.value("edges", "batches")
    assert batches == pytest.approx(8 / 0.07, rel=0.01)  # 8 partitions, one edge, a linger of 70 ms
    cores = 1e-6 * (2000 * COSTS["worker_us"].value + batches * COSTS["worker_batch_us"].value)
    assert found.value("workers", "cores") == pytest.approx(cores + COSTS["worker_idle"].value)
    assert found.value("workers", "processes") == 1
    assert not found.warnings


@given(QUESTIONS, st.floats(1, 100))
def test_more_frames_never_need_less(question: Question, times: float) -> None:
    less, more = (
        plan(dataclasses.replace(question, rate=rate), COSTS) for rate in (question.rate, question.rate * times)
    )
    for part, name in SIZES:
        assert more.value(part, name) >= less.value(part, name) * (1 - 1e-9), (part, name)


@given(QUESTIONS)
def test_every_figure_is_finite_and_no_process_is_busier_than_planned(question: Question) -> None:
    found = plan(question, COSTS)
    assert all(math.isfinite(line.value) and line.value >= 0 for line in found.lines)
    for part in ("edges", "workers"):
        assert found.value(part, "cores") <= BUSY * found.value(part, "processes") * (1 + 1e-9)
    partitions = found.value("Kafka", "partitions")
    assert partitions <= MAX_PARTITIONS and partitions == 2 ** round(math.log2(partitions))
    if found.value("workers", "processes") > partitions:
        assert any("lanes to share" in text for text in found.warnings)


def test_a_dearer_worker_is_seen_in_the_workers_alone() -> None:
    question = Question(devices=10_000, rate=100_000)
    dear = plan(question, COSTS | {"worker_batch_us": Cost(5000.0, "us a batch", "a test")})
    usual = plan(question, COSTS)
    assert dear.value("workers", "processes") > usual.value("workers", "processes")
    assert dear.value("edges", "cores") == usual.value("edges", "cores")


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Question(devices=10, rate=5e6), "one device sends 500,000 frames/s, and one lane decides all of them"),
        (Question(devices=10**7, rate=5e6), "changelog writes more than 50 MB/s"),
        (Question(devices=10**6, rate=1e6, latency_s=0.01), "allow more latency"),
        (Question(devices=10**9, rate=1e9), "1024 partitions are the maximum"),
        (Question(devices=10**9, rate=1e5), "more than 8 GB"),
    ],
)
def test_what_comes_near_a_limit_is_said(question: Question, words: str) -> None:
    assert any(words in text for text in plan(question, COSTS).warnings)


def test_the_rate_of_one_device_is_that_of_the_document() -> None:
    text = (Path(klais.__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert f"one lane decides all frames of a device, about {MAX_DEVICE_RATE:,.0f} to" in text
