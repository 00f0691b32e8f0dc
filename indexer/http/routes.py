"""The paths: ask, judge, answer in JSON. A fault of the database is an answer with 503, never a stack trace."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from indexer.errors import IndexerError
from indexer.http.metrics import render
from indexer.http.readiness import Readiness, judge, judge_without_database
from indexer.http.state import HttpState, StatusReader
from indexer.store.reader import StatusDocument

_FRESH: Final = {"Cache-Control": "no-store"}


def make_app(state: HttpState, reader: StatusReader) -> Starlette:
    """Make the ASGI application; `reader` bounds the time that reading `state` may take."""
    answers = _Answers(state, reader)
    app = Starlette(
        routes=[Route(path, endpoint, methods=["GET"]) for path, endpoint in answers.paths.items()],
        exception_handlers={HTTPException: answers.refused, Exception: answers.failed},
    )
    app.router.redirect_slashes = False
    return app


class _Answers:
    """One method a path, and those for what went wrong."""

    def __init__(self, state: HttpState, reader: StatusReader) -> None:
        self._state = state
        self._reader = reader
        self.paths = {
            "/health": self.health,
            "/ready": self.ready,
            "/status": self.status,
            "/metrics": self.metrics,
        }

    async def health(self, _request: Request) -> Response:
        return _json({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        _, verdict = await self._judged()
        return _json(verdict, 200 if verdict["ready"] else 503)

    async def _judged(self) -> tuple[StatusDocument | None, Readiness]:
        """Read the status and judge it; None in its place while the database is away."""
        try:
            document = await self._reader.read()
        except IndexerError as error:
            return None, judge_without_database(str(error), self._state.problems())
        return document, judge(document, self._state.problems())

    async def status(self, _request: Request) -> Response:
        try:
            return _json(await self._reader.read())
        except IndexerError as error:
            return _json({"healthy": False, "error": str(error), "chains": []}, 503)

    async def metrics(self, _request: Request) -> Response:
        document, verdict = await self._judged()
        text = render(document, self._state.counters(), verdict)
        return Response(text, headers={**_FRESH, "Content-Type": CONTENT_TYPE_PLAIN_1_0_0})

    async def refused(self, _request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        body: dict[str, object] = {"error": error.detail.lower()}
        if error.status_code == HTTPStatus.NOT_FOUND:
            body["paths"] = list(self.paths)
        return _json(body, error.status_code, error.headers)

    async def failed(self, _request: Request, _error: Exception) -> Response:
        return _json({"error": "internal error; the log has the details"}, 500)


def _json(body: object, status_code: int = 200, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(body, status_code, headers={**_FRESH, **(headers or {})})
