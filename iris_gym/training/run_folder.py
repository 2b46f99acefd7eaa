"""Where the files of a run lie."""

import json
import os
import shutil
import stat
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iris_gym.errors import UsageError
from iris_gym.training.checkpoint import Check, Snapshot, is_shared, read_newest_checkpoint, read_zip
from iris_gym.untrusted.documents import parse_json, read_document
from iris_gym.untrusted.files import usable_path

try:
    import fcntl
except ImportError:  # Windows: there a folder is not locked
    fcntl = None


TEMPORARY = ".tmp"

WANDB_FOLDER = "wandb"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder with `config.json`, `run.json` (seed, number of steps), `.lock`, `checkpoints/`, `replay/`, `logs/`,
    `media/` and, once evaluated, `scores.json`; at the end of a training, `final_scores.json`."""

    path: Path

    def __post_init__(self) -> None:
        usable_path("run_dir", self.path)

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def settings_file(self) -> Path:
        return self.path / "run.json"

    @property
    def lock_file(self) -> Path:
        return self.path / ".lock"

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
    def final_scores_file(self) -> Path:
        return self.path / "final_scores.json"

    @property
    def exists(self) -> bool:
        return os.path.isfile(self.config_file)

    def check_free(self) -> None:
        """Raise `UsageError` unless a new run can be made here."""
        if self.exists:
            raise UsageError(f"run_dir={str(self.path)!r} holds a run already; resume it, or choose another folder")
        if self.path.exists() and (not self.path.is_dir() or self._holds_something_else()):
            raise UsageError(f"run_dir={str(self.path)!r} is in use by something else; choose a new folder")
        check_writable("run_dir", self.path)

    def check_run(self) -> None:
        """Raise `UsageError` unless this is a run folder."""
        if is_shared(self.path):
            raise UsageError(
                f"run={str(self.path)!r} is no run but an agent that save_pretrained wrote; "
                "IRISAgent.from_pretrained reads it, and its save makes a zip of it"
            )
        if not self.exists:
            raise UsageError(f"run={str(self.path)!r} is no run folder: it has no {self.config_file.name}")

    def check_files(self) -> None:
        """Raise `UsageError` where a file of the run is a link, a pipe or a device.

        To go on with the run would write to where a link leads, and wait for a pipe. Weights & Biases, which links its
        newest logs, has a folder of its own, where nothing else is written to.
        """
        for folder, folders, names in os.walk(self.path):
            if Path(folder) == self.path and WANDB_FOLDER in folders:
                folders.remove(WANDB_FOLDER)
            for path in (os.path.join(folder, name) for name in names):
                if not stat.S_ISREG(os.lstat(path).st_mode):
                    raise UsageError(f"run={str(self.path)!r}: {path!r} is a link or no file; copy the run again whole")

    def create(self, config: dict[str, Any], **settings: Any) -> None:
        """Make the folder, with the config and what else the run is begun with. `config.json` comes last, from where on
        the run exists. Raises `UsageError` where another process was quicker."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_settings(**settings)
        temporary = self.path / f"config.{os.getpid()}{TEMPORARY}"
        temporary.write_text(json.dumps(config, indent=2) + "\n")
        try:
            self._take_config(temporary)
        except FileExistsError:
            self.check_free()
        finally:
            temporary.unlink()

    def _take_config(self, temporary: Path) -> None:
        """Make a whole file the config; `FileExistsError` where there is one."""
        try:
            os.link(temporary, self.config_file)  # a link, unlike a name, is not given twice
        except FileExistsError:
            raise
        except OSError:  # some drives know no links
            with self.config_file.open("xb") as file:
                file.write(temporary.read_bytes())

    def write_settings(self, **settings: Any) -> None:
        """Add to, or change, what the run is told besides its config: seed, number of steps."""
        temporary = self.settings_file.with_suffix(TEMPORARY)
        temporary.write_text(json.dumps(self.settings() | settings, indent=2) + "\n")
        os.replace(temporary, self.settings_file)

    def settings(self) -> dict[str, Any]:
        """What the run was told besides its config; nothing where that is not known."""
        try:
            settings = parse_json(read_document(self.settings_file, repr(str(self.settings_file))))
        except ValueError:  # UsageError among them
            return {}
        return settings if isinstance(settings, dict) else {}

    def lock(self) -> "RunLock":
        """Keep other processes from training here for as long as the lock is held, at most while this one lives.

        Raises `UsageError` where another process trains here.
        """
        key = self.path.resolve()
        lock = _locks.get(key)
        if lock is None:
            lock = _locks[key] = RunLock(self)
        return lock

    def _holds_something_else(self) -> bool:
        """Anything but what a process leaves that is killed while it makes the folder."""
        return any(path.name != self.settings_file.name and path.suffix != TEMPORARY for path in self.path.iterdir())

    def clear(self) -> None:
        """Remove what the run, which saved nothing complete, left here, to begin it anew."""
        for folder in (self.checkpoints, self.replay, self.logs, self.media):
            shutil.rmtree(folder, ignore_errors=True)


class RunLock:
    """An exclusive `flock` on a file of its own, for on some drives nobody else reads a locked one. The system lets it
    go with the process, however that ends."""

    def __init__(self, run: RunFolder) -> None:
        self.holder: Callable[[], object] = lambda: None
        """Tells the agent of this process that took the folder last."""
        self.file = run.lock_file.open("ab")  # a network drive locks what may be written to
        weakref.finalize(self, self.file.close)
        if fcntl is None:
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"run_dir={str(run.path)!r} is being trained in by another process; wait for its end, or stop it"
            ) from error
        except OSError as error:
            warnings.warn(
                f"run_dir={str(run.path)!r} is on a drive without locks ({error.strerror}): nothing keeps another "
                "process from training there, too",
                stacklevel=2,
            )


_locks: weakref.WeakValueDictionary[Path, RunLock] = weakref.WeakValueDictionary()
"""Of this process, by folder: several agents in one process share one."""


def _leave_locks() -> None:
    """In a forked child, whose copies of the files would hold the locks after the process that took them."""
    for lock in list(_locks.values()):
        lock.file.close()
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks)


def check_writable(name: str, folder: Path) -> None:
    """Raise `UsageError`, which names the argument, where a folder neither takes files nor can be made."""
    folder = usable_path(name, folder)
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UsageError(f"{name}={str(folder)!r} cannot be written to: {str(nearest)!r} is no writable folder")


def check_output(name: str, path: Path) -> None:
    """Raise `UsageError`, which names the argument, where no file can be written to, or put in the place of what is
    there: a folder, a device, a pipe."""
    check_writable(name, path.parent)
    if path.exists() and not path.is_file():
        raise UsageError(f"{name}={str(path)!r} is no file; give the name of one")


def saved_file(path: Path) -> Path:
    """Where an agent is saved: `.zip` is added to a name without suffix."""
    return path if path.suffix else path.with_name(path.name + ".zip")


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
    file = path if path.exists() else saved_file(path)
    if not file.exists():
        raise UsageError(f"run={str(path)!r} does not exist; give a run folder or a saved zip")
    return read_zip(file, check)
