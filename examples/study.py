"""Does it learn, and how does it compare? IRIS against model-free agents on the same frames, over several seeds.

python examples/study.py --out results                  # all of it; an interrupted study goes on
python examples/study.py --out results --longer 100000  # and how long the others take to get as far
python examples/study.py --out results --figures        # the table and figures of what there is
python examples/study.py --out ablations --ablations --steps 3000 --environments MinAtar-Breakout  # what carries IRIS

With `--ablations`, `--parts "no burn-in" "horizon of 5"` runs these alone.

Each agent, environment and seed leaves one JSON file in the folder; `study_results` has those behind the README's
figures. The parts are in `study_parts`.
"""

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import tyro
from study_parts.environments import IDS
from study_parts.jobs import ABLATIONS, AGENTS, MODEL_FREE, Job, Sizes, ablation_jobs, dreaming_jobs, jobs_of
from study_parts.report import final_mean, write_report
from study_parts.running import run_jobs

from iris_gym.errors import UsageError


def longer_jobs(jobs: list[Job], longest: int, seeds: tuple[int, ...]) -> list[Job]:
    """The model-free ones among `jobs`, told how far IRIS came, where all of its seeds are done."""
    goals = {}
    for environment in {job.environment for job in jobs}:
        iris = [Job(jobs[0].folder, "iris", environment, seed, jobs[0].sizes).result() for seed in seeds]
        results = [result for result in iris if result is not None]
        if len(results) == len(seeds):
            goals[environment] = final_mean(results)
    chosen = [job for job in jobs if job.agent in MODEL_FREE and job.environment in goals]
    return [replace(job, longest=longest, goal=goals[job.environment]) for job in chosen]


def main(
    out: Path,
    sizes: tyro.conf.OmitArgPrefixes[Sizes],
    agents: tuple[Literal[AGENTS], ...] = AGENTS,  # pyright: ignore[reportInvalidTypeForm]
    environments: tuple[Literal[tuple(IDS)], ...] = tuple(IDS),  # pyright: ignore[reportInvalidTypeForm]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    jobs: int = 2,
    longer: int | None = None,
    ablations: bool = False,
    parts: tuple[Literal[tuple(ABLATIONS)], ...] = tuple(ABLATIONS),  # pyright: ignore[reportInvalidTypeForm]
    figures: bool = False,
) -> None:
    """Run what has no result in `out` yet, `jobs` at once, each on one core, then write the table and the figures."""
    if parts != tuple(ABLATIONS) and not ablations:
        raise UsageError("parts: these are parts of the ablations, and --ablations was not given")
    failed = 0
    if not (figures or ablations):
        chosen = jobs_of(out, sizes, agents, environments, seeds)
        failed += run_jobs([job for job in chosen if job.agent != "dream_ppo"], jobs)
        failed += run_jobs(dreaming_jobs(chosen), jobs)
        if longer:
            failed += run_jobs(longer_jobs(chosen, longer, seeds), jobs)
    if ablations and not figures:
        failed += run_jobs(ablation_jobs(out, sizes, environments, seeds, parts), jobs)
    for path in write_report(out, sizes, ("iris",) if ablations else agents, environments, seeds):
        print(path)
    if failed:
        sys.exit(f"study.py: {failed} failed; run it again to try them once more")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the jobs are stopped, too
    try:
        tyro.cli(main)
    except UsageError as error:
        sys.exit(f"study.py: {error}")
