"""The life of an engine in an actor: opened for a model, changed to another, watched, closed."""

from __future__ import annotations

from pathlib import Path

from rft_ray import config
from rft_ray.data import base_models
from rft_ray.plan.jobs import ModelRef, SamplingSettings
from rft_ray.sampling.engine import Engine
from rft_ray.sampling.scripted_engine import ScriptedEngine
from rft_ray.sampling.vllm_engine import VllmEngine
from rft_ray.store import Store
from rft_ray.store.models.committed import fetch_model


def open_engine(
    settings: config.Engine, sampling: SamplingSettings, folder: Path | None, *, gpu: bool, seed: int
) -> Engine:
    """The engine that `sampling` names. `folder`: a local HF model directory (None for `scripted`)."""
    if sampling.engine == "scripted":
        return ScriptedEngine(seed, settings.script)
    if folder is None:
        raise ValueError("the vllm engine needs a model folder")
    return VllmEngine(settings, folder, max_model_len=sampling.max_model_len, gpu=gpu, seed=seed)


class Unloadable(RuntimeError):
    """A model that this sampler cannot load; the message says why, in one line."""


def model_folder(store: Store, model: ModelRef) -> Path:
    """Local HF directory of a base model (by its source) or of a fine-tuned one (from the run's store)."""
    if model.stage == "base":
        return base_models.resolve_exactly(model.source, model.fingerprint)
    return fetch_model(store, model.fingerprint)
