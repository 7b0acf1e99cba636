"""A run's configuration: one frozen tree (`schema`), read from YAML and arguments (`loading`).

Imports pydantic and yaml only: a config is validated before Ray, torch or vLLM is loaded.
"""

from rft_ray.config.endpoint import ENDPOINT, Endpoint
from rft_ray.config.errors import ConfigError
from rft_ray.config.grading import Grading
from rft_ray.config.loading import load
from rft_ray.config.models import ALPACA, BaseModelSpec, Prompt, Recipe
from rft_ray.config.problems import Problems, ProblemSet
from rft_ray.config.schema import Config, Corpus, Engine, Evaluation, Run, Sampling
from rft_ray.config.section import Section
from rft_ray.config.study import Study
from rft_ray.config.training import Training

__all__ = [
    "ALPACA",
    "ENDPOINT",
    "BaseModelSpec",
    "Config",
    "ConfigError",
    "Corpus",
    "Endpoint",
    "Engine",
    "Evaluation",
    "Grading",
    "ProblemSet",
    "Problems",
    "Prompt",
    "Recipe",
    "Run",
    "Sampling",
    "Section",
    "Study",
    "Training",
    "load",
]  # fmt: skip
