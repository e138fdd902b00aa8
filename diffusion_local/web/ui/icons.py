"""The page's few signs, as lines of one weight in the colour of their text."""

PATHS = {
    "back": '<path d="M9 6.5L4.5 11 9 15.5"/><path d="M5 11h9a5 5 0 0 1 0 10h-3"/>',
    "bell": '<path d="M5 16h14l-2-3V9.5a5 5 0 0 0-10 0V13z"/><path d="M10 19.5h4"/>',
    "copy": '<rect x="8.5" y="8.5" width="11" height="11" rx="2.5"/><path d="M5 15.5v-8A2.5 2.5 0 0 1 7.5 5h8"/>',
    "dice": '<rect x="4.5" y="4.5" width="15" height="15" rx="3.5"/>'
    '<path stroke-width="2.4" d="M9 9h.01M15 9h.01M12 12h.01M9 15h.01M15 15h.01"/>',
    "download": '<path d="M12 4.5v10.5M7.5 11l4.5 4.5 4.5-4.5M5 19.5h14"/>',
    "phone": '<rect x="7" y="3.5" width="10" height="17" rx="2.5"/><path d="M11 17.5h2"/>',
    "star": '<path d="M12 4l2.45 5.05 5.55.8-4 3.9.95 5.5L12 16.65 7.05 19.25 8 13.75 4 9.85l5.55-.8z"/>',
    "trash": '<path d="M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7M10.5 10.5v5.5M13.5 10.5v5.5"/>',
}


def icon(name: str, pixels: int = 20, filled: bool = False) -> str:
    fill = "currentColor" if filled else "none"
    return (
        f'<svg class="icon" viewBox="0 0 24 24" width="{pixels}" height="{pixels}" aria-hidden="true" fill="{fill}" '
        f'stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round">{PATHS[name]}</svg>'
    )
