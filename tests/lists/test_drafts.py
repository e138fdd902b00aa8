"""Choices, wildcards and tags in single submits: the same at every interface, previewed, and checked beforehand."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from diffusion_local.cli import app
from diffusion_local.compose import Services
from diffusion_local.domain import Job
from diffusion_local.errors import Conflict, InvalidParams, Overloaded
from diffusion_local.lists import wildcards
from diffusion_local.lists.drafts import Drafts
from diffusion_local.lists.wildcards import Expander
from diffusion_local.options.types import Lora
from diffusion_local.settings import Settings
from diffusion_local.web.api.dialects.a1111 import reading
from diffusion_local.web.api.dialects.adapting import Aliases
from diffusion_local.web.ui import form, tab_create
from tests.models.files import write_header
from tests.options.test_contract import LORA
from tests.web.conftest import client_of, services_of

COLOURS = {"a red apple", "a blue apple"}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    made = services_of(tmp_path_factory)
    for name in ("my__ink__v2", "moss"):
        write_header(made.settings.loras / f"{name}.safetensors", LORA)
    made.settings.wildcards.mkdir(exist_ok=True)
    (made.settings.wildcards / "animal.txt").write_text("cat\ndog\n# no\nbird <lora:moss:0.5>\n")
    (made.settings.wildcards / "lost.txt").write_text("cat\n<lora:nothere:1> dog\n")
    return made


@pytest.fixture(scope="module")
def client(services: Services) -> TestClient:
    return client_of(services)


def newest(services: Services) -> Job:
    return services.studio.jobs(limit=1)[0]


def jobs(services: Services, prompt: str, **settings: Any) -> list[Job]:
    return [services.jobs.get(each) for each in services.studio.submit(prompt, **settings).job_ids]


def test_each_picture_draws_its_own_and_the_same_seed_draws_the_same(services: Services) -> None:
    first = [
        each.params for each in jobs(services, "a {red|blue|green|gold} {cup|car}", negative="{x|y}", count=20, seed=3)
    ]
    again = [
        each.params for each in jobs(services, "a {red|blue|green|gold} {cup|car}", negative="{x|y}", count=20, seed=3)
    ]
    assert first == again
    assert len({each.prompt for each in first}) > 3
    assert {each.negative for each in first} == {"x", "y"}
    assert [each.seed for each in first] == list(range(3, 23))


def test_all_makes_each_combination_of_both_prompts(services: Services) -> None:
    made = [each.params for each in jobs(services, "a {red|blue} cup", negative="{x|y}", expand="all", count=2, seed=5)]
    assert [(each.prompt, each.negative, each.seed) for each in made] == [
        (f"a {colour} cup", negative, seed) for colour in ("red", "blue") for negative in "xy" for seed in (5, 6)
    ]
    with pytest.raises(InvalidParams, match=r"has 4 combinations with 50 pictures each; .* \(max_count\)"):
        services.studio.submit("a {red|blue} cup", negative="{x|y}", expand="all", count=50)


def test_no_leaves_them_as_they_are_written(services: Services) -> None:
    [job] = jobs(services, "a {red|blue} __animal__", negative="{x|y}", expand="no")
    assert (job.params.prompt, job.params.negative) == ("a {red|blue} __animal__", "{x|y}")


def test_the_setting_is_the_switch(services: Services) -> None:
    still = Settings.load({}, home=services.settings.home, expand_prompts="no")
    services.studio._settings, kept = still, services.studio._settings
    try:
        assert jobs(services, "a {red|blue} apple")[0].params.prompt == "a {red|blue} apple"
        assert jobs(services, "a {red|blue} apple", expand="random")[0].params.prompt in COLOURS
    finally:
        services.studio._settings = kept


@pytest.mark.parametrize(
    ("prompt", "loras"),
    [
        ("{{best}} red apple <lora:moss:0.8>", (Lora("moss", 0.8),)),
        ("{red|blue} car <lora:my__ink__v2:0.5>", (Lora("my__ink__v2", 0.5),)),
        ("{a <lora:moss:1>|b <lora:moss:1>}", (Lora("moss", 1.0),)),
        ("a <lyco:moss:1>", (Lora("moss", 1.0),)),
        ("a <lora:moss>", (Lora("moss", 1.0),)),
    ],
)
def test_tags_are_found_beside_choices(services: Services, prompt: str, loras: tuple[Lora, ...]) -> None:
    [job] = jobs(services, prompt)
    assert job.params.loras == loras
    assert "<" not in job.params.prompt
    check = services.studio.lists.check(prompt)
    assert (check.pictures, check.bad_count) == (1, 0)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("{red|blue} <lora:nothere:0.8>", "names a file that does not exist: 'nothere'"),
        ("{red <lora:nothere:1>|blue}", "names a file that does not exist: 'nothere'"),
        ("a __lost__", "names a file that does not exist: 'nothere'"),
        ("a <hypernet:x:1>", "only <lora:name:weight> is supported"),
        ("a <lora:moss:heavy>", "weight as a number"),
        ("a <lora:moss:9>", "from -4 to 4"),
        ("a <lo<lora:moss:1>ra:moss:1>", "a tag inside another tag"),
        ("a __nobody__", "there is no wildcards/nobody.txt"),
        ("a {b", "without its }"),
    ],
)
def test_what_a_prompt_names_in_vain_is_refused_before_it_waits(services: Services, prompt: str, words: str) -> None:
    before = newest(services).id if services.studio.jobs(limit=1) else ""
    for ask in (services.studio.submit, services.studio.prompts.preview):
        with pytest.raises(InvalidParams) as refused:
            ask(prompt)
        assert words in refused.value.message
    [bad] = services.studio.lists.check(prompt).bad_lines
    assert words in bad.reason
    assert (newest(services).id if services.studio.jobs(limit=1) else "") == before


def test_an_error_in_the_negative_prompt_names_it(services: Services) -> None:
    with pytest.raises(InvalidParams) as refused:
        services.studio.submit("a", negative="{a")
    assert refused.value.field == "negative"


@pytest.mark.parametrize(
    ("prompt", "negative", "words"),
    [
        ("a AND b", "", "AND does not combine prompts here"),
        ("a", "<lora:moss:1> b", "tags have no effect in a negative prompt"),
        ("a <lora:moss:1:0.5>", "", "a LoRA has a single weight here"),
        ("a <random:x,y>", "", "not a known tag"),
    ],
)
def test_what_is_not_followed_is_warned_of_by_name(services: Services, prompt: str, negative: str, words: str) -> None:
    assert any(words in each for each in services.studio.submit(prompt, negative=negative).warnings)
    line = f"{prompt} --negative {negative}" if negative else prompt
    assert any(words in each for each in services.studio.lists.check(line).warnings)
    grid = services.studio.grids.check(prompt, x="steps: 4,5", negative=negative)
    assert any(words in each for each in grid.warnings)


def test_a_preview_shows_what_a_submit_draws(services: Services) -> None:
    asked: dict[str, Any] = {"count": 5, "negative": "{x|y}"}
    preview = services.studio.prompts.preview("a {red|blue} __animal__", **asked)
    made = [each.params for each in jobs(services, "a {red|blue} __animal__", seed=preview.seed, **asked)]
    assert preview.prompts == [each.prompt for each in made]
    assert preview.negatives == [each.negative for each in made]
    assert (preview.pictures, preview.combinations) == (5, 12)


def test_a_key_sent_twice_is_one_batch_whatever_was_drawn(services: Services) -> None:
    first = services.studio.submit("a {red|blue|green} __animal__", idempotency_key="once")
    assert services.studio.submit("a {red|blue|green} __animal__", idempotency_key="once").job_ids == first.job_ids


def test_an_edit_draws_a_new_prompt_and_leaves_the_old_one(services: Services) -> None:
    receipt = services.studio.submit("a {red|blue} apple", expand="no", count=3, seed=1)
    services.studio.batches.edit(receipt.batch_id, steps=5)
    assert {services.jobs.get(each).params.prompt for each in receipt.job_ids} == {"a {red|blue} apple"}
    services.studio.batches.edit(receipt.batch_id, prompt="a {red|blue} apple")
    assert {services.jobs.get(each).params.prompt for each in receipt.job_ids} <= COLOURS


def test_cells_of_a_grid_have_equal_choices(services: Services) -> None:
    receipt = services.studio.grids.submit("a {red|blue|green|gold} apple", x="steps: 4,5,6,7,8,9", seed=2)
    assert len({services.jobs.get(each).params.prompt for each in receipt.job_ids}) == 1


def through_http(services: Services, client: TestClient, prompt: str) -> None:
    assert client.post("/api/v1/jobs", json={"prompt": prompt}).status_code == 202


def through_cog(services: Services, client: TestClient, prompt: str) -> None:
    answer = client.post("/predictions", json={"input": {"prompt": prompt}}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202


def through_a1111(services: Services, client: TestClient, prompt: str) -> None:
    aliases = Aliases.parse(services.settings.model_aliases)
    requested = reading.Wanted(prompt=prompt)
    services.studio.submit(**reading.translate(services.studio, services.settings, aliases, requested, {}).options)


def through_page(services: Services, client: TestClient, prompt: str) -> None:
    value = {"prompt": prompt, "count": 1, "expand": ""}
    result, _ = tab_create.on_generate(services.studio, "", *(value.get(name) for name in form.FORM_FIELDS))
    assert 'class="notice bad"' not in result


def through_the_command_line(services: Services, client: TestClient, prompt: str) -> None:
    done = CliRunner().invoke(app, ["submit", prompt, "--home", str(services.settings.home)], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def through_a_list(services: Services, client: TestClient, prompt: str) -> None:
    services.studio.lists.submit(prompt)


def through_a_grid(services: Services, client: TestClient, prompt: str) -> None:
    services.studio.grids.submit(prompt, x="steps: 4")


DOORS = (
    through_http,
    through_cog,
    through_a1111,
    through_page,
    through_the_command_line,
    through_a_list,
    through_a_grid,
)


@pytest.mark.parametrize("door", DOORS)
def test_every_interface_draws_and_takes_tags(services: Services, client: TestClient, door: Any) -> None:
    door(services, client, "a {red|blue} apple <lora:my__ink__v2:0.5>")
    params = newest(services).params
    assert params.prompt in COLOURS
    assert params.loras == (Lora("my__ink__v2", 0.5),)


def test_the_command_line_shows_what_would_be_drawn(services: Services) -> None:
    home = ["--home", str(services.settings.home)]
    done = CliRunner().invoke(app, ["submit", "a {red|blue} apple", "--dry-run", "--expand", "all", *home])
    assert done.exit_code == 0, done.output
    assert "2 pictures of 2 combinations" in done.output
    assert "a red apple" in done.output


def test_the_page_shows_what_would_be_drawn(services: Services) -> None:
    value = {"prompt": "a {red|blue} <b>", "expand": "all", "count": 1}
    result = tab_create.on_preview(services.studio, *(value.get(name) for name in form.FORM_FIELDS))
    assert "<li>a red &lt;b&gt;</li><li>a blue &lt;b&gt;</li>" in result


def test_http_shows_what_would_be_drawn(client: TestClient) -> None:
    answer = client.post("/api/v1/jobs/preview", json={"prompt": "a {red|blue} apple", "expand": "all"}).json()
    assert answer["prompts"] == ["a red apple", "a blue apple"]
    assert client.post("/api/v1/jobs/preview", json={"prompt": "a {red"}).status_code == 422


def test_files_are_looked_for_in_the_home_only(services: Services, tmp_path: Path) -> None:
    (services.settings.home / "secret.txt").write_text("secret")
    with pytest.raises(InvalidParams, match="there is no wildcards"):
        services.studio.submit("a __../secret__")


def test_several_options_are_picked_by_their_weights_and_never_twice(services: Services) -> None:
    seen = Counter[str]()
    for seed in range(400):
        [prompt] = services.studio.prompts.preview("{2$$8::a|1::b|1::c|0::d}", seed=seed).prompts
        first, second = prompt.split(",")
        assert first != second
        seen.update([first])
    assert seen["a"] > 280  # 320 are expected
    assert min(seen["b"], seen["c"]) > 15  # 40 are expected
    assert seen["d"] == 0


def test_a_key_sent_again_is_one_batch_whatever_lots_were_drawn(services: Services) -> None:
    studio = services.studio
    for name, submit in {
        "variation": lambda key: studio.submit("a cat", variation_strength=0.5, idempotency_key=key),
        "choice": lambda key: studio.submit("a {b|c|d|e} cat", idempotency_key=key),
        "both": lambda key: studio.submit("a {b|c|d|e} cat", variation_strength=0.5, idempotency_key=key),
        "grid": lambda key: studio.grids.submit("a {b|c|d|e} cat", x="steps: 1-4", idempotency_key=key),
    }.items():
        assert len({submit(name).batch_id for _ in range(8)}) == 1, name
    with pytest.raises(Conflict):
        studio.grids.submit("a {b|c|d|f} cat", x="steps: 1-4", idempotency_key="grid")


def test_the_setting_holds_wherever_nothing_else_is_asked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    studio = services_of(tmp_path_factory, expand_prompts="no").studio
    assert studio.prompts.preview("a {x|y}").prompts == ["a {x|y}"]
    assert studio.lists.check("a {x|y} dog").first == ["a {x|y} dog"]
    assert studio.lists.check("a {x|y} dog", expand="random").first[0] in ("a x dog", "a y dog")


def test_a_grid_makes_no_combinations(services: Services) -> None:
    with pytest.raises(InvalidParams, match="expand: must be random or no in a grid"):
        services.studio.grids.check("a {b|c} cat", x="steps: 1,2", expand="all")


def test_unknown_wildcards_of_a_list_read_the_folder_once(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    walk = wildcards.walk
    monkeypatch.setattr(wildcards, "walk", lambda path, *value: (looked.append(path), walk(path, *value))[1])
    assert services.studio.lists.check("a __nope__ dog\n" * 20).bad_count == 20
    assert looked.count(services.settings.wildcards) == 1


def test_a_mask_that_cannot_be_looked_at_now_refuses_nothing(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overloaded(source_id: str) -> bool:
        raise Overloaded

    catalog = services.catalog
    monkeypatch.setattr(catalog, "paints", overloaded)
    drafts = Drafts(catalog, Expander(services.settings.wildcards))
    assert drafts.mask_warnings(replace(catalog.complete("x", {"seed": 1}), mask="m")) == []


def test_a_tag_finds_a_lora_in_a_folder_by_its_bare_name(services: Services) -> None:
    write_header(services.settings.loras / "style/pen.safetensors", LORA)
    for prompt in ("a cat <lora:pen:0.5>", "{a|b} cat <lora:pen:0.5>", "{a|b} cat <lora:style/pen:0.5>"):
        [job_id] = services.studio.submit(prompt).job_ids
        assert services.studio.job(job_id).params.loras == (Lora("style/pen", 0.5),)
        plan = services.studio.lists.check(prompt)
        assert (plan.pictures, plan.bad_lines) == (1, [])
    with pytest.raises(InvalidParams, match="style/pen"):
        services.studio.submit("a cat <lora:pen:0.5> <lora:style/pen:0.7>")
    write_header(services.settings.loras / "other/pen.safetensors", LORA)
    with pytest.raises(InvalidParams, match="more than one file"):
        services.studio.submit("a {cat|dog} <lora:pen:0.5>")
