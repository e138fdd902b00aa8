"""A search has a bounded number of words and characters at every door, and a hostile one does not end the process."""

from urllib.parse import urlencode

import httpx
import pytest

from diffusion_local.compose import Services
from diffusion_local.db.sqlite_connections import SQLITE_LIMITS
from diffusion_local.errors import InvalidParams
from diffusion_local.gallery.images import MAX_CHARS, MAX_VALUE, MAX_WORDS, GalleryFilter
from diffusion_local.queue.groups import MAX_TEXT, JobFilter
from diffusion_local.web import page_delta
from tests.cost.conftest import WebProcess
from tests.support import run_python
from tests.web.conftest import client_of, made

CRASH = "b " + "-a " * 100_000
WORDS = "b " + "-a " * MAX_WORDS  # one word too many
LONGEST = "b " + "-a " * (MAX_WORDS - 1)
IN_A_CHILD = """
import sys
from pathlib import Path
from diffusion_local.errors import InvalidParams
from diffusion_local.db.database import Database
from diffusion_local.gallery.images import GalleryFilter
from diffusion_local.gallery.images import ImageStore

images = ImageStore(Database.open(Path(sys.argv[1])))
for count in (10, 49, 50, 1000, 100_000):
    for text in ("b " + "-a " * count, "a " * count, '"' + "a " * count + '"', "-a " * count, '"a" ' * count):
        try:
            images.page(gallery_filter=GalleryFilter.parse({"search": text}))
            print(count, "found")
        except InvalidParams as error:
            print(count, error.field, error.problem)
"""


def test_a_hundred_thousand_words_do_not_end_the_process(tmp_path: object) -> None:
    text = run_python(IN_A_CHILD, f"{tmp_path}/app.db", timeout=120).splitlines()
    assert [line for line in text if line.startswith("49 ")] == ["49 found"] * 5
    assert all(" search must have at most " in line for line in text if line.startswith(("1000 ", "100000 ")))


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        (WORDS, f"must have at most {MAX_WORDS} words (got {MAX_WORDS + 1})."),
        ("a" * (MAX_CHARS + 1), f"must have at most {MAX_CHARS:,} characters (got {MAX_CHARS + 1:,})."),
        ('"' + "a_" * (MAX_WORDS + 1) + '"', f"must have at most {MAX_WORDS} words (got {MAX_WORDS + 1})."),
    ],
)
def test_the_studio_names_field_and_limit(services: Services, search: str, problem: str) -> None:
    for ask in (services.studio.gallery, services.studio.pictures.page, services.studio.pictures.zip):
        with pytest.raises(InvalidParams) as refused:
            ask(search=search)  # type: ignore[operator]
        assert (refused.value.field, refused.value.problem) == ("search", problem)


def test_the_longest_search_still_finds(services: Services) -> None:
    image = made(services, "a boat by the sea")
    words = "boat " + "-car " * (MAX_WORDS - 1)
    assert services.studio.gallery(search=words) == [image]
    assert services.studio.gallery(search="boat " * MAX_WORDS) == [image]


@pytest.mark.parametrize("field", ["model", "board", "batch", "owner", "like"])
def test_other_filters_have_a_limit_too(field: str) -> None:
    with pytest.raises(InvalidParams, match=f"^{field}: must have at most {MAX_VALUE} characters"):
        GalleryFilter.parse({field: "a" * (MAX_VALUE + 1)})


@pytest.mark.parametrize("field", ["state", "model", "owner", "text"])
def test_a_filter_of_the_queue_has_a_limit(field: str) -> None:
    JobFilter(**{field: "%" * MAX_TEXT}).where()
    with pytest.raises(InvalidParams, match=f"^{field}: must have at most {MAX_TEXT} characters"):
        JobFilter(**{field: "a" * (MAX_TEXT + 1)}).where()


def test_the_longest_filter_of_the_queue_is_a_pattern_that_sqlite_takes(services: Services) -> None:
    made(services)
    requested = JobFilter(text="\\%_\n" * (MAX_TEXT // 4))
    assert services.studio.groups.live(requested, 10) == services.studio.groups.ended(requested, 10) == []


@pytest.mark.sqlite
def test_every_connection_has_the_limits(services: Services) -> None:
    with services.database.outside_transaction() as connection:
        assert {limit: connection.getlimit(limit) for limit in SQLITE_LIMITS} == SQLITE_LIMITS


def test_http_refuses_and_names_the_field(services: Services) -> None:
    client = client_of(services, page=False)
    for path in ("/api/v1/images", "/api/v1/images/zip"):
        answer = client.get(path, params={"search": WORDS})
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "search")
        assert client.get(path, params={"search": LONGEST}).status_code == 200


def test_the_page_says_so_and_shows_the_gallery(services: Services) -> None:
    made(services)
    found = page_delta.delta_since(services.studio, "", "gallery", ["", "", "", "", urlencode({"search": CRASH})])
    assert found is not None
    assert f"must have at most {MAX_CHARS:,} characters" in found[1]["gallery"]
    assert "apple" in found[1]["tiles"]


@pytest.mark.slow
def test_the_command_line_refuses_too(services: Services) -> None:
    code = f"import sys; sys.argv = ['diffusion-local', 'gallery', '--search', {WORDS!r}]\n"
    code += "from diffusion_local.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n    print(end.code)"
    assert run_python(code).strip() not in ("", "0", "None")


def test_the_web_process_lives_through_the_attack(web: WebProcess) -> None:
    sent = {"seen": "", "tab": "gallery", "asked": ["", "", "", "", urlencode({"search": CRASH})]}
    assert httpx.post(f"{web.url}/look", json=sent, timeout=60).status_code == 200
    text = httpx.post(f"{web.url}/gradio_api/run/gallery", json={"data": [48, "", CRASH]}, timeout=60)
    assert "search: must have at most" in text.text
    assert web.child.poll() is None
    assert httpx.get(f"{web.url}/healthz", timeout=60).status_code == 200
