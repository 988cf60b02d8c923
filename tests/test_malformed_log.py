"""What the log says of malformed requests. In a module of its own: another gateway would log into it too."""

from __future__ import annotations

import logging

import pytest
from raw_http import raw_client
from running import RunningGateway, eventually
from test_http_abuse import CANARY, UNREADABLE


async def test_a_flood_of_malformed_requests_does_not_flood_the_log(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[dict[str, int]]:
        records = (record for record in caplog.records if record.message == "malformed requests")
        return [vars(record)["fields"]["kinds"] for record in records]

    with caplog.at_level(logging.DEBUG):
        for number in range(200):
            name = ("garbage", "an unknown method")[number % 2]
            async with raw_client(gateway.port) as client:
                await client.send(UNREADABLE[name][0])
                await client.head()
            if not number:
                assert said() == [{"request_line": 1}] or said() == [{"method": 1}], "the first is said at once"
        await eventually(lambda: sum(sum(kinds.values()) for kinds in said()) == 200)
    assert len(said()) < 50
    assert not any(record.exc_info for record in caplog.records)
    assert CANARY not in caplog.text.lower()
