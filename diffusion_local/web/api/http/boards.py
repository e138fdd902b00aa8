"""Boards: albums of the gallery."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from diffusion_local.pictures import MOST_AT_ONCE
from diffusion_local.store.boards import NAME_CHARS
from diffusion_local.studio import Studio


class NewBoard(BaseModel):
    name: str = Field(min_length=1, max_length=NAME_CHARS)
    image_ids: list[str] = Field(default=[], max_length=MOST_AT_ONCE, description="pictures to put on it")


class Name(BaseModel):
    name: str = Field(min_length=1, max_length=NAME_CHARS)


class Images(BaseModel):
    image_ids: list[str] = Field(min_length=1, max_length=MOST_AT_ONCE)


def router(studio: Studio) -> APIRouter:
    boards = APIRouter(prefix="/boards", tags=["boards"])

    @boards.get("")
    def list_boards() -> dict[str, Any]:
        """Every board by name; `count` leaves out the trash, `cover` is its newest picture."""
        return {"boards": [asdict(each) for each in studio.boards.all()]}

    @boards.post("", status_code=201)
    def create(body: NewBoard) -> dict[str, Any]:
        return asdict(studio.boards.create(body.name, body.image_ids))

    @boards.get("/{board_id}")
    def one_board(board_id: str) -> dict[str, Any]:
        """A board; its pictures are at `/images?board=`."""
        return asdict(studio.boards.get(board_id))

    @boards.patch("/{board_id}")
    def rename(board_id: str, body: Name) -> dict[str, Any]:
        return asdict(studio.boards.rename(board_id, body.name))

    @boards.delete("/{board_id}")
    def delete(board_id: str) -> dict[str, Any]:
        """Delete the board; its pictures stay in the gallery."""
        return asdict(studio.boards.delete(board_id))

    @boards.post("/{board_id}/images")
    def add(board_id: str, body: Images) -> dict[str, Any]:
        return asdict(studio.boards.add(board_id, body.image_ids))

    @boards.post("/{board_id}/images/remove")
    def take(board_id: str, body: Images) -> dict[str, Any]:
        """Take pictures off the board; they stay in the gallery."""
        return asdict(studio.boards.take(board_id, body.image_ids))

    return boards
