"""Errors on the page: fields by their names there, and a report in the language of its reader."""

import ast
import dataclasses
import re

from fastapi.testclient import TestClient

from diffusion_local import errors
from diffusion_local.compose import Services
from diffusion_local.domain import Failure
from diffusion_local.settings import Settings
from diffusion_local.web.ui import words
from tests.support import claimed
from tests.test_messages import calls, name_of
from tests.web.conftest import made

#: Errors of a terminal or for programs, never on the page.
ELSEWHERE = (
    "cli/", "remote/", "supervisor/", "dispatch/", "system/network.py", "web/api/",
    "web/host_check.py", "web/proxies.py", "web/page_delta.py",
)  # fmt: skip


def test_every_field_that_can_be_wrong_has_a_name() -> None:
    fields = {
        (where, call.args[0].value)
        for where, call in calls()
        if name_of(call) == "InvalidParams"
        and isinstance(call.args[0], ast.Constant)
        and not where.startswith(ELSEWHERE)
    }
    own = {each.name for each in dataclasses.fields(Settings)} | {"config.toml"}  # named as in that file
    assert {each for each in fields if each[1] not in own and not words.has_phrase(f"common.{each[1]}")} == set()


def test_the_page_of_a_report_speaks_the_readers_language(client: TestClient, services: Services) -> None:
    made(services)
    failed = services.studio.submit("a boat", width=128, height=128).job_ids[0]
    services.jobs.fail(claimed(services.jobs).claim, Failure("out_of_memory", errors.OutOfMemory().message))
    batch = services.studio.job(failed).batch_id
    text = client.get(f"/reports/batch/{batch}.html", headers={"Accept-Language": "zh-CN"}).text
    assert '<html lang="zh-CN">' in text
    assert "<dt>失败</dt>" in text
    assert "1 × 内存不足" in text
    assert "设备内存不足。" in text
    assert re.findall(r">\s*(Done|Failed|Pictures|Time|From|To)\s*<", text) == []
    assert "<dt>Failed</dt>" in client.get(f"/reports/batch/{batch}.html").text
