"""The nouns: frozen, and written and read without loss."""

from dataclasses import FrozenInstanceError, fields
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_local.domain import FINAL, TRANSITIONS, Params, State, new_id, utc_now, utc_text
from tests.support import PARAMS, params

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts, st.integers(0, 2**32 - 1), st.floats(0, 30))
def test_params_come_back_from_json_as_they_were(prompt: str, negative: str, seed: int, guidance: float) -> None:
    before = params(prompt=prompt, negative=negative, seed=seed, guidance=guidance)
    assert Params.from_json(before.to_json()) == before


def test_params_of_a_newer_program_are_read_without_what_is_not_known() -> None:
    newer = PARAMS.to_json()[:-1] + ', "a_field_to_come": 3}'
    assert Params.from_json(newer) == PARAMS


def test_params_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        PARAMS.seed = 8  # type: ignore[misc]
    assert "seed" in {field.name for field in fields(Params)}


def test_cost_is_work_in_step_megapixels() -> None:
    assert params(width=1000, height=1000, steps=10).cost == pytest.approx(10)


def test_every_state_can_be_reached_and_final_states_are_not_left() -> None:
    reached = {State.QUEUED, *(end for _, end, _ in TRANSITIONS.values())}
    assert reached == set(State)
    assert not {start for start, _, _ in TRANSITIONS.values()} & FINAL
    assert {who for _, _, who in TRANSITIONS.values()} == {"worker", "studio"}


def test_times_are_utc_with_milliseconds_and_sort_as_text() -> None:
    moment = datetime(2026, 11, 22, 12, 0, tzinfo=timezone(timedelta(hours=2)))
    assert utc_text(moment) == "2026-11-22T10:00:00.000Z"
    assert utc_text(moment) < utc_text(moment + timedelta(milliseconds=1)) < utc_text(moment + timedelta(days=40))
    assert abs(datetime.now(UTC) - datetime.fromisoformat(utc_now())) < timedelta(seconds=5)


def test_ids_are_unique_and_safe_in_files_and_addresses() -> None:
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(each.isalnum() and each.isascii() and len(each) == 26 for each in ids)
