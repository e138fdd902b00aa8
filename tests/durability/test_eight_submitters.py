"""Eight processes submit at once: what was acknowledged is there, once."""

import json
from collections import Counter

import pytest

from diffusion_local.compose import Services
from tests.durability.conftest import Start, assert_sound
from tests.support import eventually

SUBMIT = """
import json, os, sys, time
from pathlib import Path
from diffusion_local.actor import LOCAL, run_as
from diffusion_local.compose import open_studio
from diffusion_local.settings import Settings
me = {me}
run_as(LOCAL)
studio = open_studio(Settings.load())
gate = Path(os.environ["GATE"])
(gate / f"ready-{{me}}").touch()
while not (gate / "open").exists():
    time.sleep(0.005)
for batch in range(25):
    key = f"{{me}}-{{batch}}" if batch % 2 else "all-" + str(batch)
    prompt = "shared" if batch % 2 == 0 else f"of {{me}}"
    found = studio.submit(prompt, count=1 + batch % 3, steps=2, idempotency_key=key)
    print(json.dumps([key, found.batch_id, found.job_ids]), flush=True)
"""


@pytest.mark.parametrize("clients", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_some_submit_at_once_and_every_answer_holds(services: Services, start: Start, clients: int) -> None:
    """Half of the keys are one client's own, half are sent by all of them at the same moment."""
    gate = services.settings.home.parent / "gate"
    gate.mkdir()
    children = [start(SUBMIT.format(me=me), GATE=gate) for me in range(clients)]
    eventually(lambda: len(list(gate.glob("ready-*"))) == clients, 60)
    (gate / "open").touch()
    assert [child.wait(120) for child in children] == [0] * clients
    text = [line for child in children for line in child.log_path.read_text().splitlines()]
    answers = [(key, batch, tuple(ids)) for key, batch, ids in (json.loads(line) for line in text if line[0] == "[")]
    assert len(answers) == clients * 25
    assert len({key for key, _, _ in answers}) == len(set(answers)) == clients * 12 + 13  # one batch a key

    promised = Counter(job_id for _, _, ids in set(answers) for job_id in ids)
    with services.database.read() as db:
        stored = [row[0] for row in db.execute("SELECT id FROM jobs ORDER BY position").fetchall()]
        counts = db.execute("SELECT id, count FROM batches").fetchall()
        positions = db.execute("SELECT count(DISTINCT position) FROM jobs").fetchone()[0]
    assert Counter(stored) == promised
    assert positions == len(stored)
    assert dict(counts) == {batch: len(ids) for _, batch, ids in answers}
    assert_sound(services, drained=False)
