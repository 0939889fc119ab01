"""Who is in a group of Kinto, asked when a message is sent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from kinto_dispatch.errors import GroupsUnavailable


logger = logging.getLogger(__name__)

MEMORY = "kinto.core.storage.memory"


class Groups:
    """Reads groups from Kinto's storage, with a connection of its own made when first needed.

    ``settings`` are Kinto's, as ``configure`` gets them. Safe to use from many threads.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._storage: Any = None

    def members(self, bucket_id: str, group_id: str) -> Sequence[object]:
        """The members of a group as they are now; none where it does not exist, which is logged.

        Blocks for the storage. Raises ``GroupsUnavailable``.
        """
        from kinto.core.storage.exceptions import BackendError, ObjectNotFoundError

        try:
            group = self._opened().get(
                resource_name="group", parent_id=f"/buckets/{bucket_id}", object_id=group_id
            )
        except ObjectNotFoundError:
            uri = f"/buckets/{bucket_id}/groups/{group_id}"
            logger.warning("group.missing uri=%s: nobody is written to because of it", uri)
            return []
        except BackendError as error:
            reason = next(iter(str(error.original).splitlines()), type(error.original).__name__)
            raise GroupsUnavailable(f"Kinto's storage did not answer: {reason}") from error
        members = group.get("members")
        return members if isinstance(members, list) else []

    def _opened(self) -> Any:
        with self._lock:
            if self._storage is None:
                self._storage = _open(self._settings)
            return self._storage


def _open(settings: Mapping[str, Any]) -> Any:
    from kinto.core import DEFAULT_SETTINGS
    from kinto.core.initialization import load_default_settings
    from pyramid.config import Configurator

    config = Configurator(settings={"settings_prefix": "kinto", **settings})
    load_default_settings(config, DEFAULT_SETTINGS)
    # Each read is a transaction of its own: there is no request that would end one.
    config.add_settings({"transaction_per_request": False})
    backend = config.get_settings()["storage_backend"]
    if not backend or backend == MEMORY:
        raise GroupsUnavailable(
            "with memory storage only Kinto's own process knows them. Name addresses, or use "
            "PostgreSQL storage"
        )
    return config.maybe_dotted(backend).load_from_config(config)
