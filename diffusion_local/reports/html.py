"""A report as one self-contained HTML file, contact sheet included, with all text escaped."""

import base64
import io
from collections.abc import Callable
from html import escape

from diffusion_local.domain import Image, shortened
from diffusion_local.errors import DiffusionLocalError
from diffusion_local.gallery.contact_sheet import Opener, open_thumbnail
from diffusion_local.gallery.files import ImageFiles
from diffusion_local.gallery.quality import FLAGS
from diffusion_local.messages import Message, is_known, message
from diffusion_local.reports.report import Reason, Report
from diffusion_local.reports.wording import duration, facts

PICTURE_SIDE = 192  # side of an embedded picture in pixels
REPORT_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--card:#f6f6f7;--text:#18181b;--faint:#63636b;--line:#e2e2e6;--bad:#b42318;
--accent:#5046c8}
@media(prefers-color-scheme:dark){:root{--ground:#131316;--card:#1d1d21;--text:#ececf0;--faint:#a1a1aa;--line:#313138;
--bad:#f97066;--accent:#a8a2ff}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main{max-width:70rem;margin:0 auto;padding:2rem 1rem 4rem}h1{font-size:1.6rem;line-height:1.25;margin:0 0 1.25rem;
overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2.25rem 0 .75rem}a{color:var(--accent)}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.6rem;margin:0}
dl div{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.6rem .8rem}
dl .wide{grid-column:1/-1}dt{color:var(--faint);font-size:.8rem}dd{margin:0;font-weight:600;overflow-wrap:anywhere}
dd.bad{color:var(--bad)}.wide dd{font-weight:400}
.reason{border:1px solid var(--line);border-left:4px solid var(--bad);border-radius:.6rem;padding:.7rem .9rem;
margin:0 0 .6rem;background:var(--card)}.reason p{margin:.2rem 0;overflow-wrap:anywhere}
.reason small{color:var(--faint)}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.4rem .6rem;border-bottom:1px solid var(--line);
overflow-wrap:anywhere}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.75rem}
figure{margin:0;min-width:0}img{width:100%;height:auto;display:block;border-radius:.4rem;background:var(--card)}
figcaption{font-size:.78rem;color:var(--faint);line-height:1.35;margin-top:.25rem;overflow-wrap:anywhere}
button{font:inherit;font-size:.9rem;padding:.35rem .8rem;border-radius:.4rem;border:1px solid var(--line);
background:var(--ground);color:var(--accent);cursor:pointer;margin-top:.3rem}
@media print{form{display:none}main{max-width:none;padding:0}.sheet{grid-template-columns:repeat(6,1fr)}
figure,.reason,dl div{break-inside:avoid}a[href]{color:inherit;text-decoration:none}}
"""
WIDE_FACTS = ("report_estimate", "report_forecast", "report_less_memory", "report_flagged")
#: Translates a message to the reader's language.
Translate = Callable[[str], str]


def render(
    report: Report, files: ImageFiles, root: str | None = None, translate: Translate = str, tag: str = "en"
) -> str:
    """Render a report. ``root``: path prefix of the app if it serves the page, which then links to pictures and offers
    to resubmit failed jobs; None for a file. ``translate``: translates messages to the language ``tag``.
    """
    title = report.title if report.batch_id else translate(report.title)  # a batch's title is its name
    back = "" if root is None else f'<p><a href="{root}/ui/lists">← {translate(message("report_back"))}</a></p>'
    parts = [back, f"<h1>{escape(title)}</h1><dl>", *(render_fact(*each, translate) for each in facts(report)), "</dl>"]
    if report.reasons:
        parts += [
            f"<h2>{translate(message('report_failed'))}</h2>",
            *(render_reason(each, report, root, translate) for each in report.reasons),
        ]
    if report.pictures:
        pictures, done = len(report.pictures), report.counts["done"]
        some = message("report_some", shown=pictures, count=done) if pictures < done else message("report_pictures")
        parts.append(f"<h2>{translate(some)}</h2>")
        parts += [
            '<div class="sheet">',
            *(render_figure(each, files, root, translate) for each in report.pictures),
            "</div>",
        ]
    if len(report.batches) > 1:
        parts += [f"<h2>{translate(message('report_batches'))}</h2>", render_batches(report, root, translate)]
    if report.models:
        rows = [[each.model, f"{each.done:,}", duration(each.seconds)] for each in report.models]
        parts += [
            f"<h2>{translate(message('report_models'))}</h2>",
            table([translate(message(f"report_head_{name}")) for name in ("model", "pictures", "time")], rows),
        ]
    return (
        f'<!doctype html><html lang="{tag}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{REPORT_STYLE}</style></head><body><main>{''.join(parts)}</main></body>"
        "</html>\n"
    )


def render_fact(label: Message, value: str, translate: Translate) -> str:
    kind = ' class="wide"' if label.id in WIDE_FACTS else ""
    bad = ' class="bad"' if label.id == "report_failed" and value != "0" else ""
    return f"<div{kind}><dt>{escape(translate(label))}</dt><dd{bad}>{escape(translate(value))}</dd></div>"


def render_reason(each: Reason, report: Report, root: str | None, translate: Translate) -> str:
    """A group of failed jobs; in the app with a button that resubmits them."""
    of = {"batch_id": report.batch_id} if report.batch_id else {"since": report.since, "until": report.until}
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value or "")}">'
        for name, value in ({"reason": each.id} | of).items()
    )
    label = translate(message("report_make_again"))
    button = f'<form method="post" action="{root}/reports/again">{hidden}<button>{label}</button></form>'
    again = button if root is not None else ""
    ids = ", ".join(each.job_ids[:5]) + (" …" if each.count > 5 else "")
    return (
        f'<div class="reason"><p><b>{each.count:,} × {escape(translate(kind_text(each.kind)))}</b></p>'
        f"<p>{escape(translate(each.message))}</p><p><small>{escape(ids)}</small></p>{again}</div>"
    )


def kind_text(kind: str) -> str:
    return message(f"kind_{kind}") if is_known(f"kind_{kind}") else kind.replace("_", " ").capitalize()


def render_figure(image: Image, files: ImageFiles, root: str | None, translate: Translate) -> str:
    label = escape(shortened(image.params.prompt, 80))
    flag = f"<br><b>{escape(translate(message(f'flag_{image.flag}')))}</b>" if image.flag in FLAGS else ""
    seen = f'<img alt="{label}" src="{inline(lambda: files.thumbnail(image.key).open())}">'
    if root is not None:
        seen = f'<a href="{root}/images/{image.id}{image.suffix}">{seen}</a>'
    seed = f"{translate(message('report_seed'))} {image.params.seed}"
    return f"<figure>{seen}<figcaption>{label}<br>{seed}{flag}</figcaption></figure>"


def inline(open_picture: Opener) -> str:
    """A small copy of a picture as a data URL; a transparent pixel if it cannot be read."""
    try:
        small = open_thumbnail(open_picture, (PICTURE_SIDE, PICTURE_SIDE))
    except DiffusionLocalError:
        small = None
    if small is None:
        return "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    held = io.BytesIO()
    small.save(held, "WEBP", quality=72)
    return f"data:image/webp;base64,{base64.b64encode(held.getvalue()).decode()}"


def render_batches(report: Report, root: str | None, translate: Translate) -> str:
    rows = []
    for each in report.batches:
        name = escape(shortened(each.name or each.id))
        rows.append(
            [
                f'<a href="{root}/reports/batch/{each.id}.html">{name}</a>' if root is not None else name,
                *(f"{each.counts.get(state, 0):,}" for state in ("done", "failed", "cancelled")),
            ]
        )
    return table(
        [translate(message(f"report_head_{name}")) for name in ("batch", "done", "failed", "cancelled")], rows, raw=True
    )


def table(heads: list[str], rows: list[list[str]], raw: bool = False) -> str:
    """An HTML table. The first column is text, escaped unless ``raw``; the others are numbers."""
    head = "".join(f"<th{' class=n' if place else ''}>{escape(each)}" for place, each in enumerate(heads))
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if place else ''}>{each if raw else escape(each)}" for place, each in enumerate(row))
        for row in rows
    )
    return f"<table><thead><tr>{head}</thead><tbody>{body}</tbody></table>"
