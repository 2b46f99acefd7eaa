"""`iris-gym evaluate`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from tqdm import tqdm

from iris_gym.agent import IRISAgent
from iris_gym.commands.common import say, set_threads
from iris_gym.evaluation.scores import summary, write_scores
from iris_gym.training.run_folder import RunFolder, check_writable


@dataclass
class Evaluate:
    """Play whole games under the evaluation protocol and write scores.json beside the agent."""

    run_: Annotated[Path, tyro.conf.arg(name="run")]
    """A run folder or a saved zip."""
    episodes: int = 100
    """Whole games to play."""
    temperature: float | None = None
    """Divides the policy's logits; 0 is greedy. None: the agent's eval_temperature."""
    seed: int = 0
    """Of the first game; game i has seed + i."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def run(self, console: Console) -> int:
        agent = IRISAgent.load(self.run_, device=self.device)
        path = RunFolder(self.run_).scores_file if self.run_.is_dir() else self.run_.with_suffix(".scores.json")
        check_writable("run", path.parent)
        config = agent.config
        set_threads(None, config)
        temperature = config.eval_temperature if self.temperature is None else self.temperature
        with tqdm(total=self.episodes, unit="game", file=sys.stderr, disable=None) as bar:
            scores = agent.evaluate(
                self.episodes, temperature=temperature, seed=self.seed, on_episode=lambda _: bar.update()
            )
        protocol = {
            "temperature": temperature,
            "epsilon": 0.0,
            "preprocessing": config.preprocessing,
            "atari_100k": config.atari_100k,
            "env_steps_trained": agent.trainer.env_steps,
        }
        result = summary(config.env, scores, protocol)
        write_scores(path, result)
        say(console, _score_line(result) + f"; written to {path}")
        return 0


def _score_line(result: dict[str, Any]) -> str:
    error = result["standard_error"]
    spread = f" ± {error:.2f}" if error is not None else ""
    human = result["human_normalized"]
    normalized = f", human-normalised {human:.3f}" if human is not None else ""
    lengths = np.mean([episode["length"] for episode in result["episodes"]])
    count = len(result["episodes"])
    return f"{result['env']}: return {result['mean']:.2f}{spread} over {count} games of {lengths:.0f} steps{normalized}"
