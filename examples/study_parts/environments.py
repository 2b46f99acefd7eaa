"""The study's environments by their names in it. All are seen as `iris_gym.make_env` shows them, 64×64 RGB."""

import gymnasium as gym

IDS = {
    "MiniGrid-Empty-5x5": "MiniGrid-Empty-5x5-v0",
    "MiniGrid-Empty-Random-6x6": "MiniGrid-Empty-Random-6x6-v0",
    "MiniGrid-LavaGapS5": "MiniGrid-LavaGapS5-v0",
    "MinAtar-Breakout": "study_parts.environments:MinAtar/BreakoutWithoutStickyActions-v1",
}

# MinAtar repeats an action with probability 0.1 whatever the agent does; its own ids have no switch for that.
gym.register(
    "MinAtar/BreakoutWithoutStickyActions-v1",
    entry_point="minatar.gym:BaseEnv",
    kwargs={"game": "breakout", "use_minimal_action_set": True, "sticky_action_prob": 0.0},
)
