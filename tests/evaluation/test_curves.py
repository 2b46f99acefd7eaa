"""Learning curves from what real runs logged."""

import json
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.callbacks import EvalCallback

from iris_gym import IRISAgent, IRISConfig, make_env
from iris_gym.errors import UsageError
from iris_gym.evaluation.curves import (
    EPOCH,
    STEPS,
    Progress,
    by_setting,
    choose_metrics,
    common_clock,
    mean_curve,
    read_progress,
)


def logged(folder: Path, text: str, env: str = "ALE/Pong-v5", **config) -> Path:
    (folder / "logs").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"env": env, **config}))
    (folder / "logs" / "progress.csv").write_text(text)
    return folder


def progress(**columns) -> Progress:
    named = {name.replace("_slash_", "/"): np.array(values, float) for name, values in columns.items()}
    return Progress(Path("run"), {"env": "Pong"}, named)


def test_a_real_run_has_its_curves(tmp_path):
    config = IRISConfig.tiny(atari_100k=False, max_env_steps=1000)
    IRISAgent("MiniGrid-Empty-5x5-v0", config, seed=0, device="cpu", run_dir=tmp_path / "run").learn(80)
    run = read_progress(tmp_path / "run")
    assert run.env == "MiniGrid-Empty-5x5-v0"
    assert run.columns[STEPS].tolist() == [20, 40, 60, 80] and run.columns[EPOCH].tolist() == [1, 2, 3, 4]
    times, values = run.curve("world_model/loss", STEPS)
    assert times.tolist() == [40, 60, 80] and np.isfinite(values).all()
    chosen = choose_metrics([run])
    assert {"autoencoder/loss", "world_model/loss", "actor_critic/loss", "world_model/token_accuracy"} <= set(chosen)


def test_cells_that_are_empty_or_no_number_were_not_recorded(tmp_path):
    text = f"{STEPS},{EPOCH},a/loss,note\n20,1,,x\n40,2,1.5,y\n60,3,inf,z\n80,4\n"
    run = read_progress(logged(tmp_path, text))
    assert [part.tolist() for part in run.curve("a/loss", STEPS)] == [[40], [1.5]]
    assert [len(part) for part in run.curve("absent", STEPS)] == [0, 0]
    assert choose_metrics([run], ["a/*"]) == ["a/loss"]


def test_patterns_choose_what_was_recorded():
    run = progress(a_slash_loss=[1.0], b_slash_loss=[2.0], b_slash_value=[np.nan])
    assert choose_metrics([run], ["*/loss"]) == ["a/loss", "b/loss"]
    assert choose_metrics([run], ["b/loss", "*"]) == ["b/loss", "a/loss"]
    with pytest.raises(UsageError, match=r"'c/\*' fits none of those that were recorded: a/loss, b/loss"):
        choose_metrics([run], ["c/*"])
    with pytest.raises(UsageError, match="none of the usual ones was recorded, but these were: a/loss, b/loss"):
        choose_metrics([run])


def test_where_steps_stand_still_epochs_are_the_clock():
    collecting = Progress(Path("a"), {"env": "Pong"}, {STEPS: np.array([20.0, 40]), EPOCH: np.array([1.0, 2])})
    training_on = Progress(Path("b"), {"env": "Pong"}, {STEPS: np.array([20.0, 20]), EPOCH: np.array([1.0, 2])})
    assert common_clock([collecting]) == STEPS
    assert common_clock([collecting, training_on]) == EPOCH


def test_rows_of_callbacks_are_no_standing_still(tmp_path):
    """`EvalCallback` dumps the log at the steps at which it evaluates, an epoch's last ones too."""
    config = IRISConfig.tiny(atari_100k=False, max_env_steps=1000)
    agent = IRISAgent("MiniGrid-Empty-5x5-v0", config, seed=0, device="cpu", run_dir=tmp_path / "run")
    agent.learn(60, EvalCallback(make_env("MiniGrid-Empty-5x5-v0"), n_eval_episodes=1, eval_freq=20, verbose=0))
    run = read_progress(tmp_path / "run")
    assert run.columns[STEPS].tolist() == [20, 20, 40, 40, 60, 60]
    assert common_clock([run]) == STEPS
    assert run.curve("eval/mean_reward", STEPS)[0].tolist() == [20, 40, 60]


def test_the_mean_is_over_the_part_that_all_runs_have():
    one = np.array([0.0, 10, 20]), np.array([0.0, 10, 20])
    other = np.array([10.0, 30]), np.array([20.0, 40])
    mean = mean_curve([one, other, (np.empty(0), np.empty(0))])
    assert mean is not None
    assert mean.times.tolist() == [10, 20]
    assert mean.mean.tolist() == [15, 25] and mean.spread == pytest.approx(np.sqrt([50, 50]))
    alone = mean_curve([one])
    assert alone is not None and alone.spread.tolist() == [0, 0, 0]
    assert mean_curve([]) is None


def names_by_setting(runs: list[Progress]) -> dict[str, list[str]]:
    return {setting: [run.source.name for run in members] for setting, members in by_setting(runs).items()}


def test_runs_of_one_environment_and_config_belong_together(tmp_path):
    text = f"{STEPS},{EPOCH}\n20,1\n"
    settings = {"a": ("Pong", 1), "b": ("Boxing", 1), "c": ("Pong", 1), "d": ("Pong", 2)}
    a, b, c, d = (
        read_progress(logged(tmp_path / name, text, env, layers=layers, heads=4))
        for name, (env, layers) in settings.items()
    )
    assert names_by_setting([a, b, c]) == {"Pong": ["a", "c"], "Boxing": ["b"]}
    assert names_by_setting([a, c, d]) == {"Pong, layers=1": ["a", "c"], "Pong, layers=2": ["d"]}


def test_runs_that_differ_in_much_are_told_apart_by_a_short_name():
    a, b, c = (
        Progress(Path(name), {"env": "Pong", **dict.fromkeys("uvw", width), **dict.fromkeys("xy", name)}, {})
        for name, width in (("a", 1), ("b", 1), ("c", 2))
    )
    assert names_by_setting([a, b, c]) == {
        "Pong, u=1, v=1, w=1, and 2 more": ["a"],
        "Pong, u=1, v=1, w=1, and 2 more (2)": ["b"],
        "Pong, u=2, v=2, w=2, and 2 more": ["c"],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no row with time/total_timesteps and time/epoch"),
        (f"{STEPS},{EPOCH}\n", "has no row with"),
        ("a,b\n1,2\n", "has no row with"),
        ("\0", "no learning curve|damaged"),
    ],
)
def test_what_has_no_curve(text: str, message: str, tmp_path):
    with pytest.raises(UsageError, match=message):
        read_progress(logged(tmp_path, text))


def test_what_is_no_run(tmp_path):
    with pytest.raises(UsageError, match="is no run folder"):
        read_progress(tmp_path / "absent")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"has no learning curve yet: progress.csv cannot be read"):
        read_progress(tmp_path)
    (logged(tmp_path / "other", f"{STEPS},{EPOCH}\n1,1\n") / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"has a damaged config.json or progress.csv"):
        read_progress(tmp_path / "other")
