"""Redis: whether it answers."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from parallama.errors import ConfigError, Unavailable

_LIMIT_S = 1.0


async def ping(url: str) -> None:
    """Ask the Redis at `url` for a sign of life. Raises Unavailable after a second, ConfigError for a bad URL."""
    try:
        # redis-py's own limits and retries wait 30 s and more for a server that hangs
        retry = Retry(NoBackoff(), 0)
        client = Redis.from_url(url, socket_timeout=_LIMIT_S, socket_connect_timeout=_LIMIT_S, retry=retry)
    except ValueError as error:
        raise ConfigError("`redis.url` cannot be used: it must be redis://, rediss:// or unix://") from error
    try:
        async with asyncio.timeout(_LIMIT_S):
            await client.ping()
    except TimeoutError as error:
        raise Unavailable(f"Redis does not answer within {_LIMIT_S:g} s") from error
    except (RedisError, OSError) as error:
        raise Unavailable(f"Redis does not answer: {error}") from error
    finally:
        await client.aclose()
