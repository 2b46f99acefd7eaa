from dataclasses import replace

import numpy as np
import pytest
import torch

from iris_gym import IRISConfig, build_models
from iris_gym.assembly import Models, build_learners
from iris_gym.data.replay import Replay
from iris_gym.errors import UsageError
from iris_gym.functional import unit_frames
from iris_gym.models.actor_critic import ActorCritic
from iris_gym.training.frame_cache import FrameCache
from iris_gym.training.imitation import Imitation, with_imitation
from iris_gym.training.randomness import RandomStreams
from iris_gym.types import Trajectory

CONFIG = IRISConfig.tiny(actor_critic_batch_size=8, burn_in=2, imagination_horizon=4)


def add_episode(replay: Replay, rewards: list[float], *, terminated: bool = True) -> None:
    for step, reward in enumerate(rewards):
        frame = np.random.default_rng(len(replay)).integers(0, 256, (3, 64, 64), np.uint8)
        last = step == len(rewards) - 1
        replay.append(frame, len(replay) % 3, reward, last and terminated, last and not terminated)


@pytest.fixture
def replay():
    """Two random steps; then rows 2 to 5, which brought nothing, and 6 to 10, the best by far."""
    with Replay(None, chunk_rows=64) as replay:
        add_episode(replay, [50.0, 50.0])
        add_episode(replay, [0.0] * 4)
        add_episode(replay, [0.5, 0.0, -3.0, 0.0, 20.0])
        yield replay


@pytest.fixture
def models() -> Models:
    torch.manual_seed(0)
    return build_models(CONFIG, 3, "cpu")


def imitation(models: Models, replay: Replay, **changes) -> Imitation:
    given = Imitation(
        FrameCache(models.tokenizer),
        replay,
        models.actor_critic,
        rows=50,
        best=0.5,
        random_rows=lambda: 2,
        burn_in=2,
        horizon=4,
        generator=np.random.default_rng(0),
    )
    return replace(given, **changes)


def test_what_is_lived_is_told_as_a_dream_of_the_best_episode(models, replay, monkeypatch):
    """Pictures are the frames as they are: an untrained tokenizer's look all alike."""
    monkeypatch.setattr(FrameCache, "reconstructions", lambda _, segment: unit_frames(segment.frames))
    trajectory, state = imitation(models, replay).stretches()
    pictures = unit_frames(replay.single_steps(np.arange(6, 11)).frames[:, 0])
    begun = set()
    for row in range(50):
        equal = (trajectory.frames[row, 0] == pictures).flatten(1).all(1)
        first = int(equal.nonzero()[0])
        begun.add(first)
        left = 5 - first
        assert trajectory.actions[row, :left].tolist() == [(6 + step) % 3 for step in range(first, 5)][:4]
        assert trajectory.rewards[row].tolist() == ([1.0, 0.0, -1.0, 0.0, 1.0][first:] + [0.0] * 4)[:4]
        assert trajectory.ends[row].tolist() == [step == left - 1 for step in range(4)]
        seen = pictures[None, max(first - 2, 0) : first]
        alone = models.actor_critic.burn_in(seen, torch.ones(seen.shape[:2], dtype=torch.bool))
        torch.testing.assert_close(tuple(part[row : row + 1] for part in state), alone)
    assert begun == set(range(5))
    assert trajectory.real.all() and trajectory.bonus is None
    log_policy = models.actor_critic(trajectory.frames, state)[0].log_softmax(-1)
    expected = log_policy.gather(-1, trajectory.actions[..., None]).squeeze(-1)
    torch.testing.assert_close(trajectory.log_probabilities, expected)
    assert not trajectory.log_probabilities.requires_grad


def test_nothing_is_expected_behind_a_time_limit(models, replay):
    add_episode(replay, [99.0, 99.0], terminated=False)
    trajectory, _ = imitation(models, replay, best=0.1).stretches()
    assert {tuple(row) for row in trajectory.ends.tolist()} == {
        (False, True, False, False),
        (True, False, False, False),
    }


def test_who_was_cut_among_losses_is_not_the_best():
    """It may have fewer of them for the cut alone, and its last steps would look as if they ended them."""
    with Replay(None, chunk_rows=64) as losses:
        add_episode(losses, [-1.0] * 3, terminated=False)
        add_episode(losses, [0.0] * 5, terminated=False)
        add_episode(losses, [-1.0] * 9)
        add_episode(losses, [-1.0] * 7)
        for since, share, rows in ((0, 1.0, range(3, 24)), (0, 0.1, range(3, 8)), (8, 0.1, range(17, 24))):
            drawn = losses.sample_best(200, 0, 1, share=share, since=since, generator=np.random.default_rng(0))
            assert set(drawn.rows.flatten().tolist()) == set(rows)


@pytest.mark.parametrize("parts", [2, 3, 99])
def test_stretches_in_parts_are_the_same_and_are_looked_at_in_parts(models, replay, parts, monkeypatch):
    whole, (hidden, cell) = imitation(models, replay, rows=7).stretches()
    looked_at = []
    forward = ActorCritic.forward
    monkeypatch.setattr(
        ActorCritic,
        "forward",
        lambda self, frames, state: looked_at.append(len(frames)) or forward(self, frames, state),
    )
    divided, state = imitation(models, replay, rows=7, parts=parts).stretches()
    assert len(looked_at) == min(parts, 7) and sum(looked_at) == 7
    for name in ("frames", "actions", "rewards", "ends", "real"):
        assert torch.equal(getattr(whole, name), getattr(divided, name))
    within = ~torch.tensor(behind_ends(whole))
    assert torch.equal(whole.tokens[within], divided.tokens[within])
    torch.testing.assert_close((divided.log_probabilities, *state), (whole.log_probabilities, hidden, cell))


@pytest.mark.parametrize("learn_after_end", [False, True])
def test_nothing_is_learned_behind_the_last_step_nor_shown_there(models, replay, learn_after_end):
    """A stretch is the same whatever is in the cache, which a resumed run begins without."""
    results = []
    for warm in (None, 0, 6):
        source = imitation(models, replay)
        if warm is not None:
            source.cache.reconstructions(replay.single_steps(np.array([warm])))
        trajectory, state = source.stretches()
        loss, metrics = models.actor_critic.loss(
            trajectory, state, discount=0.9, lambda_=0.9, entropy_weight=0.01, learn_after_end=learn_after_end
        )
        results.append({"loss": loss.detach(), **metrics})
    assert results[0] == results[1] == results[2]
    assert not trajectory.frames[trajectory.tokens.new_tensor(behind_ends(trajectory)).bool()].any()


def behind_ends(trajectory: Trajectory) -> list[list[bool]]:
    return [[any(row[:step]) for step in range(len(row))] for row in trajectory.ends.tolist()]


@pytest.mark.parametrize("learn_after_end", [False, True])
def test_actions_behind_the_last_step_do_not_count(models, replay, learn_after_end):
    trajectory, state = imitation(models, replay).stretches()
    behind = torch.tensor(behind_ends(trajectory))
    other = replace(trajectory, actions=torch.where(behind, 2, trajectory.actions))
    losses = [
        models.actor_critic.loss(
            told, state, discount=0.9, lambda_=0.9, entropy_weight=0.01, learn_after_end=learn_after_end
        )[0].item()
        for told in (trajectory, other)
    ]
    assert behind.any() and losses[0] == losses[1]


def dreamt(rows: int) -> tuple[Trajectory, tuple[torch.Tensor, torch.Tensor]]:
    """Dreams whose rewards number them."""
    numbers = torch.arange(float(rows))[:, None]
    rewards, state = numbers.expand(rows, 4), torch.zeros(rows, CONFIG.lstm_dim)
    frames, tokens = torch.zeros(rows, 4, 3, 64, 64), torch.zeros(rows, 4, CONFIG.tokens_per_frame).long()
    bonus = torch.ones(rows, 4)
    return Trajectory(frames, tokens[..., 0], rewards, rewards < 0, tokens, rewards, bonus), (state, state)


@pytest.mark.parametrize(("share", "lived"), [(0.25, 2), (0.1, 1), (0.4, 3), (0.9, 7)])
def test_a_share_of_the_batch_is_lived(models, replay, share, lived):
    assert CONFIG.replace(imitation_share=share).lived_rows == lived
    asked = []
    dream = with_imitation(
        lambda segment: asked.append(segment) or dreamt(len(segment.mask)), imitation(models, replay, rows=lived)
    )
    segment = replay.single_steps(np.arange(8))
    trajectory, (hidden, cell) = dream(segment)
    assert torch.equal(asked[0].actions, segment.actions[: 8 - lived])
    assert trajectory.rewards[: 8 - lived, 0].tolist() == list(range(8 - lived))
    assert len(trajectory.actions) == len(hidden) == len(cell) == 8
    assert trajectory.real.tolist() == [False] * (8 - lived) + [True] * lived
    assert trajectory.bonus[:, 0].tolist() == [1] * (8 - lived) + [0] * lived


def test_where_nothing_is_better_all_is_dreamt(models, replay):
    trajectory, _ = with_imitation(
        lambda segment: dreamt(len(segment.mask)), imitation(models, replay, random_rows=lambda: 3)
    )(replay.single_steps(np.arange(8)))
    assert trajectory.real is None and len(trajectory.actions) == 8


def updated(models: Models, replay: Replay, random_rows: int = 0, **changes) -> torch.Tensor:
    """The policy's weights after one update."""
    config = CONFIG.replace(**changes)
    models.actor_critic.load_state_dict(build_seeded(config).actor_critic.state_dict())
    streams = RandomStreams(0, torch.device("cpu"))
    learner = build_learners(config, models, streams, replay, random_rows=lambda: random_rows)[-1]
    learner.optimizer = torch.optim.SGD(models.actor_critic.parameters())
    learner.learning_rates = [0.1]
    metrics = learner.update(learner.plan.draw(replay, np.random.default_rng(0), epoch=1), epoch=1)
    assert metrics["skipped_updates"] == 0
    return models.actor_critic.actor.weight.detach().clone()


def build_seeded(config: IRISConfig) -> Models:
    torch.manual_seed(5)
    return build_models(config, 3, "cpu")


def test_the_actor_critic_learns_from_what_is_lived_whole_or_in_parts(models, replay):
    imitating = dict(imitation_share=0.5, actor_critic_passes=2, random_rows=2)
    plain, lived = updated(models, replay, actor_critic_passes=2), updated(models, replay, **imitating)
    assert not torch.equal(plain, lived)
    parts = updated(models, replay, **imitating, accumulate_gradients=3)
    torch.testing.assert_close(parts, lived, rtol=1e-4, atol=1e-6)
    assert torch.equal(updated(models, replay, **imitating), lived)
    assert not torch.equal(updated(models, replay, **imitating | dict(random_rows=0)), lived), "the best is another"


def test_without_a_replay_there_is_nothing_to_imitate_and_no_learner(models):
    with pytest.raises(AssertionError, match="imitated lies in a replay"):
        build_learners(CONFIG.replace(imitation_share=0.5), models, RandomStreams(0, torch.device("cpu")))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("imitation_share", 1.5, r"lie in \[0, 1\]"),
        ("imitation_share", 0.05, "actor_critic_batch_size=8 to dreams"),
        ("imitation_share", 1.0, "actor_critic_batch_size=8 to dreams"),
        ("imitated_episodes", 0.0, "greater than 0"),
    ],
)
def test_shares_are_checked(field, value, words):
    with pytest.raises(UsageError, match=f"{field}={value} must.*{words}"):
        CONFIG.replace(**{field: value}).validate()
