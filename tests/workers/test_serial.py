from collections.abc import Generator
from typing import Any

from car_rpc.errors import CarError
from car_rpc.wire.worker import Failed, FromWorker, Reply, Transcribe
from car_rpc.workers.job import Job
from car_rpc.workers.serial import SerialQueue, Work


class Desk:
    """Jobs in a queue, what was done in which order, and what was answered."""

    def __init__(self) -> None:
        self.queue = SerialQueue()
        self.done: list[str] = []
        self.answers: list[FromWorker] = []

    def job(self, job_id: int, work: Work) -> Job:
        job = Job(Transcribe(id=job_id), self.answers.append, lambda _: None)
        self.queue.add(job, work)
        return job

    def steps(self, name: str, count: int, error: Exception | None = None) -> Work:
        def work() -> Generator[None, None, Any]:
            try:
                for index in range(count):
                    self.done.append(f"{name}{index}")
                    yield
                if error is not None:
                    raise error
                return name
            finally:
                self.done.append(f"{name} closed")

        return work()

    def finish(self) -> None:
        while self.queue.step():
            pass


def test_jobs_are_worked_on_one_after_the_other() -> None:
    desk = Desk()
    desk.job(1, desk.steps("a", 2))
    desk.job(2, desk.steps("b", 1))
    desk.finish()
    assert desk.done == ["a0", "a1", "a closed", "b0", "b closed"]
    assert desk.answers == [Reply(id=1, result="a"), Reply(id=2, result="b")]


def test_a_step_is_one_piece_of_work() -> None:
    desk = Desk()
    desk.job(1, desk.steps("a", 2))
    assert desk.queue.step()
    assert desk.done == ["a0"]


def test_an_empty_queue_has_nothing_to_do() -> None:
    assert not Desk().queue.step()


def test_a_failure_is_the_jobs_answer_and_the_next_one_goes_on() -> None:
    desk = Desk()
    desk.job(1, desk.steps("a", 1, CarError("invalid_request", "no")))
    desk.job(2, desk.steps("b", 1))
    desk.finish()
    assert desk.answers == [
        Failed(id=1, kind="invalid_request", detail="no"),
        Reply(id=2, result="b"),
    ]


def test_a_cancelled_job_is_closed_and_the_next_one_goes_on() -> None:
    desk = Desk()
    first = desk.job(1, desk.steps("a", 5))
    desk.job(2, desk.steps("b", 1))
    desk.queue.step()
    first.cancel()
    desk.finish()
    assert desk.done == ["a0", "a closed", "b0", "b closed"]
    assert [type(answer) for answer in desk.answers] == [Failed, Reply]


def test_what_is_forgotten_is_closed() -> None:
    desk = Desk()
    desk.job(1, desk.steps("a", 5))
    desk.queue.step()
    desk.queue.reset()
    assert desk.done == ["a0", "a closed"]
    assert desk.queue.jobs == []
    assert not desk.queue.step()
