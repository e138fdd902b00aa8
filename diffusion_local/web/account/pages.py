"""The HTML of the sign-in and the account page. Every value goes through ``text``."""

import html
from typing import Any

from diffusion_local.accounts.service import MIN_PASSWORD
from diffusion_local.accounts.store import Session, Token
from diffusion_local.actor import SCOPES, Actor, Allowance, Scope
from diffusion_local.web.ui.words import LANGUAGE_TAGS, language, say

ACCOUNT_STYLE = """
:root{color-scheme:light dark;--back:#fafaf9;--card:#fff;--ink:#1c1917;--soft:#57534e;--line:#e7e5e4;--act:#0f766e;
--bad:#b91c1c;--good:#0f766e}
@media(prefers-color-scheme:dark){:root{--back:#141312;--card:#1c1b1a;--ink:#ece9e6;--soft:#a8a29e;--line:#34312e;
--act:#2dd4bf;--bad:#fca5a5;--good:#5eead4}}
*{box-sizing:border-box}[hidden]{display:none!important}body{margin:0;background:var(--back);color:var(--ink);
font:16px/1.5 ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans SC",sans-serif}
main{max-width:26rem;margin:0 auto;padding:3rem 1rem}main.wide{max-width:44rem;padding-top:1.5rem}
header{display:flex;gap:.75rem;align-items:center;margin:0 0 1.5rem}header h1{font-size:1.25rem;margin:0;flex:1}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.25rem;margin:0 0 1rem}
h2{font-size:1rem;margin:0 0 .75rem}p{margin:.25rem 0}.soft{color:var(--soft);font-size:.875rem}
label{display:block;margin:0 0 .75rem;font-size:.875rem;color:var(--soft)}
label.tick{display:flex;gap:.5rem;margin:.25rem 0;color:var(--ink)}
input[type=text],input[type=password]{display:block;width:100%;margin-top:.25rem;padding:.625rem .75rem;
font:inherit;color:var(--ink);background:var(--back);border:1px solid var(--line);border-radius:8px}
input:focus-visible,button:focus-visible,a:focus-visible{outline:2px solid var(--act);outline-offset:2px}
button{font:inherit;font-weight:500;min-height:2.75rem;padding:0 1rem;border-radius:8px;border:1px solid var(--line);
background:transparent;color:var(--ink);cursor:pointer}button.main{background:#0f766e;border-color:#0f766e;
color:#fff}input[type=checkbox]{accent-color:#0f766e;width:1.1rem;height:1.1rem}
form.full button{width:100%;margin-top:.5rem}a{color:var(--act)}
.said{border-radius:8px;padding:.625rem .75rem;border:1px solid currentColor;margin:0 0 1rem}.bad{color:var(--bad)}
.good{color:var(--good)}ul{list-style:none;margin:0 0 1rem;padding:0}li{display:flex;gap:1rem;align-items:center;
justify-content:space-between;padding:.5rem 0;border-bottom:1px solid var(--line)}li div{min-width:0;
overflow-wrap:anywhere}dl{display:grid;grid-template-columns:1fr auto;gap:.25rem 1rem;margin:0}dd{margin:0}
code{display:block;font:14px/1.4 ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere;user-select:all;
padding:.75rem;background:var(--back);border-radius:8px}fieldset{border:0;padding:0;margin:0 0 .75rem}
legend{font-size:.875rem;color:var(--soft);padding:0}
"""


def sign_in(root: str, following: str, name: str = "", problem: str = "", note: str = "") -> str:
    told = alert(problem, "bad") or alert(note, "good")
    first, second = (" autofocus", "") if not name else ("", " autofocus")
    return page(
        say("account.sign_in"),
        f'<main>{heading(root)}<section>{told}<form class="full" method="post" action="{text(root)}/login">'
        f'<input type="hidden" name="next" value="{text(following)}">'
        f'<label>{text(say("account.name"))}<input type="text" name="username" value="{text(name)}" '
        f'autocomplete="username" '
        f'autocapitalize="none" spellcheck="false" required{first}></label>'
        f'<label>{text(say("account.password"))}<input type="password" name="password" autocomplete="current-password" '
        f"required{second}></label>"
        f'<button class="main">{text(say("account.sign_in"))}</button></form></section></main>',
    )


def account(
    root: str,
    who: Actor,
    allowance: Allowance,
    used: int,
    tokens: list[Token],
    sessions: list[Session],
    own_session: str,
    problem: str = "",
    note: str = "",
    secret: str = "",
) -> str:
    top = (
        f'<section><div style="display:flex;gap:1rem;align-items:center"><div style="flex:1"><h2 style="margin:0">'
        f'{text(who.name)}</h2><p class="soft">{text(say(f"account.role_{who.role}"))}</p></div>'
        f"{form(root, 'logout', '', say('account.sign_out'))}</div></section>"
    )
    body = alert(problem, "bad") + alert(note, "good") + top
    body += allowances(allowance, used) + token_part(root, who, tokens, secret)
    body += session_part(root, sessions, own_session) + password_part(root, who)
    link = f'<a href="{text(root)}/">{text(say("account.back"))}</a>'
    return page(say("account.account"), f'<main class="wide">{heading(root, link)}{body}</main>')


def allowances(allowance: Allowance, used: int) -> str:
    rows = [
        (say(f"account.{name}"), f"{value:,}" if value else say("account.no_limit"))
        for name, value in limits(allowance)
    ]
    told = "".join(
        f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in [*rows, (say("account.used"), f"{used:,}")]
    )
    return f"<section><h2>{text(say('account.allowance'))}</h2><dl>{told}</dl></section>"


def limits(allowance: Allowance) -> list[tuple[str, int]]:
    return [("queued", allowance.queued), ("per_day", allowance.per_day), ("pixels", allowance.pixels)]


def token_part(root: str, who: Actor, tokens: list[Token], secret: str) -> str:
    new = (
        f'<p class="good" role="status">{text(say("account.new_token"))}</p><code>{text(secret)}</code><br>'
        if secret
        else ""
    )
    rows = "".join(
        f'<li><div>{text(each.name)}<p class="soft">{text(", ".join(sorted(each.scopes)))} · '
        f"{used_at(each.used_at)}</p></div>{form(root, 'account/tokens/remove', each.id, say('account.remove'))}</li>"
        for each in tokens
    )
    listed = f"<ul>{rows}</ul>" if rows else f'<p class="soft">{text(say("account.no_tokens"))}</p><br>'
    ticks = "".join(
        f'<label class="tick"><input type="checkbox" name="scope" value="{scope}"'
        f"{'' if scope is Scope.ADMIN else ' checked'}{' disabled' if scope is Scope.READ else ''}>"
        f"{text(say(f'account.scope_{scope}'))}</label>"
        for scope in Scope
        if scope in SCOPES[who.role]
    )
    help_text = say("account.tokens_help", name=who.name)
    return (
        f'<section><h2>{text(say("account.tokens"))}</h2><p class="soft">{text(help_text)}</p>{new}{listed}'
        f'<form method="post" action="{text(root)}/account/tokens"><label>{text(say("account.token_name"))}'
        f'<input type="text" name="name" maxlength="100" required></label>'
        f"<fieldset><legend>{text(say('account.scopes'))}</legend>{ticks}</fieldset><button>{text(say('account.create'))}</button></form></section>"
    )


def session_part(root: str, sessions: list[Session], own: str) -> str:
    rows = ""
    for each in sessions:
        here = each.id == own
        act = say("account.this_browser") if here else form(root, "account/sessions/end", each.id, say("account.end"))
        rows += (
            f'<li><div>{text(each.address)}<p class="soft">{text(each.agent)} · '
            f"{used_at(each.used_at)}</p></div>{text(act) if here else act}</li>"
        )
    others = form(root, "account/sessions/end", "", say("account.end_others")) if len(sessions) > 1 else ""
    return f"<section><h2>{text(say('account.sessions'))}</h2><ul>{rows}</ul>{others}</section>"


def password_part(root: str, who: Actor) -> str:
    fields = "".join(
        f'<label>{text(say(f"account.{which}_password"))}<input type="password" name="{which}" required{more}></label>'
        for which, more in (
            ("old", ' autocomplete="current-password"'),
            ("new", f' autocomplete="new-password" minlength="{MIN_PASSWORD}"'),
        )
    )
    return (
        f"<section><h2>{text(say('account.change_password'))}</h2>"
        f'<form method="post" action="{text(root)}/account/password">'
        f'<input type="text" name="username" value="{text(who.name)}" autocomplete="username" hidden>'
        f"{fields}<button>{text(say('account.change'))}</button></form></section>"
    )


def used_at(moment: str | None) -> str:
    if moment is None:
        return text(say("account.never_used"))
    return text(say("account.last_used", at=f"{moment[:10]} {moment[11:16]} UTC"))


def form(root: str, to: str, key: str, button: str) -> str:
    """A button that sends one id."""
    return (
        f'<form method="post" action="{text(root)}/{to}"><input type="hidden" name="id" value="{text(key)}">'
        f"<button>{text(button)}</button></form>"
    )


def heading(root: str, more: str = "") -> str:
    return (
        f'<header><img src="{text(root)}/assets/icons/mark.svg" alt="" width="32" height="32"><h1>diffusion-local</h1>'
        f"{more}</header>"
    )


def alert(message: str, kind: str) -> str:
    return f'<p class="said {kind}" role="alert">{text(message)}</p>' if message else ""


def page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="{LANGUAGE_TAGS[language()]}"><head><meta charset="utf-8">'
        f"<title>{text(title)} · diffusion-local</title>"
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="robots" '
        f'content="noindex"><style>{ACCOUNT_STYLE}</style></head><body>{body}</body></html>'
    )


def text(value: Any) -> str:
    return html.escape(str(value))
