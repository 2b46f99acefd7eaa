"""Snapshots of a run on disk: JSON and safetensors, never pickle."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from iris_gym.errors import UsageError
from iris_gym.untrusted.archive import ZipFiles
from iris_gym.untrusted.documents import parse_json, read_document, shown
from iris_gym.untrusted.files import Files, FolderFiles, open_regular
from iris_gym.untrusted.tensors import TensorSpec, check_finite, check_tensors, tensor_header

FORMAT_VERSION = 1
STATE_FILE = "state.json"
WEIGHTS_FILE = "weights.safetensors"
TRAINING_FILE = "training.safetensors"
START_FRAMES_FILE = "start_frames.safetensors"
SHARED_WEIGHTS_FILE = "model.safetensors"
"""Of an agent that is stored without its training, as the Hugging Face hub calls it."""
FILES = (STATE_FILE, WEIGHTS_FILE, TRAINING_FILE, START_FRAMES_FILE)
COMPLETE_FILE = "complete"
REPLACED = "-replaced"
STATE_LIMIT = 64_000_000
"""Bytes of the largest state that is read: of many games of Atari each has 20,000, and 20 for every step so far."""

Check = Callable[[dict[str, Any], Mapping[str, Mapping[str, TensorSpec]], str], None]
"""(state, what each file declares, source) → nothing, or a `UsageError`."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is needed to act, and to go on training, but for the replay."""

    state: dict[str, Any]  # JSON: config, counters, position
    weights: dict[str, Tensor]  # of the models, named component.parameter
    training: dict[str, Tensor]  # optimizer moments, random states, metrics of the running epoch
    start_frames: Tensor | None = None  # (S, 3, 64, 64) uint8, where dreams begin without the replay

    @property
    def updates(self) -> dict[str, int]:
        """How often each component has learned: all that shared and published agents keep of their training."""
        return self.state["updates"] if not self.training else self.state["trainer"]["updates"]

    @property
    def steps_trained(self) -> int:
        """Environment steps whose experience is in the weights."""
        if not self.training:
            return self.state.get("steps_before", self.state["num_timesteps"])
        return self.state.get("steps_before", 0) + self.state["trainer"]["env_steps"]

    def to_files(self) -> dict[str, bytes]:
        tensors = {name: tensors_to_bytes(_contiguous(group)) for name, group in self._tensor_files().items()}
        return {STATE_FILE: self._state_bytes(), **tensors}

    def write(self, folder: Path) -> None:
        """The same files in a folder, flushed to disk. As bytes the tensors would lie in memory three times more."""
        (folder / STATE_FILE).write_bytes(self._state_bytes())
        _sync(folder / STATE_FILE)
        for name, group in self._tensor_files().items():
            write_tensors(group, folder / name)

    def _tensor_files(self) -> dict[str, dict[str, Tensor]]:
        groups = {WEIGHTS_FILE: self.weights, TRAINING_FILE: self.training}
        if self.start_frames is not None:
            groups[START_FRAMES_FILE] = {"frames": self.start_frames}
        return groups

    def _state_bytes(self) -> bytes:
        return json.dumps({"format_version": FORMAT_VERSION, **self.state}, indent=2).encode()

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], source: str, check: Check | None = None) -> "Snapshot":
        """Parse files by name; `source` is named in errors.

        The state and what the files say of their tensors are given to `check`, which refuses what does not fit, before
        any of the tensors is read.
        """
        stored = files if isinstance(files, Files) else Files(files)
        state = _read_state(stored, source)
        names = [WEIGHTS_FILE, TRAINING_FILE, *([START_FRAMES_FILE] if START_FRAMES_FILE in stored else [])]
        try:
            headers = {name: tensor_header(stored, name) for name in names}
        except UsageError as error:
            raise UsageError(f"{source} is damaged: {error}") from error
        if check is not None:
            check(state, headers, source)
        try:
            weights, training, *starts = (tensors_from_bytes(stored[name]) for name in names)
            return cls(state, weights, training, starts[0]["frames"] if starts else None)
        except (KeyError, SafetensorError) as error:
            raise UsageError(f"{source} is damaged: {error}") from error


def is_shared(path: Path) -> bool:
    """Whether `save_pretrained` wrote to this folder."""
    return os.path.isfile(path / SHARED_WEIGHTS_FILE)


def _read_state(files: Files, source: str) -> dict[str, Any]:
    try:
        if files.size(STATE_FILE) > STATE_LIMIT:
            raise ValueError("too large")
        state = parse_json(files[STATE_FILE])
        version = state.pop("format_version")
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"{source} is no saved agent: its {STATE_FILE} is missing or damaged") from error
    if version != FORMAT_VERSION:
        raise UsageError(
            f"{source} has format_version={shown(version)}, this iris_gym reads {FORMAT_VERSION}: "
            "open it with the iris_gym that wrote it, or train anew"
        )
    return state


def write_zip(snapshot: Snapshot, path: Path) -> None:
    """Write one file, whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in snapshot.to_files().items():
                    archive.writestr(name, content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_zip(path: Path, check: Check | None = None) -> Snapshot:
    """Read what `write_zip` wrote; members are stored uncompressed, and a zip with any others is refused."""
    source = repr(str(path))
    with ZipFiles(path, FILES, source) as files:
        return Snapshot.from_files(files, source, check)


def write_checkpoint(snapshot: Snapshot, root: Path, step: int, keep: int) -> Path:
    """Write `root/<step>` so that a crash at any moment leaves the older checkpoints valid; keep the last `keep`.

    The folder is filled under a temporary name, flushed to disk, marked complete, with the checksums of its files,
    and only then renamed. A checkpoint of the same step steps aside until then. One of a later step was passed over
    when the run was resumed, as damaged, and goes.
    """
    root.mkdir(parents=True, exist_ok=True)
    for remains in root.glob(".incomplete-*"):  # of a process that was killed
        shutil.rmtree(remains, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=root, prefix=".incomplete-"))
    os.chmod(temporary, 0o777 & ~_umask())
    try:
        snapshot.write(temporary)
        (temporary / COMPLETE_FILE).write_text(json.dumps(_checksums(temporary), indent=2))
        _sync(temporary / COMPLETE_FILE)
        _sync(temporary)
        final = root / f"{step:010d}"
        replaced = final.with_name(final.name + REPLACED)
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            os.rename(final, replaced)
        os.rename(temporary, final)
        _sync(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    kept = [folder for folder in complete_checkpoints(root) if folder.name <= final.name][-keep:]
    for folder in complete_checkpoints(root):
        if folder not in kept:
            _remove(folder)
    return final


def _remove(folder: Path) -> None:
    """As far as the system lets a checkpoint go that another process may be reading; the rest goes with a later one."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder.rename(folder.with_name(f".incomplete-{folder.name}")), ignore_errors=True)


def complete_checkpoints(root: Path) -> list[Path]:
    """The complete checkpoints below `root`, oldest first."""
    folders = (path.parent for path in root.glob(f"[0-9]*/{COMPLETE_FILE}"))
    return sorted(folders, key=lambda folder: (folder.name.removesuffix(REPLACED), not folder.name.endswith(REPLACED)))


def read_newest_checkpoint(root: Path, check: Check | None = None) -> Snapshot | None:
    """The newest complete checkpoint below `root`, None where there is none.

    A damaged one is passed over with a warning. Raises `UsageError` where no complete one can be read.
    """
    errors: list[Exception] = []
    for folder in reversed(complete_checkpoints(root)):
        try:
            snapshot = _read_checkpoint(folder, check)
        except (UsageError, OSError) as error:
            errors.append(error)
            continue
        for error in errors:
            warnings.warn(f"{error}; using the checkpoint before it, {folder.name}", stacklevel=2)
        return snapshot
    if errors:
        raise UsageError(f"no checkpoint can be used: {errors[0]}") from errors[0]
    return None


def _read_checkpoint(folder: Path, check: Check | None) -> Snapshot:
    files = FolderFiles(folder, FILES)
    _check_checksums(folder, files)
    return Snapshot.from_files(files, repr(str(folder)), check)


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint."""
    return {path.name: _sha256(path) for path in sorted(folder.iterdir())}


def _check_checksums(folder: Path, files: Files) -> None:
    """Raise `UsageError` where a file is not what was written."""
    source = f"checkpoint {str(folder)!r}"
    content = read_document(folder / COMPLETE_FILE, source)
    try:
        expected = parse_json(content or b"{}")  # empty before there were checksums
        damaged = [name for name in expected if name not in files or _sha256(folder / name) != expected[name]]
    except (ValueError, TypeError) as error:
        raise UsageError(f"{source} is damaged: {COMPLETE_FILE}: {error}") from error
    if damaged:
        names = ", ".join(name if name in FILES else shown(name) for name in damaged[:5])
        raise UsageError(f"{source} is damaged: {names} changed since it was written")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path, repr(str(path))) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def module_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Weights and buffers of several modules under `name.parameter`."""
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file, flushed to disk, with the permissions of any new file; safetensors sets 600.

    Raises `OSError` where it cannot be written.
    """
    try:
        save_file(_contiguous(tensors), path)
    except SafetensorError as error:
        raise OSError(f"{str(path)!r} cannot be written: {error}") from error
    os.chmod(path, 0o666 & ~_umask())
    _sync(path)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """safetensors takes tensors in row-major order only."""
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def load_modules(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], source: str) -> None:
    """Load `module_tensors`; a tensor that is missing, unexpected, of another shape or dtype, or not finite is refused
    before anything is changed."""
    expected, found = module_tensors(modules), {name: TensorSpec.of(tensor) for name, tensor in tensors.items()}
    check_tensors(found, {name: TensorSpec.of(tensor) for name, tensor in expected.items()}, source)
    check_finite(tensors, source)
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(tensors[name])


def optimizer_tensors(optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
    """Moments and step counts under `name.index.key`. The hyperparameters come from the config."""
    return {
        f"{name}.{index}.{key}": value
        for name, optimizer in optimizers.items()
        for index, moments in optimizer.state_dict()["state"].items()
        for key, value in moments.items()
    }


def load_optimizers(optimizers: Mapping[str, Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Load `optimizer_tensors`. Raises `UsageError` for moments that no training can have left."""
    check_finite(tensors, "the optimizers' state")
    for name, value in tensors.items():
        if not name.endswith(".exp_avg") and bool((value < 0).any()):
            raise UsageError(f"the optimizers' state: tensor {name!r} has negative numbers")
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for full_name, value in tensors.items():
            owner, _, rest = full_name.partition(".")
            if owner == name:
                index, key = rest.split(".")
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        _lay_out_as_parameters(optimizer)


def _lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Own copies of the moments, in the parameters' memory layout: sums in another order may round apart."""
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            like = parameter.detach() if value.shape == parameter.shape else value
            moments[key] = torch.empty_like(like, dtype=value.dtype).copy_(value)


def _sync(path: Path) -> None:
    """Flush a file, or a folder's list of files, to disk; a folder's where the system and the drive can."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)  # Windows flushes what may be written to
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
