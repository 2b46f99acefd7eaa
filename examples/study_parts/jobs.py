"""What is run: one job is one agent in one environment with one seed, and leaves one small JSON file."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from iris_gym.errors import UsageError

from .environments import IDS

MODEL_FREE = ("ppo", "dqn", "recurrent_ppo")
AGENTS = ("random", "iris", *MODEL_FREE, "dream_ppo")

CHECKPOINTS = (1_000, 2_000, 3_000, 4_000, 5_000, 7_000)
"""Environment steps after which an agent is evaluated, besides after its last."""
LONGER_INTERVAL = 5_000
"""And from the usual end on, where a model-free agent goes on until it is as far as IRIS."""
ROUNDING = 1e-4
"""Of the means that are kept: one as good as a goal that is a mean of such means has reached it."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "gradient codebook": dict(codebook="gradient"),
    "no dead-code reset": dict(dead_code_threshold=0),
    "tokenizer never settles": dict(
        slow_autoencoder_after=None, stop_autoencoder_after=None, settled_autoencoder_updates=0
    ),
    "tokenizer freezes": dict(settled_autoencoder_updates=0),
    "no burn-in": dict(burn_in=0),
    "context of 2": dict(transformer_timesteps=2),
    "context of 10": dict(transformer_timesteps=10),
    "horizon of 5": dict(imagination_horizon=5),
    "horizon of 20": dict(imagination_horizon=20),
    "learning behind ends": dict(learn_after_end=True),
    "episodes drawn uniformly": dict(sample_uniformly="episodes"),
    "random heads": dict(zero_heads=False),
    "no feature norm": dict(feature_norm=False),
    "no novelty": dict(novelty_weight=0.0),
    "no hard examples": dict(hard_examples=0.0),
    "dreams from anywhere": dict(dreams_before_rewards=0.0),
    "no imitation": dict(imitation_share=0.0),
    "one pass": dict(actor_critic_passes=1),
    "not orthogonal": dict(orthogonal_init=False),
    "AdamW": dict(transformer_optimizer="adamw", transformer_learning_rate=1e-3),
    "first frames learned": dict(learn_first_frames=True),
    "frames not cached": dict(cache_frames=False),
}
"""By its name, what is changed in the preset."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the results in one folder have in common, so that they can be compared."""

    steps: int = 10_000
    """Environment steps that an agent may take."""
    episodes: int = 100
    """Of each evaluation."""
    dream_steps: int = 100_000
    """Imagined steps of PPO in the dream."""
    preset: str = "small"
    """Of IRIS."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    folder: str
    agent: str
    environment: str
    seed: int
    sizes: Sizes
    ablation: str | None = None  # one of ABLATIONS
    longest: int | None = None  # steps at most, to go on until `goal`
    goal: float | None = None  # mean return at which the agent is as far as IRIS

    @property
    def name(self) -> str:
        return self._named(self.ablation or ("longer" if self.longest else None))

    @property
    def file(self) -> Path:
        return Path(self.folder) / f"{self.name}.json"

    @property
    def longer_file(self) -> Path:
        """That of the run that is like this one, but goes on for longer."""
        return Path(self.folder) / f"{self._named('longer')}.json"

    def _named(self, variant: str | None) -> str:
        return "__".join(
            [self.agent, *([variant.replace(" ", "-")] if variant else []), self.environment, f"{self.seed}"]
        )

    @property
    def iris(self) -> "Job":
        """The run of IRIS with the same environment and seed."""
        return Job(self.folder, "iris", self.environment, self.seed, self.sizes)

    @property
    def agent_file(self) -> Path:
        """Where a run of IRIS keeps its agent for PPO to dream in."""
        return Path(self.folder) / "agents" / f"{self.name}.zip"

    @property
    def env_id(self) -> str:
        return IDS[self.environment]

    @property
    def env_steps(self) -> int:
        return self.longest or self.sizes.steps

    def checkpoints(self) -> list[int]:
        later = range(self.sizes.steps, self.env_steps, LONGER_INTERVAL)
        return sorted({*(step for step in CHECKPOINTS if step < self.sizes.steps), *later, self.env_steps})

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        values = json.loads(text)
        return cls(**(values | {"sizes": Sizes(**values["sizes"])}))

    def result(self) -> dict[str, Any] | None:
        """What the job found; None where it was not done yet.

        Raises:
            UsageError: the file is of other sizes, or ends before the goal.
        """
        if not self.file.exists():
            return None
        result = json.loads(self.file.read_text())
        if result["sizes"] != asdict(self.sizes):
            raise UsageError(f"{self.file} is of {result['sizes']}, not {asdict(self.sizes)}; choose another --out")
        if result.get("longest") != self.longest or not self._is_long_enough(result["points"]):
            raise UsageError(f"{self.file} is of another goal or length; remove it to run it again")
        return result

    def _is_long_enough(self, points: Sequence[dict[str, Any]]) -> bool:
        """Whether a run that may have been told of another goal is at this one, or went on to its end."""
        if self.goal is None:
            return True
        return steps_until(points, self.goal) is not None or points[-1]["env_steps"] == self.env_steps


def steps_until(points: Sequence[dict[str, Any]], goal: float) -> int | None:
    """Environment steps of the first evaluation in which some way to play is as good as `goal`; None without one."""
    for point in points:
        if max(played["mean"] for played in point["evaluations"].values()) >= goal - ROUNDING:
            return point["env_steps"]
    return None


def jobs_of(
    folder: Path, sizes: Sizes, agents: Sequence[str], environments: Sequence[str], seeds: Sequence[int]
) -> list[Job]:
    return [
        Job(str(folder), agent, environment, seed, sizes)
        for environment in environments
        for agent in agents
        for seed in seeds
    ]


def ablation_jobs(
    folder: Path, sizes: Sizes, environments: Sequence[str], seeds: Sequence[int], parts: Sequence[str]
) -> list[Job]:
    """Of some of `ABLATIONS`. The preset as it is comes first, for the others are compared with it."""
    return [
        Job(str(folder), "iris", environment, seed, sizes, ablation)
        for environment in environments
        for ablation in (None, *parts)
        for seed in seeds
    ]


def dreaming_jobs(jobs: list[Job]) -> list[Job]:
    """Those of PPO in the dream that can be run: beside IRIS's result its agent is needed, which stays where it ran."""
    dreaming = [job for job in jobs if job.agent == "dream_ppo" and job.result() is None]
    for job in dreaming:
        if not job.iris.agent_file.exists():
            print(f"{job.name}: left out, for IRIS's own run left no {job.iris.agent_file}", flush=True)
    return [job for job in dreaming if job.iris.agent_file.exists()]
