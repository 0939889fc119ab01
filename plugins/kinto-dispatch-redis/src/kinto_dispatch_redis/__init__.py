"""Redis for kinto-dispatch: each event at the end of a list, oldest first for ``BLPOP``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from kinto_dispatch import Event, Outcome, hookimpl
from kinto_dispatch_redis.client import ListClient, check_url
from kinto_dispatch_redis.message import item


__all__ = ["RedisChannel", "RedisSettings"]


class RedisSettings(BaseModel):
    """What stands in the ini, in the words of Kinto's tutorial."""

    model_config = ConfigDict(frozen=True)

    url: SecretStr = Field(description="the server, as in redis://:password@host:6379/0")
    pool_size: int = Field(5, ge=1, le=1000, description="most connections at a time")
    # The default of kinto-redis, whose consumers go on unchanged.
    listname: str = Field("kinto.core.events", description="the key of the list")

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        check_url(url.get_secret_value().strip())
        return url


class RedisChannel:
    """One list on one server."""

    Settings = RedisSettings

    def __init__(self, settings: RedisSettings) -> None:
        url = settings.url.get_secret_value().strip()
        self._list = ListClient(url, settings.pool_size, settings.listname)

    @hookimpl
    def on_event(self, event: Event) -> Outcome:
        """Append while the client of the write waits."""
        return self._list.append(item(event))

    @hookimpl
    async def on_event_async(self, event: Event) -> Outcome:
        """Append in the worker."""
        return await self._list.append_async(item(event))

    async def close(self) -> None:
        """Give back the connections."""
        await self._list.close()
