"""Routes of sign-in, sign-out and the account page.

Programs may sign in too (``gradio_client``'s ``auth=``): a caller that does not accept HTML gets JSON. Forms posted
from foreign pages are rejected by ``host_check``.
"""

import secrets
from typing import Any
from urllib.parse import parse_qs

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from diffusion_local.accounts.service import Accounts
from diffusion_local.accounts.store import KNOWN_DAYS
from diffusion_local.actor import Actor, current
from diffusion_local.errors import Forbidden, InvalidParams, LimitReached, Unauthorized, UserError
from diffusion_local.messages import message
from diffusion_local.settings import Settings
from diffusion_local.web import authentication
from diffusion_local.web.account import pages
from diffusion_local.web.authentication import SESSION_KEY, cookie_name
from diffusion_local.web.error_responses import NOT_CACHED, error_response, headers_of, status_of
from diffusion_local.web.ui import view
from diffusion_local.web.ui.words import say

MOST_BYTES = 8192
DAY = 86400
AT_ONCE = 2  # passwords that are checked at a time, as each takes much memory


def add(app: FastAPI, accounts: Accounts, settings: Settings) -> None:
    cookie = cookie_name(settings)
    device_cookie = f"{cookie}_device"
    hashing = anyio.CapacityLimiter(AT_ONCE)

    def device(request: Request) -> str:
        return authentication.cookie_value(request.headers.get("cookie", ""), device_cookie)

    @app.get("/login", include_in_schema=False)
    async def login_page(request: Request, next: str = "", out: bool = False) -> Response:
        if current().source != "nobody":  # signed in, or there is nothing to sign in to
            return redirect_to(request, next)
        note = say("account.signed_out") if out else ""
        return html(pages.sign_in(root_of(request), next, note=note))

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        fields = await form_of(request)
        name, password, following = (first_value(fields, each) for each in ("username", "password", "next"))
        address = request.client.host if request.client else ""
        agent = request.headers.get("user-agent", "")
        try:
            next_device = secrets.token_urlsafe(32)
            credentials = name, password, address, agent, device(request), next_device
            secret = await anyio.to_thread.run_sync(accounts.sign_in, *credentials, limiter=hashing)
        except (Unauthorized, LimitReached) as error:
            return refused(request, error, name, following)
        answer: Response = redirect_to(request, following) if wants_html(request) else JSONResponse({"success": True})
        secure = request.url.scheme == "https"
        for key, value, days in ((cookie, secret, settings.session_days), (device_cookie, next_device, KNOWN_DAYS)):
            answer.set_cookie(key, value, days * DAY, path="/", httponly=True, samesite="lax", secure=secure)
        return answer

    @app.post("/logout", include_in_schema=False)
    async def logout(request: Request) -> Response:
        session = request.scope.get(SESSION_KEY)
        if session:
            await anyio.to_thread.run_sync(accounts.sign_out, session.account, session.id)
        answer = RedirectResponse(f"{root_of(request)}/login?out=true", 303, headers=NOT_CACHED)
        answer.delete_cookie(cookie, path="/")
        return answer

    def account_response(request: Request, status: int = 200, **more: Any) -> Response:
        who = signed_in()
        session = request.scope[SESSION_KEY]
        content = pages.account(
            root_of(request),
            who,
            accounts.allowance(who.name),
            accounts.used_today(who.name),
            accounts.tokens(who.name),
            accounts.sessions(who.name),
            session.id,
            **more,
        )
        return html(content, status)

    async def apply_change(request: Request, change: Any) -> Response:
        """Apply a change; the account page afterwards, or with the error."""
        signed_in()
        fields = await form_of(request)
        try:
            more = await anyio.to_thread.run_sync(change, fields, limiter=hashing)
        except UserError as error:
            problem, status = view.problem(error), status_of(error)
            return await anyio.to_thread.run_sync(lambda: account_response(request, status, problem=problem))
        if more is None:
            return RedirectResponse(f"{root_of(request)}/account", 303, headers=NOT_CACHED)
        return await anyio.to_thread.run_sync(lambda: account_response(request, **more))

    @app.get("/account", include_in_schema=False)
    def account_page(request: Request) -> Response:
        if current().source == "local":
            return redirect_to(request, "/")
        return account_response(request)

    @app.post("/account/tokens", include_in_schema=False)
    async def new_token(request: Request) -> Response:
        def change(fields: dict[str, list[str]]) -> dict[str, str]:
            return {
                "secret": accounts.add_token(signed_in().name, first_value(fields, "name"), fields.get("scope", []))[1]
            }

        return await apply_change(request, change)

    @app.post("/account/tokens/remove", include_in_schema=False)
    async def remove_token(request: Request) -> Response:
        return await apply_change(
            request, lambda fields: accounts.remove_token(signed_in().name, first_value(fields, "id"))
        )

    @app.post("/account/sessions/end", include_in_schema=False)
    async def end_session(request: Request) -> Response:
        def change(fields: dict[str, list[str]]) -> None:
            accounts.sign_out(signed_in().name, first_value(fields, "id"), request.scope[SESSION_KEY].id)

        return await apply_change(request, change)

    @app.post("/account/password", include_in_schema=False)
    async def change_password(request: Request) -> Response:
        def change(fields: dict[str, list[str]]) -> dict[str, str]:
            name, address = signed_in().name, request.client.host if request.client else ""
            accounts.check_password(name, first_value(fields, "old"), address, device(request))
            accounts.set_password(name, first_value(fields, "new"), request.scope[SESSION_KEY].id)
            return {"note": say("account.changed")}

        return await apply_change(request, change)


def signed_in() -> Actor:
    """The account of this account page. Raises Forbidden for a token: tokens cannot create tokens."""
    if current().source != "session":
        raise Forbidden(message("only_signed_in"))
    return current()


def refused(request: Request, error: UserError, name: str, following: str) -> Response:
    status = status_of(error)
    headers = headers_of(error)
    if not wants_html(request):
        return error_response(status, error.code, error.message, headers, error.problem)
    problem = say("account.wrong")
    if isinstance(error, LimitReached):
        problem = say("account.too_many", minutes=round(error.retry_after / 60) or 1)
    content = pages.sign_in(root_of(request), following, name[:32], problem)
    return HTMLResponse(content, status, headers=headers)


async def form_of(request: Request) -> dict[str, list[str]]:
    """The fields of a form. Raises InvalidParams for a form that no browser would send from our pages."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MOST_BYTES:
            raise InvalidParams("body", message("form_bytes", most=MOST_BYTES))
    try:
        return parse_qs(data.decode(), keep_blank_values=True, max_num_fields=20)
    except (UnicodeDecodeError, ValueError):
        raise InvalidParams("body", message("must_be_form")) from None


def first_value(fields: dict[str, list[str]], name: str) -> str:
    return fields.get(name, [""])[0]


def wants_html(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def html(content: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(content, status, headers=NOT_CACHED)


def redirect_to(request: Request, following: str) -> RedirectResponse:
    """A redirect to a page of this server, whatever the requested address."""
    ours = following.startswith("/") and not following.startswith(("//", "/\\")) and following.isprintable()
    return RedirectResponse(root_of(request) + (following if ours else "/"), 303, headers=NOT_CACHED)


def root_of(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")
