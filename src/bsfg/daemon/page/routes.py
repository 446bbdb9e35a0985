"""The page's requests: who is let in, what is answered, and how the three actions are done.

Everything but the login needs a session's cookie (HttpOnly, SameSite=Strict). An action needs, besides, the form's own
token, and must not come from another site. It asks for a reason, and is audited under the session's name.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from bsfg.daemon.caller import note_caller
from bsfg.daemon.local_guards import Handler
from bsfg.daemon.page import handoffs
from bsfg.daemon.page.live import Live
from bsfg.daemon.page.render import Renderer
from bsfg.daemon.page.sessions import SESSION_SECONDS, TOKEN_SECONDS, Session, Sessions
from bsfg.daemon.page.sources import PageSources
from bsfg.daemon.partitions import REASON_CHARACTERS_MAX, SECONDS_DEFAULT
from bsfg.errors import BsfgError, Code
from bsfg.ports import Clock

COOKIE: Final = "bsfg_session_"
"""With the zone's name behind it: browsers share cookies among the ports of a host."""
ROOT: Final = "/page"
FIELD_CHARACTERS_MAX: Final = 2_048
ACTIONS: Final = ("partition", "reconcile", "retry")
STATIC: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "uPlot.iife.min.js": "text/javascript; charset=utf-8",
    "uPlot.min.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_REPORT_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
"""A report may bring its own styles; in a sandbox it has no script, no form and no origin."""
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Page:
    """The operator page of one gateway."""

    def __init__(self, sources: PageSources, zone: str, clock: Clock) -> None:
        self._sources, self._zone, self._cookie = sources, zone, COOKIE + zone
        self._sessions = Sessions(clock)
        self._renderer = Renderer(sources)
        self._live = Live(self._renderer, sources.series, zone, clock)
        self._static = {name: (files("bsfg.daemon.page") / "static" / name).read_bytes() for name in STATIC}

    def routes(self) -> list[web.RouteDef]:
        """For ``local:``; none of them needs the local API's token."""
        return [
            web.get("/", self._to_page),
            web.get(ROOT, self._guarded(self._show)),
            web.get(f"{ROOT}/login", self._login),
            web.get(f"{ROOT}/events", self._guarded(self._events)),
            web.get(f"{ROOT}/act/{{action}}", self._guarded(self._ask)),
            web.post(f"{ROOT}/act/{{action}}", self._guarded(self._act)),
            web.post(f"{ROOT}/logout", self._guarded(self._logout)),
            web.get(f"{ROOT}/handoff/{{folder}}/{{name}}", self._guarded(self._report)),
            web.get(f"{ROOT}/static/{{name}}", self._static_file),
        ]

    def login_route(self, address: Callable[[], str]) -> web.RouteDef:
        """For the Unix socket: ``bsfg page`` asks for an address with a one-time token."""

        async def route(request: web.Request) -> web.Response:
            url = f"http://{address()}{ROOT}/login?token={self._sessions.issue()}"
            self._sources.audit("page.token", "allowed")
            return web.json_response({"url": url, "seconds": TOKEN_SECONDS})

        return web.post("/v1/page/login", route)

    # Who is let in.

    def _guarded(self, handler: Callable[[web.Request, Session], Any]) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            session = self._sessions.find(request.cookies.get(self._cookie))
            if session is None:
                text = self._renderer.notice("Log in", "This page needs a login. On the gateway's machine, type:")
                return _html(text, status=401)
            note_caller(f"page session {session.id} from {request.remote}")
            try:
                response: web.StreamResponse = await handler(request, session)
            except BsfgError as error:
                text = self._renderer.notice("That was not possible", error.message)
                return _html(text, status=error.code.http_status)
            return response

        return guarded

    async def _to_page(self, request: web.Request) -> web.StreamResponse:
        return _see_other(ROOT)

    async def _login(self, request: web.Request) -> web.StreamResponse:
        note_caller(f"a browser at {request.remote}")
        found = self._sessions.redeem(request.query.get("token", "")[:FIELD_CHARACTERS_MAX])
        if found is None:
            self._sources.audit("page.login", "denied", source=request.remote)
            text = self._renderer.notice(
                "This address is used up", "It was good once, and for five minutes. For a new one, type:"
            )
            return _html(text, status=403)
        cookie, session = found
        self._sources.audit("page.login", "allowed", source=request.remote, session=session.id)
        # A redirect of a request that began elsewhere would not carry the cookie; a page that goes on by itself does.
        response = _html(self._renderer.welcome())
        response.set_cookie(
            self._cookie, cookie, path=ROOT, max_age=int(SESSION_SECONDS), httponly=True, samesite="Strict"
        )
        return response

    async def _logout(self, request: web.Request, session: Session) -> web.StreamResponse:
        await self._form(request, session)
        self._sessions.end(request.cookies.get(self._cookie))
        response = _html(self._renderer.notice("Logged out", "For a new login, on the gateway's machine, type:"))
        response.del_cookie(self._cookie, path=ROOT)
        return response

    # What is answered.

    async def _show(self, request: web.Request, session: Session) -> web.StreamResponse:
        shot = await self._live.snapshot()
        return _html(await self._renderer.page(session, shot.parts, self._zone))

    async def _events(self, request: web.Request, session: Session) -> web.StreamResponse:
        cookie = request.cookies.get(self._cookie)
        events = self._live.events(lambda: self._sessions.find(cookie) is session and _is_open(request))
        first = await anext(events)
        response = web.StreamResponse(headers=_HEADERS | {"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        try:
            await response.write(first)
            async for event in events:
                await response.write(event)
        except ConnectionError:
            # The page was closed; nothing is owed to anybody.
            return response
        finally:
            await events.aclose()
        return response

    async def _report(self, request: web.Request, session: Session) -> web.StreamResponse:
        names = request.match_info
        content, media_type = handoffs.read_file(
            self._sources.handoff_directory, names["folder"], names["name"]
        )
        headers = _HEADERS | {"Content-Type": media_type, "Content-Security-Policy": _REPORT_POLICY}
        return web.Response(body=content, headers=headers)

    async def _static_file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in STATIC:
            raise web.HTTPNotFound
        headers = _HEADERS | {"Content-Type": STATIC[name], "Cache-Control": "private, max-age=300"}
        return web.Response(body=self._static[name], headers=headers)

    # What is done.

    async def _ask(self, request: web.Request, session: Session) -> web.StreamResponse:
        action, subject = self._action(request), request.query.get("subject", "")[:FIELD_CHARACTERS_MAX]
        return _html(self._renderer.action(session, action, subject))

    async def _act(self, request: web.Request, session: Session) -> web.StreamResponse:
        action = self._action(request)
        form = await self._form(request, session)
        subject, reason = form.get("subject", ""), form.get("reason", "").strip()
        try:
            if not reason or len(reason) > REASON_CHARACTERS_MAX:
                raise BsfgError(
                    Code.INVALID_REQUEST, f"it needs a reason of at most {REASON_CHARACTERS_MAX} characters"
                )
            done = await self._do(action, subject, reason, form)
        except BsfgError as error:
            self._record(session, action, "denied", subject, reason, cause=error.message)
            session.say(f"{action} {subject}: {error.message}", bad=True)
        else:
            self._record(session, action, "allowed", subject, reason)
            session.say(done)
        self._live.forget()
        return _see_other(ROOT)

    async def _do(self, action: str, subject: str, reason: str, form: dict[str, str]) -> str:
        match action:
            case "partition":
                seconds = _seconds(form.get("seconds", ""))
                await self._sources.partition(subject, reason, seconds)
                return f"{subject} is cut off."
            case "reconcile":
                answer = await self._sources.reconcile(subject)
                was = bool(answer.get("was_partitioned"))
                return f"{subject} is let back; its links catch up." if was else f"{subject} was not cut off."
        assert self._sources.artifacts is not None
        await self._sources.artifacts.retry(subject)
        return f"{subject} is tried again."

    def _action(self, request: web.Request) -> str:
        action = request.match_info["action"]
        if action not in ACTIONS or (action == "retry" and self._sources.artifacts is None):
            raise BsfgError(Code.NOT_FOUND, "there is no such action")
        return action

    async def _form(self, request: web.Request, session: Session) -> dict[str, str]:
        """The fields of a form that this session's own page sent; ``identity_rejected`` for any other."""
        fields = {
            name: str(value)[:FIELD_CHARACTERS_MAX]
            for name, value in (await request.post()).items()
            if isinstance(value, str)
        }
        if _is_foreign(request) or not session.is_form(fields.get("form_token", "")):
            self._sources.audit("page.form", "denied", source=request.remote, session=session.id)
            raise BsfgError(Code.IDENTITY_REJECTED, "this form is not from this page; load it again")
        return fields

    def _record(
        self, session: Session, action: str, outcome: str, subject: str, reason: str, **more: Any
    ) -> None:
        self._sources.audit(
            f"page.{action}", outcome, session=session.id, subject=subject, reason=reason, **more
        )


def _is_foreign(request: web.Request) -> bool:
    """Whether a browser says that another site sent this; one that says nothing is judged by the form's token alone."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is not None and urlsplit(origin).netloc != request.headers.get(hdrs.HOST, "")


def _is_open(request: web.Request) -> bool:
    """Whether somebody still reads: a closed page is not noticed by a stream that has nothing to say."""
    return request.transport is not None and not request.transport.is_closing()


def _seconds(text: str) -> float | None:
    """How long a partition lasts by the form: seconds, or ``until-reconciled``."""
    if text == "until-reconciled":
        return None
    if not text:
        return SECONDS_DEFAULT
    if not text.isascii() or not text.isdecimal() or len(text) > 6:
        raise BsfgError(Code.INVALID_REQUEST, "the duration is not a number of seconds")
    return float(text)


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, headers=_HEADERS, content_type="text/html", charset="utf-8")


def _see_other(path: str) -> web.Response:
    return web.Response(status=303, headers=_HEADERS | {"Location": path})
