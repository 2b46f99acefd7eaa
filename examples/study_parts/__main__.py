"""One job in a process of its own: `python -m study_parts JOB`, with the job as JSON."""

import sys

from iris_gym.process import prepare_process


def main() -> None:
    prepare_process()
    import torch  # after that, as OpenMP reads its settings once

    from .agents import LEARN
    from .jobs import Job
    from .report import write_result

    torch.set_num_threads(1)
    job = Job.from_json(sys.argv[1])
    write_result(job, LEARN[job.agent](job))


if __name__ == "__main__":
    main()
