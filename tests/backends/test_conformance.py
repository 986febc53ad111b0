from typing import Any

from car_rpc.testing import check_backend


async def test_every_backend_does_what_the_engine_relies_on(candidate: Any) -> None:
    await check_backend(
        candidate.backend, candidate.model, candidate.endless, params={"max_tokens": 24}
    )
