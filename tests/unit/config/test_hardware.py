"""The table of cards: which one a device's name, or Ray's, stands for."""

from __future__ import annotations

import pytest

from rft_ray.config import ConfigError, load
from rft_ray.config.hardware import BY_NAME, card_of_device, card_of_type

MODEL = "--models=[{name: a, source: x}]"


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
    ],
)
def test_a_devices_name_stands_for_its_card(device: str, card: str) -> None:
    assert card_of_device(device) is BY_NAME[card]


@pytest.mark.parametrize("device", ["NVIDIA RTX A4000", "NVIDIA A100X", "Tesla V100-SXM2-16GB", ""])
def test_a_device_that_only_sounds_like_a_card_is_none(device: str) -> None:
    assert card_of_device(device) is None


def test_rays_types_stand_for_cards() -> None:
    types = ("H100", "A100", "A100-40G", "V100")
    assert [card.name if (card := card_of_type(name)) else None for name in types] == [
        "H100-80GB",
        "A100-80GB",
        "A100-40GB",
        None,
    ]


RAYS_NAMES = {
    "NVIDIA B200": "B200",
    "NVIDIA H200": "H200",
    "NVIDIA H100 80GB HBM3": "H100-80GB",
    "NVIDIA H100 PCIe": "H100-PCIe",
    "NVIDIA H100 NVL": "H100-NVL",
    "NVIDIA A100-SXM4-80GB": "A100-80GB",
    "NVIDIA A100-SXM4-40GB": "A100-40GB",
    "NVIDIA L40S": "L40S",
    "NVIDIA A40": "A40",
    "NVIDIA RTX A6000": "A6000",
    "NVIDIA A10G": "A10G",
    "NVIDIA A10": "A10",
    "NVIDIA L4": "L4",
    "NVIDIA GeForce RTX 4090": "RTX-4090",
    "NVIDIA GeForce RTX 3090": "RTX-3090",
}
"""Name of a device, as its driver gives it -> the card."""


def test_ray_finds_every_card_of_the_table_by_its_devices_name() -> None:
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

    assert set(RAYS_NAMES.values()) == set(BY_NAME)
    for device, name in RAYS_NAMES.items():
        ray_type = NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(device)
        assert card_of_type(ray_type, BY_NAME[name]) is BY_NAME[name]
        assert card_of_type(ray_type) is not None


def test_an_unknown_card_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="nearest: H100-80GB"):
        load(None, [MODEL, "--hardware.gpu=H100-80"])


def test_a_switch_without_quotes_is_no_truth_value() -> None:
    config = load(None, [MODEL, "--training.activation_checkpointing=on"])
    assert config.training.activation_checkpointing == "on"


@pytest.mark.parametrize(
    "setting", ["{dtype: float32, grad_accum_dtype: float32}", "{lora_rank: 4, master_weights: base}"]
)
def test_a_precision_that_would_change_nothing_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="belong"):
        load(None, [MODEL, f"--rft={setting}"])


def test_keys_that_were_added_enter_the_name_of_a_model_only_where_they_are_set() -> None:
    plain = load(None, [MODEL]).rft.recipe
    assert not {"grad_accum_dtype", "master_weights"} & set(plain.identity)
    summed = load(None, [MODEL, "--rft.grad_accum_dtype=float32"]).rft.recipe
    assert summed.identity == {**plain.identity, "grad_accum_dtype": "float32"}


@pytest.mark.parametrize(
    ("card", "total"),
    [
        ("H200", 139.8),
        ("H100-80GB", 79.1),
        ("A100-40GB", 39.4),
        ("L40S", 44.4),
        ("A40", 44.4),
        ("A6000", 47.5),
        ("A10G", 22.2),
        ("L4", 22.1),
        ("RTX-4090", 23.6),
    ],
)
def test_a_card_is_planned_with_room_for_fragmentation(card: str, total: float) -> None:
    """`total`: GiB of the device, as PyTorch's errors of a lack of memory state them."""
    assert 0.93 < BY_NAME[card].memory_gib / total < 0.96
