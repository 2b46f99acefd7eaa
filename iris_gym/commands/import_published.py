"""`iris-gym import`."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from iris_gym.agent import IRISAgent
from iris_gym.commands.common import say


@dataclass
class Import:
    """Make a run folder of a checkpoint that the published implementation wrote."""

    published: str
    """A file such as last.pt, or hf://owner/repository/path on the Hugging Face hub."""
    env: str
    """The environment that it was trained in, such as ALE/Pong-v5."""
    out: Path
    """A new folder for the run."""
    transformer_heads: int = 4
    """Attention heads of its world model, which no tensor tells."""
    perceptual_weight: float = 1.0
    """Of LPIPS in further learning; 0 learns without the extra iris-gym[lpips]."""

    def run(self, console: Console) -> int:
        agent = IRISAgent.from_published(
            self.published,
            self.env,
            self.transformer_heads,
            "cpu",
            run_dir=self.out,
            perceptual_weight=self.perceptual_weight,
        )
        parameters = sum(parameter.numel() for parameter in agent.policy.parameters())
        say(console, f"imported {parameters:,} parameters; run folder {self.out}")
        say(console, f"play with it: iris-gym evaluate --run {self.out}")
        return 0
