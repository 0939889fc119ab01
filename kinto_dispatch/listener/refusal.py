"""What the client gets when a write must not happen: an error in Kinto's own format."""

from __future__ import annotations

from http import HTTPStatus

from kinto.core.errors import ERRORS, http_error
from pyramid.httpexceptions import (
    HTTPClientError,
    HTTPException,
    HTTPRequestEntityTooLarge,
    HTTPServiceUnavailable,
    status_map,
)

from kinto_dispatch.outcome import Veto


ERRNO = {
    400: ERRORS.INVALID_PARAMETERS,
    401: ERRORS.INVALID_AUTH_TOKEN,
    403: ERRORS.FORBIDDEN,
    404: ERRORS.INVALID_RESOURCE_ID,
    409: ERRORS.CONSTRAINT_VIOLATED,
    412: ERRORS.MODIFIED_MEANWHILE,
    413: ERRORS.REQUEST_TOO_LARGE,
    429: ERRORS.CLIENT_REACHED_CAPACITY,
}
"""Kinto's numbers for what went wrong; other statuses have none."""


def vetoed(veto: Veto) -> HTTPException:
    """The error that a channel asked for, with its reason as the message."""
    error = status_map[veto.status]() if veto.status in status_map else _nameless(veto.status)
    # A lone surrogate cannot be sent.
    message = veto.reason.encode("utf-8", "replace").decode()
    return http_error(error, errno=ERRNO.get(veto.status, ERRORS.UNDEFINED), message=message)


def unavailable(message: str) -> HTTPException:
    """503; Kinto adds Retry-After."""
    return http_error(HTTPServiceUnavailable(), errno=ERRORS.BACKEND, message=message)


def too_large(message: str) -> HTTPException:
    """413, for what no second attempt makes smaller."""
    error = HTTPRequestEntityTooLarge()
    return http_error(error, errno=ERRORS.REQUEST_TOO_LARGE, message=message)


def _nameless(status: int) -> HTTPException:
    """A status that Pyramid has no class for."""
    known = {entry.value: entry.phrase for entry in HTTPStatus}
    error = HTTPClientError()
    error.code, error.title = status, known.get(status, "Refused")
    error.status = f"{status} {error.title}"
    return error
