"""Expected records against those of a topic: each once and in order, but for what lanes have counted."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

from klais.verify.comparison import ANY, Comparison


async def topic(records: Iterable[Any]) -> AsyncIterator[Any]:
    """Contents, or (content, step of the mark)."""
    for record in records:
        yield record if isinstance(record, tuple) else (record, None)


async def compared(actual: Iterable[Any], expected: Iterable[Any], may_lose: int = 0) -> tuple[Comparison, list[str]]:
    problems: list[str] = []
    comparison = Comparison("topic", topic(actual), problems.append, may_lose)
    for wanted in expected:
        if isinstance(wanted, tuple):
            await comparison.set_aside(*wanted)
        else:
            await comparison.expect(wanted)
    await comparison.end()
    return comparison, problems


async def test_the_same_records_in_the_same_order() -> None:
    found, problems = await compared("abc", "abc")
    assert problems == [] and (found.count, found.lost, found.doubled) == (3, 0, 0)


async def test_what_is_missing_doubled_or_out_of_order_is_a_problem() -> None:
    for actual in ("ac", "abbc", "acb", "abcd", ""):
        _, problems = await compared(actual, "abc")
        assert problems, actual


async def test_as_many_are_missing_as_lanes_have_counted_and_no_more_and_no_fewer() -> None:
    found, problems = await compared("aef", "abcdef", may_lose=3)
    assert problems == [] and found.lost == 3
    assert (await compared("abef", "abcdef", may_lose=3))[1] == ["topic: 2 records are missing, the journal has 3"]
    assert (await compared("aef", "abcdef", may_lose=2))[1]


async def test_records_of_steps_that_the_journal_lost_come_twice_or_are_there_once() -> None:
    """Steps 3 and 4 put out c, d, e and were lost; c and d are decided again, e's raw record is gone."""
    actual = [("a", None), ("b", 2), ("c", 3), ("d", None), ("e", 4), ("c", None), ("d", 7), ("f", 8)]
    found, problems = await compared(actual, ["a", "b", (3, 4), "c", "d", "f"])
    assert problems == [] and (found.doubled, found.unknown, found.count) == (2, 1, 5)


async def test_of_lost_steps_only_the_records_since_the_last_mark_are_held() -> None:
    """A journal may lose a day of steps: what they put out must fit the memory."""
    held: list[int] = []

    async def many() -> AsyncIterator[Any]:
        for n in range(2000):
            held.append(Big.alive)
            yield (Big(f"record {n}"),), n // 4 if n % 4 == 3 else None
        yield ("f",), 1000

    comparison = Comparison("topic", many(), lambda text: None)
    await comparison.set_aside(0, 499)
    assert max(held) <= 8 and comparison.unknown == 2000
    await comparison.expect((Big("record 7"),))
    await comparison.expect(("f",))
    assert (comparison.doubled, comparison.unknown) == (1, 1999)


class Big:
    """A content that counts how many of it exist."""

    alive = 0

    def __init__(self, text: str) -> None:
        self.text = text
        Big.alive += 1

    def __del__(self) -> None:
        Big.alive -= 1

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Big) and self.text == other.text


async def test_steps_that_the_journal_lost_may_have_put_out_nothing() -> None:
    found, problems = await compared([("a", 1), ("f", 8)], ["a", (3, 4), "f"])
    assert problems == [] and found.unknown == 0


async def test_a_record_whose_content_nobody_knows() -> None:
    found, problems = await compared("axb", ["a", ANY, "b"])
    assert problems == [] and found.count == 3
    assert (await compared("a", ["a", ANY]))[1]
