"""Errors as problem answers (RFC 9457): one handler, one body, whatever went wrong."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from l2d_ray.errors import L2DError, RequestError, UnavailableError
from l2d_ray.serve.messages import FieldError, Problem, field_errors

MEDIA_TYPE: Final = "application/problem+json"


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
    problem = problem_of(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, UnavailableError) and error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
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
