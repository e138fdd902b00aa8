"""Answers of vision models about pictures, such as captions. Each model runs once per picture.

Answers are stored in the database, so that all processes of a studio share them. A process claims a run (of a
model on a picture) before it starts, and the others wait for its answer. A claim that is no longer renewed is taken
over.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from PIL import Image as PIL

from diffusion_local import image_decoding
from diffusion_local.db.database import Database
from diffusion_local.domain import utc_now, utc_text
from diffusion_local.engine import preprocessors, vision_models
from diffusion_local.engine.vision_models import Check, VisionModel
from diffusion_local.errors import Overloaded
from diffusion_local.gallery.blobs import StoredFile
from diffusion_local.image_decoding import INPUT_FORMATS
from diffusion_local.messages import message

#: Newest answers that are kept.
MOST_ANSWERS = 10_000
#: A claim not renewed for CLAIM_SECONDS has lost its process; a live process renews it every RENEW_SECONDS.
CLAIM_SECONDS, RENEW_SECONDS = 20.0, 4.0
POLL_SECONDS = 0.25


class VisionAnswerStore:
    """The table ``looks``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def answer(self, key: str) -> str | None:
        with self._database.read() as db:
            found: str | None = db.scalar("SELECT answer FROM looks WHERE key = :key", key=key)
            return found

    def claim(self, key: str) -> bool:
        """Claim a run. Returns False if it already has an answer or another process works on it."""
        values = {"key": key, "now": utc_now(), "expired": before(CLAIM_SECONDS)}
        with self._database.write() as db:
            return bool(
                db.execute(
                    "INSERT INTO looks (key, at) VALUES (:key, :now) ON CONFLICT (key) DO UPDATE SET at = excluded.at "
                    "WHERE looks.answer IS NULL AND looks.at < :expired RETURNING key",
                    values,
                ).fetchall()
            )

    def renew(self, key: str) -> None:
        with self._database.write() as db:
            db.execute("UPDATE looks SET at = :now WHERE key = :key AND answer IS NULL", {"key": key, "now": utc_now()})

    def finish(self, key: str, answer: str) -> None:
        """Store the answer, and delete the oldest answers if there are too many."""
        with self._database.write() as db:
            db.execute(
                "INSERT INTO looks (key, answer, at) VALUES (:key, :answer, :now) "
                "ON CONFLICT (key) DO UPDATE SET answer = excluded.answer, at = excluded.at",
                {"key": key, "answer": answer, "now": utc_now()},
            )
            db.execute(
                "DELETE FROM looks WHERE answer IS NOT NULL AND at < "
                f"(SELECT at FROM looks ORDER BY at DESC LIMIT 1 OFFSET {MOST_ANSWERS})"
            )

    def release(self, key: str) -> None:
        """Release the claim of a run that failed."""
        with self._database.write() as db:
            db.execute("DELETE FROM looks WHERE key = :key AND answer IS NULL", {"key": key})

    def forget(self, key: str, answer: str) -> None:
        """Delete an answer that is no longer usable."""
        with self._database.write() as db:
            db.execute("DELETE FROM looks WHERE key = :key AND answer = :answer", {"key": key, "answer": answer})


class VisionAnswers:
    """Runs vision models on pictures, once per model and picture."""

    def __init__(self, store: VisionAnswerStore, folders: Path) -> None:
        """``folders``: the home's folder of preprocessors."""
        self._store = store
        self._folders = folders

    def model(self, task: str, field: str) -> VisionModel:
        """The model of a task. Raises InvalidParams for ``field``."""
        return vision_models.find_model(task, self._folders, field)

    def caption(self, name: str, file: StoredFile, field: str) -> str:
        """The caption of the picture in a file. ``name`` identifies its content.

        Raises InvalidParams for ``field`` if there is no model for captions or it fails, and Overloaded.
        """
        model = self.model("caption", field)

        def run(check: Check) -> str:
            with file.open() as data, PIL.open(data, formats=INPUT_FORMATS) as picture, image_decoding.share(picture):
                scaled = preprocessors.fitted(picture, picture.size)
            return vision_models.describe(scaled, model, field, check)

        return self.once(key_of(name, model), run)

    def once(self, key: str, run: Callable[[Check], str]) -> str:
        """The answer of a run. Calls ``run`` unless the answer is stored or another process is working on it.

        ``run`` must regularly call the function that it is passed. Raises its errors, and Overloaded.
        """
        if (known := self._store.answer(key)) is not None:
            return known
        if not self._store.claim(key):
            with vision_models.waiting():
                until = time.monotonic() + vision_models.WAIT_SECONDS
                while not self._store.claim(key):
                    if (known := self._store.answer(key)) is not None:
                        return known
                    if time.monotonic() > until:
                        raise Overloaded(message("preprocessor_busy"))
                    time.sleep(POLL_SECONDS)
        try:
            answer = run(Renewal(self._store, key))
        except BaseException:
            self._store.release(key)
            raise
        self._store.finish(key, answer)
        return answer

    def forget(self, key: str, answer: str) -> None:
        self._store.forget(key, answer)


class Renewal:
    """Renews a claim when it is called, at most every RENEW_SECONDS."""

    def __init__(self, store: VisionAnswerStore, key: str) -> None:
        self._store, self._key, self._at = store, key, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._at >= RENEW_SECONDS:
            self._at = time.monotonic()
            self._store.renew(self._key)


def key_of(name: str, model: VisionModel, size: tuple[int, int] = (0, 0)) -> str:
    """The key of a model's run on the picture ``name``, fitted to a size in pixels."""
    return sha256(repr((name, model.kind, model.version, size)).encode()).hexdigest()


def before(seconds: float) -> str:
    """The UTC time this many seconds ago."""
    return utc_text(datetime.now(UTC) - timedelta(seconds=seconds))
