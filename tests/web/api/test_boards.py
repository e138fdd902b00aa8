"""Boards, filters and many pictures at once, over plain HTTP."""

import io
import zipfile

from fastapi.testclient import TestClient

from diffusion_local.compose import Services
from tests.web.conftest import made

IMAGES, BOARDS = "/api/v1/images", "/api/v1/boards"


def test_a_board_from_its_making_to_its_end(client: TestClient, services: Services) -> None:
    first, second = made(services, seed=1).id, made(services, seed=2).id
    answer = client.post(BOARDS, json={"name": "Autumn", "image_ids": [first]})
    assert answer.status_code == 201
    board = f"{BOARDS}/{answer.json()['id']}"
    assert client.post(f"{board}/images", json={"image_ids": [second]}).json()["count"] == 2
    assert client.get(IMAGES, params={"board": answer.json()["id"], "limit": 1}).json()["next"]
    assert client.post(f"{board}/images/remove", json={"image_ids": [first]}).json()["cover"] == second
    assert client.patch(board, json={"name": "Winter"}).json()["name"] == "Winter"
    assert [each["name"] for each in client.get(BOARDS).json()["boards"]] == ["Winter"]
    assert client.post(BOARDS, json={"name": "Winter"}).status_code == 409
    assert client.post(BOARDS, json={"name": " "}).json()["error"]["field"] == "name"
    assert client.delete(board).status_code == 200
    assert client.get(board).status_code == 404


def test_filters_of_the_gallery(client: TestClient, services: Services) -> None:
    image = made(services, prompt="a lighthouse", seed=3)
    batch = services.studio.job(image.job_id).batch_id
    for asked in (
        {"search": "light"},
        {"batch": batch},
        {"like": image.id},
        {"search": "lighthouse", "shape": "square"},
    ):
        assert [each["id"] for each in client.get(IMAGES, params=asked).json()["images"]] == [image.id], asked
    assert client.get(IMAGES, params={"search": "lighthouse", "shape": "portrait"}).json()["images"] == []
    refused = client.get(IMAGES, params={"since": "yesterday"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "since")


def test_many_at_once(client: TestClient, services: Services) -> None:
    ids = [made(services, seed=seed).id for seed in (11, 12)]
    answer = client.post(f"{IMAGES}/star", json={"image_ids": ids})
    assert all(each["starred"] for each in answer.json()["images"])
    assert client.post(f"{IMAGES}/delete", json={"image_ids": ids}).status_code == 409
    assert client.post(f"{IMAGES}/trash", json={"image_ids": [*ids, "nobody"]}).status_code == 404
    assert client.post(f"{IMAGES}/trash", json={"image_ids": ids}).status_code == 200
    assert client.post(f"{IMAGES}/restore", json={"image_ids": ids[:1]}).status_code == 200
    assert client.post(f"{IMAGES}/delete", json={"image_ids": ids[1:]}).json() == {"deleted": ids[1:]}
    assert client.get(f"{IMAGES}/{ids[1]}").status_code == 410


def test_pictures_in_one_file(client: TestClient, services: Services) -> None:
    image = made(services, prompt="a windmill")
    for asked in ({"ids": image.id}, {"search": "windmill"}):
        answer = client.get(f"{IMAGES}/zip", params=asked)
        assert answer.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as file:
            [name] = file.namelist()
            assert file.read(name) == services.studio.picture_file(image.id).read_bytes()
    assert client.get(f"{IMAGES}/zip", params={"ids": "nobody"}).status_code == 404
