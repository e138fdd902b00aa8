"""What stands above the gallery as HTML: filters, the open board, and the bar of a selection. Pure, like ``view``."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from zlib import crc32

from diffusion_local import actor, serializers
from diffusion_local.gallery.boards import Board
from diffusion_local.gallery.images import SHAPES
from diffusion_local.web.ui.place import Place
from diffusion_local.web.ui.view import ask, button, item, menu, pictures, text
from diffusion_local.web.ui.words import say

#: Days back, of the menu of times.
SPANS = (0, 6, 29)
ZIP = "images/zip"


def bar(
    place: Place, search: str, boards: Sequence[Board], models: Sequence[str], owners: Sequence[str], now: datetime
) -> str:
    """Everything above the pictures."""
    menus = board_menu(place, boards) + span_menu(place, now) + shape_menu(place)
    if len(models) > 1 or place.get("model"):
        menus += choice_menu(place, "model", say("gallery.model"), [(name, name) for name in models])
    if set(owners) - {actor.current().name} or place.get("owner"):
        menus += choice_menu(place, "owner", say("queue.owner"), [(name, name) for name in owners])
    chips = "".join(
        toggle(place, name, say(f"gallery.{words}"))
        for name, words in (("starred", "starred_only"), ("flagged", "flagged_only"), ("trashed", "trash"))
    )
    if place.filters:
        chips += button(say("gallery.show_all"), "everything", kind="chip small quiet-act")
    # For a finger: where nothing hovers, the boxes to tick are out of the way until this is on.
    chips += f'<label class="act small chip selecting"><input type="checkbox">{say("gallery.select")}</label>'
    name = say("gallery.filters")
    return (
        f'<div class="filters" data-key="filters" role="group" aria-label="{name}">{menus}{chips}</div>'
        f"{heading(place, boards)}{selection_bar(place, boards)}"
    )


def toggle(place: Place, name: str, words: str) -> str:
    on = place.get(name) == "1"
    state = f' aria-pressed="{str(on).lower()}"'
    return button(words, "narrow", f"{name}={'' if on else '1'}", kind="chip small", extra=state)


def choice_menu(place: Place, name: str, title: str, choices: Sequence[tuple[str, str]]) -> str:
    """One of several; the chosen one is the menu's face."""
    now = place.get(name)
    shown = next((words for value, words in choices if value == now), now or title)
    items = [item(text(words), "narrow", f"{name}={value}") for value, words in choices]
    if now:
        items.insert(0, item(say("gallery.any"), "narrow", f"{name}="))
    face = f'<span class="face">{text(shown)}</span> <span aria-hidden="true">▾</span>'
    return f'<span class="choice{" on" if now else ""}">{menu(f"filter-{name}", title, items, face)}</span>'


def shape_menu(place: Place) -> str:
    return choice_menu(place, "shape", say("gallery.shape"), [(name, say(f"gallery.{name}")) for name in SHAPES])


def span_menu(place: Place, now: datetime) -> str:
    days = [((now - timedelta(days=back)).date().isoformat(), say(f"gallery.span_{back}")) for back in SPANS]
    return choice_menu(place, "since", say("gallery.when"), days)


def board_menu(place: Place, boards: Sequence[Board]) -> str:
    items = [
        button(
            f'<span class="name">{text(each.name)}</span><span class="quiet">{each.count:,}</span>',
            "narrow",
            f"board={each.id}",
            kind="with-count",
        )
        for each in boards
    ]
    if place.get("board"):
        items.insert(0, item(say("gallery.any"), "narrow", "board="))
    items.append(button(say("gallery.new_board"), "board_new", extra=ask(say("gallery.name_of_board"))))
    shown = next((each.name for each in boards if each.id == place.get("board")), say("gallery.boards"))
    face = f'<span class="face">{text(shown)}</span> <span aria-hidden="true">▾</span>'
    on = " on" if place.get("board") else ""
    return f'<span class="choice{on}">{menu("filter-board", say("gallery.boards"), items, face)}</span>'


def heading(place: Place, boards: Sequence[Board]) -> str:
    """Of the open board, batch, recipe or trash: its name and what can be done with the whole of it."""
    board = next((each for each in boards if each.id == place.get("board")), None)
    if board:
        rename = ask(say("gallery.name_of_board"), board.name)
        sure = say("gallery.delete_board_sure", name=board.name)
        acts = zip_link(f"board={board.id}") if board.count else ""
        acts += button(say("gallery.rename"), "board_rename", board.id, kind="small", extra=rename)
        acts += button(say("gallery.delete_board"), "board_delete", board.id, kind="small", sure=sure)
        return headed(f"{text(board.name)} <span class='quiet'>{pictures(board.count)}</span>", acts)
    if place.get("batch"):
        return headed(say("gallery.of_batch"), zip_link(f"batch={place.get('batch')}"))
    if place.get("like"):
        return headed(say("gallery.of_recipe"))
    if place.get("trashed"):
        return headed(f"{say('gallery.trash')} <span class='quiet'>{say('gallery.trash_how')}</span>")
    return ""


def headed(words: str, acts: str = "") -> str:
    return f'<div class="gallery-head" data-key="head"><h2>{words}</h2><div class="acts">{acts}</div></div>'


def zip_link(query: str) -> str:
    return f'<a class="act small" href="{serializers.api_url(ZIP)}?{text(query)}" download>{say("gallery.zip")}</a>'


def selection_bar(place: Place, boards: Sequence[Board]) -> str:
    """Shown by ``live.js`` while pictures are ticked; its buttons send all their ids."""
    many, small = " data-many", "small"
    if place.get("trashed"):
        sure = say("gallery.delete_sure")
        acts = button(say("gallery.restore"), "restore_these", kind=small, extra=many)
        acts += button(say("gallery.delete"), "delete_these", kind=small, sure=sure, extra=many)
    else:
        to = [button(text(each.name), "board_add", each.id, extra=many) for each in boards]
        to.append(button(say("gallery.new_board"), "board_new", extra=many + ask(say("gallery.name_of_board"))))
        acts = button(say("gallery.star_these"), "star_these", kind=small, extra=many)
        acts += menu("to-board", say("gallery.add_to_board"), to, say("gallery.add_to_board"))
        if place.get("board"):
            acts += button(say("gallery.take_off"), "board_take", place.get("board"), kind=small, extra=many)
        acts += button(say("gallery.compare"), "compare", kind=small, extra=many)
        href = f"{serializers.api_url(ZIP)}?ids="
        acts += f'<button type="button" class="act small" data-href="{href}">{say("gallery.zip")}</button>'
        acts += button(say("gallery.to_trash"), "trash_these", kind=small, extra=many)
    name, key = (
        say("queue.selected"),
        crc32(acts.encode()),
    )  # live.js leaves a bar as it is: one with other buttons must be another
    return (
        f'<div class="picked" data-picked data-key="picked-{key:x}" role="toolbar" aria-label="{name}" hidden>'
        f'<span class="count" role="status" data-words="{say("queue.n_selected")}"></span>{acts}'
        f'<button type="button" class="act small" data-unpick>{say("queue.clear_selection")}</button></div>'
    )
