"""Models, adapters and downloads over plain HTTP."""

from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from tests.models import files
from tests.models.files import write_header

ROOT = "/api/v1"


def test_models_are_listed_and_one_is_shown(client: TestClient, services: Services) -> None:
    write_header(services.settings.models / "mine.safetensors", files.SDXL)
    found = {each["id"]: each for each in client.get(f"{ROOT}/models").json()["models"]}
    assert found["starter"]["ready"]
    one = client.get(f"{ROOT}/models/mine").json()
    assert one == found["mine"]
    assert (one["state"], one["family"], one["source"], one["kinds"]) == (
        "ready", "sdxl", "file", ["txt2img", "img2img", "inpaint"],
    )  # fmt: skip
    assert str(services.settings.home) not in client.get(f"{ROOT}/models").text
    assert client.get(f"{ROOT}/models/none").status_code == 404


def test_a_model_elsewhere_is_added_and_taken_out(client: TestClient, services: Services, tmp_path) -> None:
    path = write_header(tmp_path / "elsewhere.safetensors", files.SD1)
    added = client.post(f"{ROOT}/models", json={"path": str(path)})
    assert [each["id"] for each in added.json()["models"]] == ["elsewhere"]
    removed = client.delete(f"{ROOT}/models/elsewhere").json()
    assert "its files are where they were" in removed["message"]
    refused = client.post(f"{ROOT}/models", json={"path": "/nowhere/at/all"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "path")


def test_the_precision_of_a_model_is_chosen(client: TestClient) -> None:
    chosen = client.patch(f"{ROOT}/models/starter", json={"precision": "int8"})
    assert (chosen.status_code, chosen.json()["chosen_precision"]) == (200, "int8")
    refused = client.patch(f"{ROOT}/models/starter", json={"precision": "int7"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "precision")
    assert client.patch(f"{ROOT}/models/starter", json={}).json()["chosen_precision"] == ""


def test_a_scan_tells_of_adapters(client: TestClient, services: Services) -> None:
    write_header(services.settings.loras / "style.safetensors", files.LORA)
    [lora] = client.post(f"{ROOT}/models/scan").json()["loras"]
    assert (lora["name"], lora["architecture"], lora["ready"]) == ("style", "sd1", True)
    assert client.get(f"{ROOT}/adapters").json()["loras"] == [lora]


def test_a_download_is_put_into_line_and_cancelled(client: TestClient) -> None:
    asked = client.post(f"{ROOT}/downloads", json={"repo": "someone/model"})
    assert (asked.status_code, asked.json()["state"]) == (202, "waiting")
    download_id = asked.json()["id"]
    assert client.get(asked.headers["Location"]).json()["repo"] == "someone/model"
    assert client.post(f"{ROOT}/downloads", json={"repo": "someone/model"}).json()["id"] == download_id
    assert client.post(f"{ROOT}/downloads/{download_id}/cancel").json()["state"] == "cancelled"
    assert client.post(f"{ROOT}/downloads/{download_id}/cancel").status_code == 409
    assert client.get(f"{ROOT}/downloads").json()["downloads"][0]["id"] == download_id
    refused = client.post(f"{ROOT}/downloads", json={"repo": "nonsense"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "repo")


def test_a_file_is_asked_for_by_its_address_with_its_digest(client: TestClient) -> None:
    wish = {"repo": "https://example.com/a/elsewhere.safetensors?key=secret", "into": "loras", "digest": "AB" * 32}
    asked = client.post(f"{ROOT}/downloads", json=wish)
    assert asked.status_code == 202
    shown = {name: asked.json()[name] for name in ("repo", "folder", "name", "digest")}
    assert shown == {
        "repo": "https://example.com/a/elsewhere.safetensors", "folder": "loras", "name": "elsewhere.safetensors",
        "digest": "ab" * 32,
    }  # fmt: skip
    assert "secret" not in client.get(f"{ROOT}/downloads").text
    refused = client.post(f"{ROOT}/downloads", json=wish | {"repo": "https://127.0.0.1/elsewhere.safetensors"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "repo")


def test_known_models_are_listed_with_their_source(client: TestClient) -> None:
    found = client.get(f"{ROOT}/known-models").json()["models"]
    assert all(each["source"] and each["licence"] for each in found)
