"""Gradio's HTML page: without what only clients of the endpoints need."""

import json
import logging
import re
from collections.abc import Callable
from typing import Any

import gradio as gr
from jinja2.utils import htmlsafe_json_dumps

from diffusion_local.web.gradio_compat import frontend

log = logging.getLogger(__name__)

#: Where Gradio's HTML has the configuration of its page and the description of its endpoints.
INLINE = re.compile(
    r"<script>window\.gradio_config = (\{.*?\});</script>\s*<script>window\.gradio_api_info = .*?</script>", re.DOTALL
)
#: The script with which a page in a frame tells its size, and the style sheet that ``frontend`` has in its own.
UNUSED = re.compile(
    r"<script>\s*\(\(\) => \{\s*const root = (?:(?!</script>).)*?iframeResizer(?:(?!</script>).)*</script>", re.DOTALL
)
#: Svelte turns arrays into proxies, whose elements are read twenty times slower, but not those of a subclass.
PLAIN = """<script>(() => {
  class Plain extends Array {}
  for (const list of ["components", "dependencies"]) Object.setPrototypeOf(gradio_config[list], Plain.prototype);
})();</script>"""
STYLE = re.compile(r'<link rel="stylesheet" crossorigin href="\./assets/index-[\w-]+\.css">')
NO_ENDPOINTS: dict[str, Any] = {"named_endpoints": {}, "unnamed_endpoints": {}}
#: Fields of a component that the page's scripts read. The others describe endpoints.
COMPONENT_FIELDS = ("id", "type", "props", "component_class_id", "key", "rendered_in")
#: A phrase that Gradio's page would translate, within a value or as all of it.
PHRASE = re.compile(r'__i18n__\{"__type__": "translation_metadata", "key": "([^"]+)"\}')


def trimmed(html: bytes, say: Callable[[str], str]) -> bytes:
    """Gradio's page without its endpoints for programs, and with its phrases (``say``: by key) in a single language.

    The endpoints and the other languages are four fifths of the configuration, and for each of its components the
    page's scripts search all handlers. Clients get the whole one from ``/config``. A page that differs from the tested
    version's is left as it is.
    """
    text = html.decode()
    found = INLINE.search(text)
    if found is None:
        log.warning("Gradio %s writes its page in another way: it is loaded more slowly.", gr.__version__)
        return html
    config = page_config(json.loads(found[1]), say)
    values = {"gradio_config": config, "gradio_api_info": NO_ENDPOINTS}
    scripts = [
        f"<script>window.{name} = {htmlsafe_json_dumps(value, ensure_ascii=False, separators=(',', ':'))};</script>"
        for name, value in values.items()
    ]
    text = UNUSED.sub("", f"{text[: found.start()]}{''.join(scripts)}{PLAIN}{text[found.end() :]}")
    if files := frontend.links(config):
        text = STYLE.sub(lambda _: files, text, count=1)
    return text.encode()


def page_config(config: dict[str, Any], say: Callable[[str], str]) -> dict[str, Any]:
    """Gradio's configuration without what only clients need, and with its phrases."""
    drawn = frontend.kinds(config)
    kept = [each for each in config["components"] if each["type"] in drawn]
    ids = {each["id"] for each in kept}
    dependencies = [each for each in config["dependencies"] if ids.issuperset((*each["inputs"], *each["outputs"]))]
    dependencies = [each for each in dependencies if each["targets"] or each["trigger_after"] is not None]
    layout = {**config["layout"], "children": [each for each in config["layout"]["children"] if each["id"] in ids]}
    components = [
        {name: value for name, value in each.items() if name in COMPONENT_FIELDS and value is not None} for each in kept
    ]
    page = {"layout": layout, "components": list(ids), "dependencies": [each["id"] for each in dependencies]}
    return {
        **config,
        "components": in_words(components, say),
        "dependencies": dependencies,
        "layout": layout,
        "page": {"": page},
        "i18n_translations": {},
    }


def in_words(value: Any, say: Callable[[str], str]) -> Any:
    """A value of JSON with its phrases in place of their keys."""
    if isinstance(value, str):
        return PHRASE.sub(lambda found: say(found[1]), value)
    if isinstance(value, list):
        return [in_words(each, say) for each in value]
    if isinstance(value, dict):
        return {name: in_words(each, say) for name, each in value.items()}
    return value
