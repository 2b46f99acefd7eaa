"""What a machine with a GPU has to show: the tests that need one, the speed of every phase, half an hour of training.

python examples/on_a_gpu.py --out gpu               # from a clone, about an hour; it goes on where it was interrupted
python examples/on_a_gpu.py --out gpu --minutes 600 # as long as the whole training of Atari 100k may take
"""

import signal
import subprocess
import sys
from pathlib import Path

import tyro

ROOT = Path(__file__).parents[1]


def step(done: Path, *command: str, stop_after: float | None = None) -> bool:
    """Whether a command went well, which is run unless `done` is there. One that is stopped saves what it has."""
    if done.exists():
        return True
    print("+", " ".join(command), flush=True)
    process = subprocess.Popen([sys.executable, "-m", *command])
    try:
        return process.wait(stop_after) == 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        return process.wait() == 130


def main(
    out: Path,
    env: str = "ALE/Breakout-v5",
    presets: tuple[str, ...] = ("default", "paper"),
    device: str = "cuda",
    minutes: float = 30,
    episodes: int = 100,
    repeats: int = 5,
) -> None:
    """Leaves tests.xml, two profiled bench JSONs a preset, and the run of the first one with its scores.json."""
    out.mkdir(parents=True, exist_ok=True)
    tests, not_passed = out / "tests.xml", out / "failed_tests.xml"
    pytest = "pytest", "-q", "-m", "gpu", f"--rootdir={ROOT}", str(ROOT / "tests"), f"--junitxml={not_passed}"
    went_well = [step(tests, *pytest)]
    if went_well[0] and not_passed.exists():
        not_passed.rename(tests)
    for preset in presets:
        plain, fast = out / f"bench_{preset}_plain.json", out / f"bench_{preset}.json"
        bench = "iris_gym", "bench", "--preset", preset, "--device", device
        bench += "--repeats", str(repeats), "--profile", "20"
        went_well.append(step(plain, *bench, "--no-accelerate", "--json", str(plain)))
        went_well.append(step(fast, *bench, "--compare", str(plain), "--json", str(fast)))
    run = out / "run"
    how = ["--resume"] if run.exists() else ["--env", env, "--preset", presets[0], "--seed", "0"]
    train = "iris_gym", "train", "--run-dir", str(run), "--device", device, *how
    if not (run / "final_scores.json").exists():
        (run / "scores.json").unlink(missing_ok=True)  # of the agent as it was before it went on learning
    went_well.append(step(run / "final_scores.json", *train, stop_after=60 * minutes))
    evaluate = "iris_gym", "evaluate", "--run", str(run), "--device", device, "--episodes", str(episodes)
    went_well.append(step(run / "scores.json", *evaluate))
    if not all(went_well):
        sys.exit("on_a_gpu.py: not all of it went well; see above")


if __name__ == "__main__":
    tyro.cli(main)
