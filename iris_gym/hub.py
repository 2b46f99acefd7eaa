"""Agents on the Hugging Face hub: a folder of JSON, safetensors and a model card."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import (
    EvalResult,
    ModelCard,
    ModelCardData,
    ModelHubMixin,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
)
from safetensors import SafetensorError
from safetensors.torch import load_file

from iris_gym.errors import UsageError
from iris_gym.stored import check_shared, expected_bytes
from iris_gym.training.checkpoint import (
    FORMAT_VERSION,
    SHARED_WEIGHTS_FILE,
    START_FRAMES_FILE,
    Snapshot,
    write_tensors,
)
from iris_gym.training.run_folder import RunFolder
from iris_gym.training.stored_state import MAX_START_FRAMES
from iris_gym.types import FRAME_SHAPE
from iris_gym.untrusted.documents import DOCUMENT_LIMIT, parse_json, read_document, shown
from iris_gym.untrusted.files import FolderFiles, usable_path
from iris_gym.untrusted.tensors import HEADER_LIMIT, tensor_header

SCHEME = "hf://"
CONFIG_FILE, CARD_FILE = "config.json", "README.md"
LIBRARY_NAME = "iris-gym"

CARD = """
# IRIS on {env}

An [IRIS](https://arxiv.org/abs/2209.00588) agent (Micheli, Alonso and Fleuret, ICLR 2023): a world model, and a policy
that was learned inside it. Trained and stored by `iris_gym`.

| | |
|---|---|
| environment | `{env}`, {num_actions} actions |
| environment steps | {steps} |
| score | {score} |

```python
from iris_gym import IRISAgent

agent = IRISAgent.from_pretrained("{repo_id}")
action, memory = agent.predict(observation)
```

## Hyperparameters

```json
{config}
```
"""


Agent = TypeVar("Agent", bound="HubAgent")


class HubAgent(ModelHubMixin):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for an agent that can be told in a `Snapshot`.

    What is stored are the weights and the config; optimizers, random states and the replay are not.
    """

    _hub_mixin_config: Any = {}  # keeps the mixin from recording the constructor's arguments: `config.json` is ours

    def _snapshot(self) -> Snapshot:
        raise NotImplementedError

    @classmethod
    def _from_snapshot(cls: type[Agent], snapshot: Snapshot, source: str | Path, env: Any, **arguments: Any) -> Agent:
        raise NotImplementedError

    def _scores(self) -> dict[str, Any] | None:
        """The contents of `scores.json`, of this agent as it is in its own environment; None before an evaluation."""
        raise NotImplementedError

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:  # type: ignore[override]
        """Write weights, config and a model card into a folder, which `from_pretrained` reads.

        Further arguments are those of huggingface_hub's `ModelHubMixin.save_pretrained`. A card that was written here
        before is replaced, any other `README.md` stays.

        Raises:
            UsageError: the folder is that of a run, whose own config would be lost.
        """
        run = RunFolder(Path(save_directory))
        if run.settings_file.exists() or run.checkpoints.exists():
            raise UsageError(f"save_directory={str(save_directory)!r} is the folder of a run; choose another one")
        return super().save_pretrained(save_directory, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_pretrained(self._snapshot(), save_directory)
        card = save_directory / CARD_FILE
        if card.exists() and f"library_name: {LIBRARY_NAME}" in card.read_text(errors="replace"):
            card.unlink()  # the mixin would leave the card of an earlier save

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card, filled in from the agent's state and its last evaluation; `repo_id` is named in its example."""
        return model_card(self._snapshot(), self._scores(), kwargs.get("repo_id", "owner/name"))

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:  # type: ignore[override]
        """Write what `save_pretrained` does to a repository on the hub, which is made where there is none.

        Further arguments, such as `private`, `token` and `commit_message`, are those of huggingface_hub's
        `ModelHubMixin.push_to_hub`, whose errors are raised as they are. Returns the commit's address.
        """
        for_card = {"repo_id": repo_id} | (kwargs.pop("model_card_kwargs", None) or {})
        return super().push_to_hub(repo_id, model_card_kwargs=for_card, **kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Agent],
        folder_or_hub_id: str | Path,
        env: Any = None,
        *,
        device: str = "auto",
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> Agent:
        """An agent from a folder that `save_pretrained` wrote, or from a repository `owner/name` on the hub.

        As with `load` it can predict, evaluate and dream; with `env` it can learn, from the beginning of its schedule.

        Raises:
            UsageError: there is no such agent, it cannot be had, or its files do not fit together.
        """
        snapshot = read_shared(folder_or_hub_id, revision=revision, token=token)
        return cls._from_snapshot(snapshot, folder_or_hub_id, env, device=device)


def read_shared(
    folder_or_hub_id: str | Path, *, revision: str | None = None, token: str | bool | None = None
) -> Snapshot:
    """What `save_pretrained` wrote into a folder, or `push_to_hub` to the repository `owner/name`."""
    source = str(folder_or_hub_id)
    folder = usable_path("folder_or_hub_id", source)
    if not folder.is_dir():
        fetch = partial(_fetch, source, revision=revision, token=token)
        folder = fetch(CONFIG_FILE, limit=DOCUMENT_LIMIT).parent
        fetch(SHARED_WEIGHTS_FILE, limit=expected_bytes(_read_state(folder, source), repr(source)) + HEADER_LIMIT)
        with suppress(UsageError):  # an agent that has collected nothing has none
            fetch(START_FRAMES_FILE, limit=MAX_START_FRAMES * math.prod(FRAME_SHAPE) + HEADER_LIMIT)
    return read_pretrained(folder, source)


def write_pretrained(snapshot: Snapshot, folder: Path) -> None:
    """Write weights, config and the frames where dreams begin; `read_pretrained` reads them."""
    state = {name: snapshot.state[name] for name in STATE}
    state |= {"updates": snapshot.updates, "num_timesteps": snapshot.steps_trained}
    write_tensors(snapshot.weights, folder / SHARED_WEIGHTS_FILE)
    (folder / START_FRAMES_FILE).unlink(missing_ok=True)  # another agent's
    if snapshot.start_frames is not None:
        write_tensors({"frames": snapshot.start_frames}, folder / START_FRAMES_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps({"format_version": FORMAT_VERSION, **state}, indent=2) + "\n")


STATE = "config env num_actions observation_shape n_envs seed num_timesteps".split()
"""What is kept of a snapshot's state."""


def read_pretrained(folder: Path, source: str) -> Snapshot:
    """A snapshot with weights alone. Raises `UsageError`, which names `source`, for anything else in the folder."""
    state, files = _read_state(folder, source), FolderFiles(folder, (SHARED_WEIGHTS_FILE, START_FRAMES_FILE))
    try:
        headers = {name: tensor_header(files, name) for name in {SHARED_WEIGHTS_FILE, *files}}
    except UsageError as error:
        raise UsageError(f"{source!r} is damaged: {error}") from error
    check_shared(state, headers, repr(source), weights=SHARED_WEIGHTS_FILE, document=CONFIG_FILE)
    try:
        start_frames = load_file(folder / START_FRAMES_FILE)["frames"] if START_FRAMES_FILE in files else None
        return Snapshot(state, load_file(folder / SHARED_WEIGHTS_FILE), training={}, start_frames=start_frames)
    except (OSError, KeyError, SafetensorError) as error:
        raise UsageError(f"{source!r} is damaged: {error}") from error


def _read_state(folder: Path, source: str) -> dict[str, Any]:
    try:
        stored = parse_json(read_document(folder / CONFIG_FILE, repr(source)))
        version = stored["format_version"]
        state = {name: stored[name] for name in (*STATE, "updates")}
    except (ValueError, KeyError, TypeError) as error:  # UsageError among them
        raise UsageError(f"{source!r} is no shared agent: its {CONFIG_FILE} is missing or damaged") from error
    if version != FORMAT_VERSION:
        raise UsageError(f"{source!r} has format_version={shown(version)}, this iris_gym reads {FORMAT_VERSION}")
    return state


def model_card(snapshot: Snapshot, scores: Mapping[str, Any] | None, repo_id: str) -> ModelCard:
    """A card that tells environment, steps, scores and config; `scores` as in scores.json."""
    state = snapshot.state
    env = state["env"] or "an environment of its own"
    data = ModelCardData(
        library_name=LIBRARY_NAME,
        pipeline_tag="reinforcement-learning",
        tags=["deep-reinforcement-learning", "world-models", "iris", env],
        model_name=f"IRIS on {env}",
        eval_results=[_result(env, scores)] if scores else None,
    )
    text = CARD.format(
        env=env,
        num_actions=state["num_actions"],
        steps=f"{snapshot.steps_trained:,}",
        score=_score(scores) if scores else "not evaluated yet",
        repo_id=repo_id,
        config=json.dumps(state["config"], indent=2),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def _result(env: str, scores: Mapping[str, Any]) -> EvalResult:
    return EvalResult(
        task_type="reinforcement-learning",
        dataset_type=env,
        dataset_name=env,
        metric_type="mean_reward",
        metric_value=scores["mean"],
    )


def _score(scores: Mapping[str, Any]) -> str:
    spread, human = scores["standard_error"], scores["human_normalized"]
    text = f"{scores['mean']:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")
    text += f" over {len(scores['episodes'])} episodes"
    return text + (f", human-normalised {human:.3f}" if human is not None else "")


def is_hub_file(address: str | Path) -> bool:
    return str(address).startswith(SCHEME)


def download(address: str) -> Path:
    """The local copy of `hf://owner/repository/path`, kept in the hub's own cache."""
    parts = address.removeprefix(SCHEME).split("/", 2)
    if len(parts) < 3 or not all(parts) or {".", ".."} & set(address.split("/")):
        raise UsageError(f"{address!r} names no file; write {SCHEME}owner/repository/path")
    return _fetch("/".join(parts[:2]), parts[2])


def _fetch(
    repo_id: str, file: str, *, limit: int | None = None, revision: str | None = None, token: str | bool | None = None
) -> Path:
    """The one file of a repository, if it has no more than `limit` bytes; without a connection, what the hub's cache
    has of it."""
    fetch = partial(hf_hub_download, repo_id, file, revision=revision, token=token)
    try:
        # Where there is no connection this says so at once; the download would first try again for half a minute.
        metadata = get_hf_file_metadata(hf_hub_url(repo_id, file, revision=revision), token=token)
        size = getattr(metadata, "size", None)
        if limit is None or not size or size <= limit:
            return Path(fetch())
    except Exception as error:  # the hub's own kinds, the network's below it, and ValueError for a malformed name
        with suppress(Exception):
            return Path(fetch(local_files_only=True))
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"{file!r} of {repo_id!r} on the Hugging Face hub cannot be had ({type(error).__name__}: {reason[:160]}); "
            "check the name and the connection, or fetch it elsewhere and give its path"
        ) from error
    raise UsageError(f"{file!r} of {repo_id!r} on the Hugging Face hub has {size:,} bytes, {limit:,} at most are due")
