"""Errors as problem answers (RFC 9457): one handler, one body, whatever went wrong."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from l2d_ray.errors import L2DError, NotFoundError, RequestError, UnavailableError
from l2d_ray.serve.edge import REQUEST_ID
from l2d_ray.serve.messages import FieldError, Problem, field_errors

MEDIA_TYPE: Final = "application/problem+json"

OF_ALL: Final = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
"""What any route behind access control may answer; then also those with a body, those about an item, and those with both."""
OF_BODIES: Final = (
    *OF_ALL,
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)
OF_ITEMS: Final = (*OF_ALL, HTTPStatus.NOT_FOUND)
OF_ITEM_BODIES: Final = (*OF_BODIES, HTTPStatus.NOT_FOUND)


def install(api: FastAPI) -> None:
    """Let every error of the API, also an unforeseen one, be answered as a problem."""
    for kind in (L2DError, RequestValidationError, HTTPException, Exception):
        api.add_exception_handler(kind, _answer)


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` argument of a route that may answer these problems."""
    return {int(status): {"model": Problem, "description": status.phrase} for status in statuses}


def problem_of(error: Exception) -> Problem:
    """What the caller is told: its own mistakes field by field, our faults without their insides."""
    match error:
        case NotFoundError():
            return _problem(HTTPStatus.NOT_FOUND, [FieldError(field=error.field, message=str(error))])
        case RequestError():
            return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, [FieldError(field=error.field, message=str(error))])
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            return _problem(HTTPStatus(error.status_code), detail=str(error.detail))
        case L2DError():
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, detail=str(error))
        case _:
            return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail="The service failed at this request; its log says why.")


async def _answer(request: Request, error: Exception) -> Response:
    request_id = getattr(request.state, "request_id", None)
    problem = problem_of(error).model_copy(update={"request_id": request_id})
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, UnavailableError) and error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if request_id is not None:
        headers[REQUEST_ID] = request_id
    return Response(problem.model_dump_json(), problem.status, headers, MEDIA_TYPE)


def _invalid(error: RequestValidationError) -> Problem:
    if isinstance(error.body, bytes):
        message = "The body was not sent as JSON; send one JSON object with the header Content-Type: application/json."
        return _problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, [FieldError(field="body", message=message)])
    unreadable = [e for e in error.errors() if e["type"] == "json_invalid"]
    if unreadable:
        reason, character = unreadable[0]["ctx"]["error"], unreadable[0]["loc"][-1]
        message = f"The body is not valid JSON ({reason}, at character {character}); send one JSON object."
        return _problem(HTTPStatus.BAD_REQUEST, [FieldError(field="body", message=message)])
    return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, field_errors(error.errors()))


def _problem(status: HTTPStatus, errors: list[FieldError] | None = None, detail: str | None = None) -> Problem:
    errors = errors or []
    said = detail or "; ".join(f"{e.field}: {e.message}" for e in errors[:3])
    return Problem(title=status.phrase, status=int(status), detail=said, errors=errors)
