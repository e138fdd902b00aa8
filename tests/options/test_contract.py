"""The contract of the table: an option that is accepted is stored, shown, written into the recipe and read back.

The tests walk the table: a new option is under the contract by being declared. Values are made up from what the
option declares.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image as PIL

from diffusion_local import families
from diffusion_local.compose import Services, open_files
from diffusion_local.domain import Image, Kind, Params
from diffusion_local.gallery import recipes
from diffusion_local.gallery.files import key_for
from diffusion_local.lists.grid import AXIS_FIELDS, VARYING
from diffusion_local.options import a1111
from diffusion_local.options.option import Option
from diffusion_local.options.samplers import DIFFUSION, SAMPLERS
from diffusion_local.options.table import BATCH_OPTIONS, OPTIONS
from diffusion_local.options.table import Params as Table
from diffusion_local.web.ui import view_history, view_picture, words
from tests.models import files
from tests.models.files import write_header
from tests.options.interfaces import CANNOT, DOORS, Given, record_text
from tests.options.test_validate import png
from tests.support import gradio_endpoint
from tests.web.conftest import client_of, services_of

LORA = files.completed({"lora_unet_down_blocks_0_attentions_0_attn1_to_k.lora_down.weight": (2, 8)})
FILE = "sample"  # of each kind that an option chooses from
BATCH = {
    "start_at": f"{date.today().year + 1}-01-02T00:00:00Z",
    "window": "23:00-07:00",
    "finish_by": f"{date.today().year + 1}-03-02T00:00:00Z",
    "webhook": "https://1.1.1.1/told",
}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    made = services_of(tmp_path_factory)
    write_header(made.settings.loras / f"{FILE}.safetensors", LORA)
    write_header(made.settings.vae / f"{FILE}.safetensors", files.VAE)
    write_header(made.settings.controlnet / f"{FILE}.safetensors", files.CONTROLNET)
    write_header(made.settings.ip_adapters / f"{FILE}.safetensors", files.IP_ADAPTER)
    write_header(made.settings.clip_vision / f"{FILE}.safetensors", files.CLIP_VISION)
    for path in ("detector/config.json", "background/u2net.safetensors"):
        (made.settings.preprocessors / path).parent.mkdir(parents=True)
        (made.settings.preprocessors / path).touch()
    return made


@pytest.fixture(autouse=True, scope="module")
def reading_pictures() -> Iterator[None]:
    """The starter takes references here as a model does that reads pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "references_of", lambda architecture: 3)
        yield


@pytest.fixture(scope="module")
def client(services: Services) -> TestClient:
    return client_of(services)


@pytest.fixture(scope="module")
def source(services: Services) -> str:
    return services.sources.add(png()).id


def sample(option: Option, source: str) -> Any:
    """A value other than the default, as a program would send it."""
    if option.is_picture:
        return source
    if option.example is not None:
        return option.example
    if option.name == "loras":
        return [{"name": FILE, "weight": 0.5}]
    if option.name == "controls":
        return [{"image": source, "type": "canny", "model": FILE, "weight": 0.5, "end": 0.8}]
    if option.record:
        return [{"image": source, "use": "style", "weight": 0.5, "adapter": FILE}, {"image": source}]
    if option.name == "schedule":
        return DIFFUSION.schedules_for("Euler a")[1]
    if option.choices:
        return str(option.choices[1])
    if option.files:
        return option.initial or FILE
    if option.is_number:
        middle = sum(option.bounds) / 2
        return int(middle) if option.type is int else middle
    return "a sample"


def given_for(kind: Kind, source: str) -> Given:
    options = {name: sample(option, source) for name, option in OPTIONS.items() if kind in option.kinds}
    return options | {"kind": str(kind)}


@pytest.fixture(scope="module", params=list(Kind))
def kind(request: pytest.FixtureRequest) -> Kind:
    return Kind(request.param)


@pytest.fixture(scope="module")
def given(kind: Kind, source: str) -> Given:
    return given_for(kind, source)


@pytest.fixture(scope="module")
def made(services: Services, client: TestClient, given: Given) -> Params:
    return DOORS["studio"](services, client, given)


def dropped(given: Given, params: Params) -> list[str]:
    """Options that were given and are still at their default, or otherwise than they were given."""
    found = []
    for name, value in given.items():
        stored = getattr(params, name)
        if name == "loras":
            stored = [{"name": each.name, "weight": each.weight} for each in stored]
        if OPTIONS[name].record:
            stored = [{name: part for name, part in each.to_dict().items() if name != "seen"} for each in stored]
        if stored != value:
            found.append(name)
    return found


def test_every_option_is_stored(given: Given, made: Params) -> None:
    assert dropped(given, made) == []


@pytest.mark.parametrize("door", [name for name in DOORS if name != "studio"])
def test_every_option_is_taken_in_every_way(
    services: Services, client: TestClient, kind: Kind, given: Given, made: Params, door: str
) -> None:
    if kind in CANNOT.get(door, ()):
        assert kind is not Kind.TXT2IMG
        return
    got = DOORS[door](services, client, given)
    assert {name: (getattr(got, name), getattr(made, name)) for name in OPTIONS if differs(got, made, name)} == {}


def differs(first: Params, second: Params, name: str) -> bool:
    return bool(getattr(first, name) != getattr(second, name))


def test_every_option_is_a_flag_of_the_command_line(
    services: Services, kind: Kind, given: Given, made: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from diffusion_local.cli import app

    flags = [f"--size={given['width']}x{given['height']}"] if "width" in given else []
    for name, value in given.items():
        if name == "loras":
            flags += [f"--lora={each['name']}:{each['weight']}" for each in value]
        elif OPTIONS[name].record:
            flags += [f"--{name.removesuffix('s')}={record_text(each)}" for each in value]
        elif name not in ("prompt", "width", "height"):
            flags.append(f"--{name.replace('_', '-')}={value}")
    monkeypatch.setenv("DIFFUSION_LOCAL_HOME", str(services.settings.home))
    done = CliRunner().invoke(app, ["submit", given["prompt"], *flags], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert services.studio.jobs(limit=1)[0].params == made


@pytest.mark.parametrize("name", VARYING)
def test_every_option_that_varies_is_an_axis(services: Services, source: str, name: str) -> None:
    kind = OPTIONS[name].kinds[0]
    options = given_for(kind, source)
    prompt, value = options.pop("prompt"), options.pop(name)
    values = f"{value},something else" if name == "negative" else str(value)
    if name == "negative":  # search and replace
        options["negative"] = value
    services.studio.grids.submit(prompt, x=f"{name}: {values}", **options)
    [*_, first] = services.studio.jobs(limit=2 if name == "negative" else 1)
    assert dropped({name: value}, first.params) == []


def test_every_option_varies_or_says_that_it_does_not() -> None:
    assert {*OPTIONS} - {*AXIS_FIELDS} == {name for name, option in OPTIONS.items() if not option.varies}


# -- shown ----------------------------------------------------------------------------------------------------------


def plain(html: str) -> str:
    return re.sub(r"<[^>]*>", " ", html)


def shown(option: Option, value: Any) -> str:
    if option.record:
        return str(next(iter(value[-1].values())))[:12]
    if isinstance(value, list):
        return ", ".join(f"{each['name']}:{each['weight']:g}" for each in value)
    if option.name == "kind":
        return words.say(f"create.kind_{value}")
    return f"{value:g}" if option.type is float else str(value)[:12] if option.is_picture else str(value)


def test_every_option_is_shown_in_the_viewer_and_in_the_history(
    services: Services, kind: Kind, given: Given, made: Params
) -> None:
    job = replace(services.studio.jobs(limit=1)[0], params=made)
    image = Image(job.id, job.id, "2026/01/02/id", made, made.width, made.height, 1, job.created_at)
    for panel in (view_picture.panel(image, view_picture.Related()), view_history.panel(job, [], image)):
        text = plain(panel)
        missing = {
            name
            for name, value in given.items()
            if not (name == "kind" and kind is Kind.TXT2IMG) and shown(OPTIONS[name], value) not in text
        }
        assert missing == set()


def test_every_option_that_is_listed_has_a_name_of_its_own(given: Given, made: Params) -> None:
    names = [name for name, _ in view_picture.recipe_rows(made)]
    assert len(names) == len(set(names))
    assert not set(names) & set(OPTIONS)  # the bare name stands where there are no words


@pytest.mark.parametrize("name", [*OPTIONS, *BATCH_OPTIONS])
def test_every_option_has_words_in_each_language(name: str) -> None:
    messages = words.phrases().get(f"common.{name}", {})
    assert set(messages) == set(words.LANGUAGE_NAMES)
    assert (OPTIONS | BATCH_OPTIONS)[name].meaning


# -- written and read back ------------------------------------------------------------------------------------------


def saved(services: Services, params: Params) -> Path:
    storage = open_files(services.settings)
    key = key_for(str(params.seed) + params.kind, "2026-01-02T03:04:05.000Z")
    image = Image("id", "id", key, params, params.width, params.height, 0, "2026-01-02T03:04:05.000Z", 1.5)
    storage.save(key, PIL.new("RGB", (64, 64), "teal"), recipes.to_texts(image, {}))
    return storage.picture(key).local_path


def test_every_option_is_read_back_from_the_picture(services: Services, made: Params) -> None:
    found = recipes.read_picture(saved(services, made).read_bytes())
    assert Params.from_dict(found.settings) == made


def test_every_option_is_in_a1111s_text_under_its_name(given: Given, made: Params) -> None:
    written = a1111.format_recipe(made)
    found = recipes.read_text(written)
    expected = {name: value for name, value in given.items() if OPTIONS[name].a1111 or name in ("prompt", "negative")}
    if "loras" in given:
        expected["loras"] = given["loras"]
    assert {name: found.settings.get(name) for name in expected} == expected
    for name in expected:
        assert all(f"{theirs}: " in written for theirs in OPTIONS[name].a1111[:1]), name
    assert set(found.others) == {"Version", *(["ControlNet 0"] if "controls" in given else [])}


def test_every_option_is_exported_and_imported_equal(
    services: Services, kind: Kind, given: Given, made: Params
) -> None:
    batch = services.studio.submit(**given).batch_id
    for form in ("csv", "jsonl"):
        text = "".join(services.studio.lists.export(batch, form))
        services.studio.lists.submit(text, form)
        assert services.studio.jobs(limit=1)[0].params == made, form


def test_every_option_is_carried_by_a_file_of_the_queue(services: Services, given: Given, made: Params) -> None:
    services.studio.queue.cancel(waiting=True)
    services.studio.submit(**given, **BATCH)
    text = "".join(services.studio.queue_file.export())
    services.studio.queue.cancel(waiting=True)
    receipt = services.studio.queue_file.take(text)
    assert (receipt.count, receipt.bad_count) == (1, 0)
    job = services.studio.jobs(limit=1)[0]
    assert job.params == made
    assert times(services, job.batch_id) == BATCH


# -- options of a batch ---------------------------------------------------------------------------------------------


def times(services: Services, batch_id: str) -> dict[str, str | None]:
    batch = services.studio.batch(batch_id)[0]
    kept = {name: getattr(batch, name) for name in BATCH_OPTIONS}
    return {name: re.sub(r"\.000Z$", "Z", value) if value else value for name, value in kept.items()}


def by_http(services: Services, client: TestClient) -> str:
    return str(client.post("/api/v1/jobs", json={"prompt": "a cat", "lane": "batch"} | BATCH).json()["batch_id"])


def by_http_list(services: Services, client: TestClient) -> str:
    answer = client.post("/api/v1/lists", params=BATCH, content="a cat", headers={"Content-Type": "text/plain"})
    return str(answer.json()["batch_id"])


def by_http_grid(services: Services, client: TestClient) -> str:
    return str(client.post("/api/v1/grids", json={"prompt": "a cat", "x": "seed: 1,2"} | BATCH).json()["batch_id"])


def by_http_edit(services: Services, client: TestClient) -> str:
    batch = services.studio.submit("a cat").batch_id
    assert client.patch(f"/api/v1/batches/{batch}", json=BATCH).status_code == 200
    return batch


def by_http_copy(services: Services, client: TestClient) -> str:
    batch = services.studio.submit("a cat").batch_id
    return str(client.post(f"/api/v1/batches/{batch}/duplicate", json=BATCH).json()["batch_id"])


def by_gradio(services: Services, client: TestClient) -> str:
    return str(gradio_endpoint(services.studio, "submit")("a cat", **BATCH)["batch_id"])


def by_gradio_copy(services: Services, client: TestClient) -> str:
    batch = services.studio.submit("a cat").batch_id
    return str(gradio_endpoint(services.studio, "duplicate_batch")(batch, **BATCH)["batch_id"])


def by_the_lists_page(services: Services, client: TestClient) -> str:
    from diffusion_local.web.ui import form_lists, tab_lists

    fields: Given = dict.fromkeys(form_lists.LIST_FIELDS, "") | {"mode": "list", "format": "text", "expand": "no"}
    fields |= {"count": 1, "priority": 0, "text": "a cat"} | BATCH
    tab_lists.queue(services.studio, form_lists.read(list(fields.values())), "queue_list")
    return services.studio.jobs(limit=1)[0].batch_id


@pytest.mark.parametrize(
    "submit",
    [
        by_http,
        by_http_list,
        by_http_grid,
        by_http_edit,
        by_http_copy,
        by_gradio,
        by_gradio_copy,
        by_the_lists_page,
    ],
    ids=lambda submit: submit.__name__,
)
def test_every_option_of_a_batch_is_stored(services: Services, client: TestClient, submit: Any) -> None:
    assert times(services, submit(services, client)) == BATCH


def test_the_samples_of_batch_options_are_all_of_them() -> None:
    assert set(BATCH) == set(BATCH_OPTIONS)


# -- the table itself -----------------------------------------------------------------------------------------------


def test_no_two_options_share_a_name_of_other_tools() -> None:
    for names in (
        [name for option in OPTIONS.values() for name in (option.name, *option.spellings)],
        [name for option in OPTIONS.values() for name in option.a1111],
        [option.web_api or option.name for option in OPTIONS.values()],
    ):
        assert len(names) == len(set(names)), [name for name in names if names.count(name) > 1]


def test_bounds_hold_the_default_and_the_first_value() -> None:
    for option in OPTIONS.values():
        if option.is_number:
            low, high = option.bounds
            first = option.initial if option.initial is not None else option.default
            assert first is None or low <= first <= high, option.name
    assert Table is Params
    assert set(OPTIONS["sampler"].choices) == set(SAMPLERS)
