"""Jobs in processes of their own, a few at once."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .jobs import Job


def run_jobs(jobs: Sequence[Job], at_once: int) -> int:
    """Run those that have no result yet, in their order. One that fails says so, and the others go on.

    A job that is interrupted leaves nothing, and begins anew the next time. Returns how many failed.
    """
    waiting, running, failed = [job for job in jobs if job.result() is None], {}, 0
    total = len(waiting)
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[_start(job)] = job
            for process in [process for process in running if process.poll() is not None]:
                job = running.pop(process)
                done = total - len(waiting) - len(running)
                failed += process.returncode != 0
                outcome = "done" if process.returncode == 0 else f"FAILED, see {_log(job)}"
                print(f"[{done}/{total}] {job.name}: {outcome}", flush=True)
            time.sleep(0.1)
    finally:
        for process in running:
            process.terminate()
    return failed


def _start(job: Job) -> subprocess.Popen:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", __package__, job.to_json()]
    _log(job).parent.mkdir(parents=True, exist_ok=True)
    with _log(job).open("w") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _log(job: Job) -> Path:
    return Path(job.folder) / "logs" / f"{job.name}.txt"
