"""Within a window the order of flags does not matter, nor how they are split; summaries of parts make the whole."""

from hypothesis import given
from hypothesis import strategies as st

from klais.core.incidents.grouping import Grouping, Rules
from klais.core.incidents.incident import Incident, id_of, incident_of, sentence, shown
from klais.core.incidents.summary import FlagSeen, Summary, summary_of

T0 = 1_700_000_000_000
NAMES = st.one_of(st.sampled_from([f"dev-{i}" for i in range(12)]), st.text(min_size=1, max_size=16))
FLAGS = st.builds(
    FlagSeen,
    device=NAMES,
    feature=st.sampled_from(["t", "rpm", "interval_s", "a\nb", "\x1b[2J"]),
    cause=st.sampled_from(["level", "jump", "stuck", "interval", "silence", "absent"]),
    at_ms=st.integers(T0, T0 + 30_000),
    score=st.floats(5, 40).map(lambda x: round(x, 1)),
    value=st.one_of(st.none(), st.floats(-1e6, 1e6)),
    expected=st.one_of(st.none(), st.floats(-1e6, 1e6)),
    partition=st.integers(0, 12),
    edge=st.one_of(st.none(), st.integers(0, 12)),
    firmware=st.sampled_from(["", "1.0", "2.0"]),
    explanation=st.text(max_size=20),
)


def outcome(parts: list[list[FlagSeen]]) -> tuple[list[object], object]:
    grouping = Grouping(Rules())
    for part in parts:
        for flag in part:
            grouping.absorb(flag)
    changed = grouping.settle(T0 + 31_000)
    return [one.state() for one in changed], grouping.state()


@given(st.lists(FLAGS, max_size=60), st.randoms(use_true_random=False))
def test_any_order_within_a_window_gives_the_same_incidents(flags, random):
    shuffled = flags.copy()
    random.shuffle(shuffled)
    assert outcome([flags]) == outcome([shuffled[:7], shuffled[7:]])


@given(st.lists(FLAGS, min_size=1, max_size=40), st.integers(0, 40))
def test_a_summary_is_that_of_its_parts_and_survives_json(flags, cut):
    def summed(part):
        whole = Summary.of(part[0])
        for flag in part[1:]:
            whole.merge(Summary.of(flag))
        return whole

    whole = summed(flags)
    if 0 < cut < len(flags):
        parts = summed(flags[cut:])
        parts.merge(summed(flags[:cut]))
        assert parts.record() == whole.record()
    assert summary_of(whole.record()).record() == whole.record()
    assert whole.flags == len(flags) and whole.members.count == len({flag.device for flag in flags})


@given(st.lists(FLAGS, min_size=1, max_size=10), st.sampled_from(["device", "group", "fleet"]))
def test_every_incident_says_what_it_is_in_one_printable_line(flags, kind):
    whole = Summary.of(flags[0])
    for flag in flags[1:]:
        whole.merge(Summary.of(flag))
    incident = Incident(id_of(flags[0]), kind, flags[0].feature, whole, T0)
    assert sentence(incident).isprintable() and sentence(incident).endswith(".")
    assert shown(incident_of(incident.state())) == shown(incident)
