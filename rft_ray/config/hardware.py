"""The cards that a run may use, with memory and speed, and the sections `hardware` and `cost`.

Sources: the vendor's datasheets of these cards (nvidia.com/data-center: A100, H100, H200, HGX B200, L4, L40S, A10, A40;
A10G: the product brief; RTX 3090, 4090 and A6000: the white papers of GA102 and AD102). Rates are those of dense
matrices in bfloat16 with sums in float32, without the factor of two of structured sparsity.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from rft_ray.config.section import Section


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of GPU.

    Example: Card("A100-80GB", 80, 312, ("A100",), ("A100", "80GB"))
    """

    name: str
    memory_gb: int
    """As in the datasheet."""
    tflops: float
    """Dense bfloat16 TFLOP/s."""
    ray: tuple[str, ...] = ()
    """Ray's accelerator types for this card, by its device's name. Cards share some: an H100 may be any of three."""
    words: tuple[str, ...] = ()
    """Words that the device's name has, as PyTorch gives it (`NVIDIA A100-SXM4-80GB`)."""
    ecc: bool = False
    """Whether error correction, which is on unless it is switched off, takes a sixteenth of the memory."""

    @property
    def memory_gib(self) -> float:
        """GiB that a process can use: the datasheet's GB as 10^9 bytes, without what error correction takes.

        A card of 80 GB shows 79 GiB, one of 24 GB 23.6, or 22.1 with error correction: the rest, 6 per cent, is room
        for fragmentation.
        """
        return self.memory_gb * (15 / 16 if self.ecc else 1) * 1e9 / 2**30


CARDS = (
    Card("B200", 180, 2250, ("B200",), ("B200",)),
    Card("H200", 141, 989.4, ("H200",), ("H200",)),
    Card("H100-80GB", 80, 989.4, ("H100",), ("H100", "HBM3")),
    Card("H100-PCIe", 80, 756, ("H100",), ("H100", "PCIe")),
    Card("H100-NVL", 94, 835, ("H100",), ("H100", "NVL")),
    Card("A100-80GB", 80, 312, ("A100", "A100-80G"), ("A100", "80GB")),
    Card("A100-40GB", 40, 312, ("A100-40G", "A100"), ("A100", "40GB")),
    Card("L40S", 48, 362, ("L40S",), ("L40S",), ecc=True),
    Card("A40", 48, 149.7, ("A40",), ("A40",), ecc=True),
    Card("A6000", 48, 154.8, ("RTX-A6000", "A6000"), ("RTX", "A6000")),
    Card("A10G", 24, 70, ("A10G",), ("A10G",), ecc=True),
    Card("A10", 24, 125, ("A10",), ("A10",), ecc=True),
    Card("L4", 24, 121, ("L4",), ("L4",), ecc=True),
    Card("RTX-4090", 24, 165.2, ("GeForce-RTX-4090",), ("RTX", "4090")),
    Card("RTX-3090", 24, 71, ("GeForce-RTX-3090",), ("RTX", "3090")),
)
BY_NAME = {card.name: card for card in CARDS}


def card_of_type(ray_type: str, planned: Card | None = None) -> Card | None:
    """The card of one of Ray's accelerator types; None for a type without one.

    Of several it is `planned`, if that has the type, else the first of the table: `A100` is taken for 80 GB.
    """
    return next((card for card in (planned, *CARDS) if card and ray_type in card.ray), None)


def card_of_device(device: str) -> Card | None:
    """The card of a device's name, as PyTorch gives it; None for one that is not in the table."""
    words = set(re.split(r"[^A-Za-z0-9]+", device))
    return next((card for card in CARDS if words.issuperset(card.words)), None)


class Hardware(Section):
    """What the run runs on, for estimates and checks; none of it enters an identity."""

    gpu: str | None = None
    """The card, such as `A100-80GB`: the dry run checks that models fit it. null: that of
    `engine.accelerator_type`, or what Ray says of its nodes."""

    on_misfit: Literal["stop", "continue"] = "stop"
    """Where a model does not fit the card by the estimate: refuse to start, or print a note and start."""

    @field_validator("gpu")
    @classmethod
    def _known(cls, gpu: str | None) -> str | None:
        if gpu is None or gpu in BY_NAME:
            return gpu
        near = difflib.get_close_matches(gpu, BY_NAME, 1, 0.4)
        hint = f"; nearest: {near[0]}" if near else ""
        raise ValueError(f"{gpu!r} is no card of the table ({', '.join(BY_NAME)}){hint}")

    @property
    def card(self) -> Card | None:
        """The card that `gpu` names."""
        return None if self.gpu is None else BY_NAME[self.gpu]


class Cost(Section):
    """What a GPU costs, for estimates and the report."""

    usd_per_gpu_hour: float | None = Field(None, ge=0)
    """Price of one GPU for an hour, in US dollars; null: no money is shown."""
