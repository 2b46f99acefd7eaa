"""How `iris-gym train` ends: what was learned, as a line, a learning curve and a film of the dream."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm import tqdm

from iris_gym.agent import IRISAgent
from iris_gym.commands.common import say
from iris_gym.commands.evaluate import run_protocol
from iris_gym.envs import is_atari
from iris_gym.errors import UsageError
from iris_gym.evaluation.curves import read_progress
from iris_gym.evaluation.evaluate import evaluate
from iris_gym.evaluation.figures import check_figures, learning_figure, save_figure
from iris_gym.evaluation.players import RandomPlayer
from iris_gym.evaluation.rows import Player
from iris_gym.evaluation.scores import cut_episodes, mean_and_error, random_score, summary, write_scores
from iris_gym.evaluation.video import check_video
from iris_gym.recording import record
from iris_gym.training.collector import environment_faults

EPISODES, ATARI_EPISODES = 20, 4
"""How many are played where nobody says; a game of Pong takes a laptop up to ten seconds."""

MOST_EPISODES = 100_000

MAX_STEPS = 2_000
"""Steps after which an episode is cut. A game of Pong that is lost has about 800."""

FILM_STEPS = 200
"""Of one episode of the film at most; several follow one another until there are half as many."""


def finale(agent: IRISAgent, episodes: int | None, console: Console) -> None:
    """Play `episodes` (None: `EPISODES`, or `ATARI_EPISODES`) as the agent and at random, and show what came of it.

    Leaves `final_scores.json` in the run folder, and in `media/` a learning curve and a film, where their extras are
    installed. It may be interrupted anywhere: each file is written whole or not at all.
    """
    assert agent.run is not None and agent.env_id is not None
    if episodes is None:
        episodes = ATARI_EPISODES if is_atari(agent.env_id) else EPISODES
    with environment_faults("in the final evaluation"):
        scores = _final_scores(agent, episodes)
    write_scores(agent.run.final_scores_file, scores)
    say(console, _outcome(scores))
    for name, make in (("learning curve", _curve), ("dream film", _film)):
        try:
            say(console, f"{name:<14}  {make(agent, scores)}")
        except UsageError as error:  # the extra is missing
            say(console, f"no {name}: {error}")
    agent.run.write_settings(ended_after=agent.trainer.steps_trained)


def has_ended(agent: IRISAgent) -> bool:
    """Whether `finale` was gone through to its end for the agent as it is now."""
    assert agent.run is not None
    ended = agent.run.settings().get("ended_after") == agent.trainer.steps_trained
    return ended and agent.run.final_scores_file.exists()


def _final_scores(agent: IRISAgent, episodes: int) -> dict[str, Any]:
    """The `summary` of the agent's episodes, and under "random" what a random policy comes to.

    Of an Atari game that is the published score, which is one of whole games; where one of the agent's was cut, and in
    other environments, a random policy plays the same episodes.
    """
    assert agent.env_id is not None
    player, open_env = agent.evaluation_player(), agent.evaluation_games()
    protocol = run_protocol(agent, player.temperature, max_steps=min(MAX_STEPS, agent.config.max_eval_steps))
    with tqdm(total=2 * episodes, unit="game", file=sys.stderr, disable=None) as bar:

        def play(player: Player) -> dict[str, Any]:
            scores = evaluate(
                player,
                open_env,
                episodes=episodes,
                seed=0,
                max_steps=protocol["max_steps"],
                on_episode=lambda _: bar.update(),
            )
            return summary(str(agent.env_id), scores, protocol)

        found = play(player)
        published = random_score(agent.env_id) if agent.config.atari_100k and not cut_episodes(found) else None
        if published is not None:
            return found | {"random": {"source": "published", "mean": published, "standard_error": None}}
        at_random = play(RandomPlayer())
    kept = {name: at_random[name] for name in ("mean", "standard_error", "episodes")}
    return found | {"random": {"source": "played"} | kept}


def _outcome(scores: dict[str, Any]) -> str:
    """One line: from random to the agent, over how many episodes, and how many of them were cut."""
    random, count = scores["random"], len(scores["episodes"])
    published = random["source"] == "published"
    line = (
        f"{scores['env']}: return {mean_and_error(random)} (random{', published' if published else ''}) -> "
        f"{mean_and_error(scores)} (agent), {count} episode{'s' if count > 1 else ''}{'' if published else ' each'}"
    )
    cuts = {"the agent's": cut_episodes(scores), "the random ones": 0 if published else cut_episodes(scores | random)}
    if not any(cuts.values()):
        return line
    said = " and ".join(f"{cut} of {whose}" for whose, cut in cuts.items() if cut)
    return f"{line}; cut at {scores['protocol']['max_steps']:,} steps: {said}"


def _curve(agent: IRISAgent, scores: dict[str, Any]) -> Path:
    assert agent.run is not None
    check_figures("it needs")
    path = agent.run.media / "learning_curve.png"
    save_figure(path, learning_figure(read_progress(agent.run.path), scores))
    return path


def _film(agent: IRISAgent, _scores: dict[str, Any]) -> Path:
    check_video()
    [path] = record(agent, min_steps=FILM_STEPS // 2, max_steps=FILM_STEPS)
    return path
