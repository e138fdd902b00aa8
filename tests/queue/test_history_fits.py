"""What was learned about memory is kept, one row a model, kind, size and device."""

from dataclasses import replace

from diffusion_local.db.database import Database
from diffusion_local.domain import Fit, Kind
from diffusion_local.queue.history import FitStore

FIT = Fit("sdxl", Kind.TXT2IMG, 1024, 1024, "Test GPU", worked="model_offload", peak_bytes=6_000_000_000)


def test_what_was_learned_is_found_again_and_written_over(database: Database) -> None:
    fits = FitStore(database)
    assert fits.of("sdxl", "Test GPU") == []
    fits.save(FIT)
    fits.save(replace(FIT, width=512))
    fits.save(replace(FIT, failed="resident", free_bytes=8_000_000_000))
    fits.save(replace(FIT, device="Other GPU"))
    found = sorted(fits.of("sdxl", "Test GPU"), key=lambda fit: fit.width)
    assert [(fit.width, fit.worked, fit.failed) for fit in found] == [
        (512, "model_offload", ""),
        (1024, "model_offload", "resident"),
    ]
    assert replace(found[1], at="") == replace(FIT, failed="resident", free_bytes=8_000_000_000)
    assert found[1].at.endswith("Z")


def test_a_replaced_model_is_measured_anew(database: Database) -> None:
    fits = FitStore(database)
    fits.save(FIT)
    fits.delete("sdxl")
    assert fits.of("sdxl", "Test GPU") == []
