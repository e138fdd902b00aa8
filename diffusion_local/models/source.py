"""The file with the weights of one part of a model."""

from dataclasses import dataclass
from pathlib import Path

#: File precisions, least lossy first; others come last.
PRECISIONS = ("fp32", "bf16", "fp16", "Q8_0", "int8", "fp8_e4m3", "fp8_e5m2", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K",
    "Q4_1", "Q4_0", "nf4", "fp4")  # fmt: skip

#: The container of a part that is a diffusers folder.
FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class Source:
    """The weights of one part of a model. ``slot`` is the part's name in a diffusers folder (``text_encoder_2``),
    ``part`` its id in ``models.parts``, or ``denoiser``; ``path`` the file, in which the names of its tensors begin
    with ``prefix``, or the part's diffusers folder. ``count`` is how many numbers the weights are, ``size``
    how many bytes they take in the file."""

    slot: str
    part: str
    path: Path
    prefix: str = ""
    naming: str = ""
    container: str = "safetensors"
    precision: str = ""
    quantisation: str = ""
    count: int = 0
    size: int = 0

    @property
    def rank(self) -> tuple[int, str, str]:
        """Sort key: of several files with a part, the smallest is used."""
        place = PRECISIONS.index(self.precision) if self.precision in PRECISIONS else len(PRECISIONS)
        return place, self.path.name, str(self.path)
