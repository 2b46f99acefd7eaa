"""The command line: `iris-gym train`, `evaluate`, `record`, `bench` and `import`."""

import argparse
import contextlib
import io
import itertools
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import ale_py
import numpy as np
import torch
import tyro
from rich.console import Console
from tqdm import tqdm

from iris_gym.agent import IRISAgent
from iris_gym.assembly import choose_device
from iris_gym.benchmark import PHASES, PhaseName, benchmark
from iris_gym.benchmark_table import read_result, remarks, table, write_result
from iris_gym.config import IRISConfig, preset, preset_name, read_mapping
from iris_gym.errors import UsageError
from iris_gym.evaluation.scores import summary, write_scores
from iris_gym.progress import TrainingDisplay
from iris_gym.recording import Source, record
from iris_gym.training.checkpoint import complete_checkpoints
from iris_gym.training.run_folder import RunFolder, check_writable
from iris_gym.training.trainer import check_total_timesteps

Preset = Literal["auto", "default", "paper", "small", "tiny"]


@dataclass
class Train:
    """Train an agent, and leave a run folder with checkpoints, replay, logs and pictures.

    A flag beats --config, which beats --preset. Every hyperparameter is a flag.
    """

    hyperparameters: Annotated[IRISConfig, tyro.conf.arg(name="")]
    preset: Preset = "auto"
    """Where the hyperparameters start from; auto is default on a GPU and small elsewhere."""
    config: Path | None = None
    """A JSON or YAML file with any of the hyperparameters."""
    total_timesteps: int | None = None
    """Environment steps to collect in all; None: --max-env-steps."""
    run_dir: Path | None = None
    """A new folder for the run; None: runs/<env>/<date-time>."""
    seed: int | None = None
    """Of every random stream; None: from entropy."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: one for small networks, torch's own choice for larger ones."""
    resume: bool = False
    """Go on with the run in --run-dir from its newest checkpoint; where there is none yet, begin it."""

    def run(self, console: Console) -> int:
        config = self.hyperparameters
        config.validate()
        total = config.max_env_steps if self.total_timesteps is None else self.total_timesteps
        check_total_timesteps(total)
        set_threads(self.threads, config)
        agent = self._agent(config)
        assert agent.run is not None
        left = total - agent.num_timesteps
        if left <= 0 and not agent.trainer.epochs_left(agent.trainer.env_steps + left):
            _say(console, f"{agent.run.path} has collected {agent.num_timesteps:,} steps already: nothing left to do")
            return 0
        _say(console, f"training on {agent.config.env} ({agent.device}); run folder {agent.run.path}")
        begun = time.monotonic()
        with StopSignals() as stop, TrainingDisplay(agent, console) as display:
            for event in agent.learn_events(max(left, 0), reset_num_timesteps=agent.num_timesteps == 0):
                display.show(event)
                if stop.received:
                    break
        if stop.received:
            agent.save_checkpoint()
            goal = "" if self.total_timesteps is None else f" --total-timesteps {total}"
            _say(console, f"stopped and saved; go on with: iris-gym train --run-dir {agent.run.path} --resume{goal}")
            return 128 + stop.received
        _say(console, f"done in {(time.monotonic() - begun) / 60:.1f} minutes; pictures in {agent.run.media}")
        _say(console, f"play with it: iris-gym evaluate --run {agent.run.path}")
        return 0

    def _agent(self, config: IRISConfig) -> IRISAgent:
        if self.resume:
            run = RunFolder(_required_run_dir(self.run_dir))
            if complete_checkpoints(run.checkpoints):
                return self._resumed(run, config)
            if run.exists:
                run.clear()
        run_dir = self.run_dir or default_run_dir(config.env)
        return IRISAgent(config.env, config, seed=self.seed, device=self.device, run_dir=run_dir)

    def _resumed(self, run: RunFolder, config: IRISConfig) -> IRISAgent:
        before = IRISConfig.load(run.config_file).to_dict()
        changed = [name for name, value in config.to_dict().items() if before[name] != value]
        if changed:
            words = ", ".join(f"{name}={getattr(config, name)!r} (was {before[name]!r})" for name in changed)
            raise UsageError(f"a resumed run keeps its hyperparameters; these differ: {words}")
        agent = IRISAgent.resume(run.path, device=self.device)
        if self.seed not in (None, agent.seed):
            raise UsageError(f"a resumed run keeps its seed={agent.seed}; seed={self.seed} is another")
        return agent


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
        _say(console, _score_line(result) + f"; written to {path}")
        return 0


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
        _say(console, f"imported {parameters:,} parameters; run folder {self.out}")
        _say(console, f"play with it: iris-gym evaluate --run {self.out}")
        return 0


@dataclass
class Record:
    """Write videos of the agent in its dream, in the game, or of both side by side, each with a picture strip."""

    run_: Annotated[Path, tyro.conf.arg(name="run")]
    """A run folder or a saved zip."""
    source: Source = "side-by-side"
    """dream, real, or side-by-side: real frames, their reconstructions, and the dream that takes the same actions."""
    episodes: int = 1
    """Videos to write."""
    out: Path | None = None
    """The folder to write to; None: media/ of the run, or beside the zip."""
    max_steps: int = 1000
    """Steps after which an episode is cut."""
    temperature: float | None = None
    """Divides the policy's logits; 0 is greedy. None: the agent's eval_temperature."""
    seed: int = 0
    """Of the first episode; episode i has seed + i."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    def run(self, console: Console) -> int:
        options = {name: value for name, value in vars(self).items() if name != "run_"}
        with tqdm(total=self.episodes, unit="video", file=sys.stderr, disable=None) as bar:
            paths = record(self.run_, **options, on_episode=lambda _: bar.update())
        _say(console, "written: " + ", ".join(map(str, paths)))
        return 0


@dataclass
class Bench:
    """Measure how fast every phase of a run is on this machine, and project how long a full run takes.

    Networks have learned nothing. Every hyperparameter is a flag, as of train.
    """

    hyperparameters: Annotated[IRISConfig, tyro.conf.arg(name="")]
    preset: Preset = "auto"
    """Where the hyperparameters start from; auto is default on a GPU and small elsewhere."""
    config: Path | None = None
    """A JSON or YAML file with any of the hyperparameters."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: Path | None = None
    """A file to write all figures to."""
    batch: int | None = None
    """Rows of every phase but collect, instead of the preset's; no full run is projected then."""
    only: tuple[PhaseName, ...] = ()
    """Phases to measure; without it all."""
    compare: Path | None = None
    """A file that --json wrote; shows how many times as fast this is."""
    repeats: int = 5
    """Timings of each phase, after one to warm up."""
    threads: int | None = None
    """CPU threads; None: as of train."""

    def run(self, console: Console) -> int:
        other = read_result(self.compare) if self.compare else None
        set_threads(self.threads, self.hyperparameters)
        with tqdm(total=len(self.only or PHASES), unit="phase", file=sys.stderr, disable=None) as bar:
            result = benchmark(
                self.hyperparameters,
                preset=preset_name(self.preset, choose_device(self.device).type),
                device=self.device,
                only=self.only,
                batch=self.batch,
                repeats=self.repeats,
                on_phase=lambda _: bar.update(),
            )
        console.print(table(result, other))
        for remark in remarks(result, other):
            _say(console, remark)
        if self.json:
            write_result(self.json, result)
            _say(console, f"written to {self.json}")
        return 0


class StopSignals:
    """Notes SIGINT and SIGTERM, so that a run can stop between two updates; the second one acts at once."""

    def __init__(self) -> None:
        self.received = 0
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._earlier[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.SIG_DFL)


SMALL_WIDTH = 128
"""Of a transformer whose operations are too short to be shared among threads."""


def set_threads(threads: int | None, config: IRISConfig) -> None:
    """Have torch use so many CPU threads. None: one where the networks are small, torch's own choice otherwise.

    On an idle machine of two cores a second thread gains a small network a third at the most. Where another program
    runs beside, it costs a multiple; two runs of one thread each are faster than one run of two.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads} must be greater than 0, or left out")
    if threads is None and config.transformer_embed_dim <= SMALL_WIDTH:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)


def default_run_dir(env_id: str) -> Path:
    """runs/<env>/<date-time>, the slashes of the id made dashes."""
    return Path("runs") / env_id.replace("/", "-").replace(":", "-") / time.strftime("%Y-%m-%d_%H-%M-%S")


def parse(arguments: Sequence[str]) -> Train | Evaluate | Record | Bench | Import:
    """Read the command line. Flags of hyperparameters default to the preset's, the file's or the resumed run's."""
    base = _base_config(arguments)
    commands = Annotated[
        Annotated[Train, tyro.conf.subcommand("train", default=Train(base))]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Record, tyro.conf.subcommand("record")]
        | Annotated[Bench, tyro.conf.subcommand("bench", default=Bench(base))]
        | Annotated[Import, tyro.conf.subcommand("import")],
        None,
    ]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(commands, args=list(arguments), prog="iris-gym", description=__doc__)  # type: ignore[arg-type]
    except SystemExit as error:
        if not error.code:  # --help
            raise
        raise UsageError(_one_line(complaint.getvalue())) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit with 0, with 2 after a line about bad input, or with 128 + the signal that stopped a run."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    warnings.showwarning = lambda message, *_, **__: print(f"iris-gym: warning: {message}", file=sys.stderr)
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
        status = command.run(Console())
    except UsageError as error:
        print(f"iris-gym: error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    sys.exit(status)


def _base_config(arguments: Sequence[str]) -> IRISConfig:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--run-dir", "--run_dir", type=Path)
    parser.add_argument("--resume", action="store_true")
    try:
        known = parser.parse_known_args([argument for argument in arguments if argument not in ("-h", "--help")])[0]
    except argparse.ArgumentError:  # a value is missing, and tyro will say so
        return IRISConfig()
    if known.resume and RunFolder(_required_run_dir(known.run_dir)).exists:
        base = IRISConfig.load(RunFolder(known.run_dir).config_file)
    else:
        base = preset(known.preset, choose_device(known.device).type)
    return base if known.config is None else base.replace(**read_mapping(known.config))


def _one_line(box: str) -> str:
    """What tyro says in a box of several lines, up to the rule that parts it from the hints below."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    said = itertools.takewhile(lambda line: not line.startswith("───"), lines[1:])
    return " ".join(line for line in said if line) + "; see iris-gym --help"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _required_run_dir(run_dir: Path | None) -> Path:
    if run_dir is None:
        raise UsageError("run_dir=None cannot be resumed; give the run's folder with --run-dir")
    return run_dir


def _score_line(result: dict[str, Any]) -> str:
    error = result["standard_error"]
    spread = f" ± {error:.2f}" if error is not None else ""
    human = result["human_normalized"]
    normalized = f", human-normalised {human:.3f}" if human is not None else ""
    lengths = np.mean([episode["length"] for episode in result["episodes"]])
    count = len(result["episodes"])
    return f"{result['env']}: return {result['mean']:.2f}{spread} over {count} games of {lengths:.0f} steps{normalized}"
