"""Where the files of a run lie."""

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iris_gym.errors import UsageError
from iris_gym.training.checkpoint import Check, Snapshot, read_newest_checkpoint, read_zip
from iris_gym.untrusted.files import usable_path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder with `config.json`, `checkpoints/`, `replay/`, `logs/`, `media/` and, once evaluated, `scores.json`."""

    path: Path

    def __post_init__(self) -> None:
        usable_path("run_dir", self.path)

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def replay(self) -> Path:
        return self.path / "replay"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def media(self) -> Path:
        return self.path / "media"

    @property
    def scores_file(self) -> Path:
        return self.path / "scores.json"

    @property
    def exists(self) -> bool:
        return os.path.isfile(self.config_file)

    def check_free(self) -> None:
        """Raise `UsageError` unless a new run can be made here."""
        if self.exists:
            raise UsageError(f"run_dir={str(self.path)!r} holds a run already; resume it, or choose another folder")
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UsageError(f"run_dir={str(self.path)!r} is in use by something else; choose a new folder")
        check_writable("run_dir", self.path)

    def check_run(self) -> None:
        """Raise `UsageError` unless this is a run folder."""
        if not self.exists:
            raise UsageError(f"run={str(self.path)!r} is no run folder: it has no {self.config_file.name}")

    def check_files(self) -> None:
        """Raise `UsageError` where a file of the run is a link, a pipe or a device.

        To go on with the run would write to where a link leads, and wait for a pipe.
        """
        for folder, _, names in os.walk(self.path):
            for path in (os.path.join(folder, name) for name in names):
                if not stat.S_ISREG(os.lstat(path).st_mode):
                    raise UsageError(f"run={str(self.path)!r}: {path!r} is a link or no file; copy the run again whole")

    def create(self, config: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(json.dumps(config, indent=2) + "\n")

    def clear(self) -> None:
        """Remove what an earlier run, which saved nothing complete, left here."""
        for folder in (self.checkpoints, self.replay, self.logs, self.media):
            shutil.rmtree(folder, ignore_errors=True)
        self.config_file.unlink(missing_ok=True)


def check_writable(name: str, folder: Path) -> None:
    """Raise `UsageError`, which names the argument, where a folder neither takes files nor can be made."""
    folder = usable_path(name, folder)
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UsageError(f"{name}={str(folder)!r} cannot be written to: {str(nearest)!r} is no writable folder")


def read_snapshot(path: str | Path, check: Check | None = None) -> Snapshot:
    """What a saved file, or the newest checkpoint of a run folder, holds. Raises `UsageError` where there is none."""
    path = usable_path("run", path)
    if path.is_dir():
        run = RunFolder(path)
        run.check_run()
        snapshot = read_newest_checkpoint(run.checkpoints, check)
        if snapshot is None:
            raise UsageError(f"run={str(path)!r} has no complete checkpoint yet")
        return snapshot
    file = path if path.exists() or path.suffix else path.with_name(path.name + ".zip")
    if not file.exists():
        raise UsageError(f"run={str(path)!r} does not exist; give a run folder or a saved zip")
    return read_zip(file, check)
