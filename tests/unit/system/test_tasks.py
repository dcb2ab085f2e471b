"""Tasks that miss cancellations end all the same."""

import asyncio

import pytest

from klais.system import tasks
from klais.system.tasks import StrayCancellation, TaskGroup, end_task, finish

MISSED = 3


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.01)


async def stubborn(missed: list[int]) -> None:
    """Runs on after ``MISSED`` cancellations, as a task does whose library swallows them."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            missed[0] += 1
            if missed[0] > MISSED:
                raise


async def fails() -> None:
    raise ValueError("first")


async def test_a_task_is_cancelled_until_it_ends() -> None:
    missed = [0]
    task = asyncio.create_task(stubborn(missed))
    await asyncio.sleep(0)
    await end_task(task)
    assert task.cancelled() and missed == [MISSED + 1]
    await end_task(task)
    await end_task(None)


async def cleaned(done: list[str], error: Exception | None = None) -> None:
    await asyncio.sleep(0.1)  # ten times the pause between two cancellations
    done.append("cleaned")
    if error is not None:
        raise error


async def run_then_clean(done: list[str], error: Exception | None = None) -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        await finish(cleaned(done, error))
        done.append("not reached if cancelled meanwhile")


@pytest.mark.parametrize("error", [None, ValueError("at the end")])
async def test_cleanup_that_waits_is_finished_although_the_task_is_cancelled_again(error: Exception | None) -> None:
    done: list[str] = []
    task = asyncio.create_task(run_then_clean(done, error))
    await asyncio.sleep(0)
    await end_task(task)
    assert task.cancelled() and done == ["cleaned"]


async def test_cleanup_raises_its_own_error_and_nothing_else() -> None:
    done: list[str] = []
    await finish(cleaned(done))
    with pytest.raises(ValueError, match="at the end"):
        await finish(cleaned(done, ValueError("at the end")))
    assert done == ["cleaned"] * 2


async def test_the_error_of_a_task_that_ended_is_not_raised() -> None:
    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    await end_task(task)
    assert isinstance(task.exception(), ValueError)


async def test_a_group_whose_task_fails_ends_the_others() -> None:
    missed = [0]
    with pytest.raises(ExceptionGroup) as found:
        async with TaskGroup() as group:
            group.create_task(stubborn(missed))
            await asyncio.sleep(0)
            group.create_task(fails())
    assert [str(error) for error in found.value.exceptions] == ["first"] and missed == [MISSED + 1]


async def test_a_group_that_is_cancelled_ends_its_tasks() -> None:
    missed = [0]

    async def run() -> None:
        async with TaskGroup() as group:
            group.create_task(stubborn(missed))
            await asyncio.sleep(0)
            await asyncio.sleep(3600)

    task = asyncio.create_task(run())
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task], timeout=60)
    assert task.cancelled() and missed == [MISSED + 1]


async def test_a_group_fails_if_something_that_a_task_waits_for_is_cancelled() -> None:
    """Otherwise a lane would go on without its journal, for example."""
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def waits() -> None:
        await answer

    with pytest.raises(ExceptionGroup) as found:
        async with asyncio.timeout(60), TaskGroup() as group:
            group.create_task(waits(), name="journal")
            await asyncio.sleep(0)
            answer.cancel()
            await asyncio.sleep(3600)
    (error,) = found.value.exceptions
    assert isinstance(error, StrayCancellation) and str(error) == "journal waited for something that was cancelled"


async def test_a_group_that_fails_at_once_leaves_no_task_that_has_not_begun() -> None:
    with pytest.raises(ExceptionGroup):
        async with TaskGroup() as group:
            group.create_task(asyncio.sleep(3600))
            raise ValueError("before it began")
