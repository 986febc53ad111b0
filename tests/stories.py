"""The check of a log that a test leaves behind in memory: every story of it is well-formed."""

from car_rpc.eventlog.story import problems
from car_rpc.testing import MemorySink


async def check_stories(sink: MemorySink) -> None:
    """Whatever a test did: the stories of all its requests are good."""
    if sink.failure is not None:  # the test kept the log from working
        return
    await sink.commit()
    for trace_id in dict.fromkeys(entry.trace_id for entry in sink.entries if entry.trace_id):
        assert list(problems(await sink.story(trace_id))) == [], trace_id
