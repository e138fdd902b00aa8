"""Many jobs at once: cancel, make again, order, forget. One job has addresses of its own in ``jobs``."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from diffusion_local import shapes
from diffusion_local.domain import Receipt
from diffusion_local.errors import Conflict
from diffusion_local.messages import message
from diffusion_local.studio import Studio
from diffusion_local.web.api.control import Control
from diffusion_local.web.api.fields import Again, Cancel, Forget, Move, Prioritize
from diffusion_local.web.api.http.jobs import accepted


def router(studio: Studio) -> APIRouter:
    steering = APIRouter(prefix="/jobs", tags=["jobs"])
    control = Control(studio)

    @steering.post("/cancel")
    def cancel_jobs(body: Cancel) -> shapes.Touched:
        """Cancel jobs, a batch, or all that wait: the ids it touched. Running ones stop at their next step."""
        return {"job_ids": control.cancel(**body.model_dump())["job_ids"]}

    @steering.post("/again", status_code=202)
    def make_again(body: Again) -> JSONResponse:
        """New jobs from the recipes of old ones: of those named, or of a batch's, or all, that failed."""
        studio.check_open()
        return accepted(studio, Receipt(**control.again(**body.model_dump())))

    @steering.post("/move")
    def move(body: Move) -> shapes.Touched:
        """Move waiting jobs to the `top` of their lane, or one job `up` or `down` by a place: the ids that moved."""
        return {"job_ids": control.move(**body.model_dump())["job_ids"]}

    @steering.post("/priority")
    def prioritize(body: Prioritize) -> shapes.Touched:
        """Give waiting jobs another priority: the ids it reached."""
        return {"job_ids": control.priority(**body.model_dump())["job_ids"]}

    @steering.post("/forget")
    def forget_jobs(body: Forget) -> shapes.Touched:
        """Delete ended jobs from the list, with their history: the ids that are gone. Their pictures stay."""
        return {"job_ids": control.forget(**body.model_dump())["job_ids"]}

    @steering.delete("/{job_id}")
    def forget_job(job_id: str) -> shapes.Touched:
        """Delete an ended job from the list; whoever asks for it later gets 410. Its picture stays."""
        gone = studio.forget([job_id])
        if not gone:
            raise Conflict(message("job_not_ended", job=job_id, state=message(f"state_{studio.job(job_id).state}")))
        return {"job_ids": gone}

    return steering
