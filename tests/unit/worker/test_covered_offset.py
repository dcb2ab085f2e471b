"""The offset that a checkpoint covers: equal to that of a full list of acknowledgements, with constant memory."""

from hypothesis import given
from hypothesis import strategies as st

from klais.worker.covered_offset import CoveredOffset

actions = st.lists(st.sampled_from(["decide", "acknowledge", "begin", "ask"]), max_size=60)


@given(actions)
def test_it_is_the_offset_of_the_last_step_that_the_checkpoint_covers(actions):
    covered, every = CoveredOffset(), []
    decided = acknowledged = begun = 0
    for action in actions:
        if action == "decide":
            decided += 1
        elif action == "acknowledge" and acknowledged < decided:
            acknowledged += 1
            every.append((acknowledged, 10 * acknowledged))
            covered.acknowledged(*every[-1])
        elif action == "begin":  # at the newest step decided, as a snapshot does
            begun = decided
            covered.begin(begun)
        elif action == "ask":
            assert covered.offset(-5) == max((offset for step, offset in every if step <= begun), default=-5)
    assert all(isinstance(kept, int) for kept in vars(covered).values())
