"""Boards: albums of pictures. A picture may be on several boards; deleting a board deletes no pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffusion_local import actor
from diffusion_local.authority import guarded
from diffusion_local.db.database import Database, Transaction
from diffusion_local.db.dialect import as_list, in_list
from diffusion_local.db.row_access import readable, writable
from diffusion_local.domain import new_id, utc_now
from diffusion_local.errors import Conflict, InvalidParams, NotFound, echo
from diffusion_local.messages import message
from diffusion_local.options.values import check_prompt

MOST_BOARDS = 1000  # per owner
NAME_CHARS = 100
BOARDS = """
    SELECT boards.*,
        (SELECT count(*) FROM board_images WHERE board_id = boards.id AND shown = 1) AS count,
        coalesce((SELECT image_id FROM board_images WHERE board_id = boards.id AND shown = 1
         ORDER BY at DESC, image_id DESC LIMIT 1), '') AS cover
    FROM boards
"""


@dataclass(frozen=True, slots=True)
class Board:
    """An album. ``count`` excludes the trash; ``cover``: id of the newest picture, or ""."""

    id: str
    name: str
    owner: str
    created_at: str
    count: int = 0
    cover: str = ""


@guarded("boards")
class BoardStore:
    """Boards use cases, available as ``studio.boards``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Board]:
        """Boards that the actor may read, by name."""
        with self._database.read() as db:
            return [to_board(row) for row in db.query(f"{BOARDS} WHERE {readable('boards')} ORDER BY lower(name)")]

    def get(self, board_id: str) -> Board:
        with self._database.read() as db:
            for row in db.query(f"{BOARDS} WHERE boards.id = ? AND {readable('boards')}", [board_id]):
                return to_board(row)
        raise no_board(board_id)

    def create(self, name: str, image_ids: Sequence[str] = ()) -> Board:
        """Create a board with these pictures. Raises Conflict if the name is taken."""
        made = Board(new_id(), check_name(name), actor.current().name, utc_now())
        with self._database.write() as db:
            if db.scalar("SELECT count(*) FROM boards WHERE owner = :owner", owner=made.owner) >= MOST_BOARDS:
                raise InvalidParams("name", message("board_many", count=MOST_BOARDS))
            require_free_name(db, made.owner, made.name)
            db.insert("boards", {"id": made.id, "name": made.name, "owner": made.owner, "created_at": made.created_at})
            add_images(db, made.id, image_ids)
        return self.get(made.id)

    def rename(self, board_id: str, name: str) -> Board:
        with self._database.write() as db:
            found = self._require_writable(db, board_id)
            if check_name(name) != found["name"]:
                require_free_name(db, found["owner"], check_name(name))
            db.execute("UPDATE boards SET name = ? WHERE id = ?", [check_name(name), board_id])
        return self.get(board_id)

    def delete(self, board_id: str) -> Board:
        """Delete a board; its pictures stay in the gallery. Returns it."""
        gone = self.get(board_id)
        with self._database.write() as db:
            self._require_writable(db, board_id)
            db.execute("DELETE FROM boards WHERE id = ?", [board_id])
        return gone

    def add(self, board_id: str, image_ids: Sequence[str]) -> Board:
        """Put pictures on a board; ones already there stay. Raises NotFound for an unknown picture."""
        with self._database.write() as db:
            self._require_writable(db, board_id)
            add_images(db, board_id, image_ids)
        return self.get(board_id)

    def take(self, board_id: str, image_ids: Sequence[str]) -> Board:
        """Remove pictures from a board."""
        with self._database.write() as db:
            self._require_writable(db, board_id)
            db.execute(
                f"DELETE FROM board_images WHERE board_id = :board AND {in_list('image_id')}",
                {"board": board_id, "ids": as_list(image_ids)},
            )
        return self.get(board_id)

    def of_image(self, image_id: str) -> list[Board]:
        """The boards that a picture is on."""
        having = "boards.id IN (SELECT board_id FROM board_images WHERE image_id = ?)"
        on = f"{BOARDS} WHERE {having} AND {readable('boards')}"
        with self._database.read() as db:
            return [to_board(row) for row in db.query(f"{on} ORDER BY lower(name)", [image_id])]

    @staticmethod
    def _require_writable(db: Transaction, board_id: str) -> dict[str, str]:
        for row in list(db.query(f"SELECT * FROM boards WHERE id = ? AND {writable()}", [board_id])):
            return row
        raise no_board(board_id)


def add_images(db: Transaction, board_id: str, image_ids: Sequence[str]) -> None:
    ids = as_list(image_ids)
    visible = "CASE WHEN trashed_at IS NULL THEN 1 ELSE 0 END"
    known = f"SELECT id, {visible} AS shown FROM images WHERE {in_list('id')} AND {readable()}"
    if db.scalar(f"SELECT count(*) FROM ({known}) AS known", ids=ids) != len(set(image_ids)):
        raise NotFound(message("picture_missing"))
    db.execute(
        "INSERT INTO board_images (board_id, image_id, at, shown) "
        f"SELECT :board, id, :now, shown FROM ({known}) AS known WHERE true ON CONFLICT DO NOTHING",
        {"board": board_id, "now": utc_now(), "ids": ids},
    )


def require_free_name(db: Transaction, owner: str, name: str) -> None:
    if db.scalar("SELECT 1 FROM boards WHERE owner = :owner AND name = :name", owner=owner, name=name):
        raise Conflict(message("board_there", name=echo(name)))


def check_name(name: str) -> str:
    line = " ".join(name.split()) if isinstance(name, str) else ""
    if not 0 < len(line) <= NAME_CHARS:
        raise InvalidParams("name", message("board_name", most=NAME_CHARS))
    check_prompt("name", line)  # control characters and half characters
    return line


def no_board(board_id: str) -> NotFound:
    return NotFound(message("no_board", board=echo(board_id)))


def to_board(row: dict[str, str | int]) -> Board:
    return Board(
        str(row["id"]),
        str(row["name"]),
        str(row["owner"]),
        str(row["created_at"]),
        int(row["count"]),
        str(row["cover"]),
    )
