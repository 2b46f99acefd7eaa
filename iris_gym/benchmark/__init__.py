"""How fast every phase of a run is on this machine, how long a whole run therefore takes, and how its cost grows."""

from iris_gym.benchmark.phases import PHASES, PhaseName
from iris_gym.benchmark.run import benchmark

__all__ = ["PHASES", "PhaseName", "benchmark"]
