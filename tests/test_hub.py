import json
import shutil
from pathlib import Path

import gymnasium
import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from gymnasium import Env, spaces
from safetensors.torch import load_file, save_file

from iris_gym import IRISAgent, IRISConfig, UsageError, hub
from iris_gym.hub import CONFIG_FILE, download, is_hub_file, model_card
from iris_gym.training.checkpoint import SHARED_WEIGHTS_FILE, Snapshot

OBSERVATION = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)


class Still(Env):
    """One image, three actions, episodes without end."""

    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return OBSERVATION, {}

    def step(self, action):
        return OBSERVATION, 0.0, False, False, {}


def agent(**arguments) -> IRISAgent:
    return IRISAgent(Still(), IRISConfig.tiny(), seed=3, device="cpu", **arguments)


def score(mean: float, env: str = "ALE/Pong-v5", steps: int = 12_345) -> dict:
    protocol = {"env_steps_trained": steps}
    found = {"mean": mean, "standard_error": 0.5, "human_normalized": 0.123, "episodes": [{}] * 4}
    return found | {"env": env, "protocol": protocol}


def card_data(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


def refused(folder, match: str) -> None:
    with pytest.raises(UsageError, match=match) as error:
        IRISAgent.from_pretrained(folder, device="cpu")
    assert "\n" not in str(error.value)


# A local folder


def test_a_saved_folder_holds_json_safetensors_and_a_card(tmp_path):
    agent().save_pretrained(tmp_path / "shared")
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == [
        "README.md",
        CONFIG_FILE,
        SHARED_WEIGHTS_FILE,
    ]
    stored = json.loads((tmp_path / "shared" / CONFIG_FILE).read_text())
    assert IRISConfig.from_dict(stored["config"]) == IRISConfig.tiny(env="Still")
    assert "world_model.frame_head.0.weight" in load_file(tmp_path / "shared" / SHARED_WEIGHTS_FILE)


def test_an_agent_comes_back_as_it_was_saved(tmp_path):
    original = agent()
    original.save_pretrained(tmp_path)
    restored = IRISAgent.from_pretrained(tmp_path, device="cpu")
    assert restored.config == original.config
    assert restored.action_space == original.action_space
    for name, value in original.policy.state_dict().items():
        assert torch.equal(value, restored.policy.state_dict()[name]), name
    expected, actual = (each.predict(OBSERVATION, deterministic=True) for each in (original, restored))
    assert np.array_equal(expected[0], actual[0])
    for one, other in zip(expected[1], actual[1], strict=True):
        assert np.array_equal(one, other)


def test_with_an_environment_it_learns_from_the_beginning_of_its_schedule(tmp_path):
    original = agent()
    original.learn(60)
    original.save_pretrained(tmp_path)
    restored = IRISAgent.from_pretrained(tmp_path, Still(), device="cpu")
    assert restored.num_timesteps == 60
    assert restored.trainer.env_steps == 0
    assert [one.updates for one in restored.trainer.learners] == [one.updates for one in original.trainer.learners]
    restored.learn(60)
    assert restored.trainer.env_steps == 60


def test_the_card_tells_environment_steps_scores_and_config(tmp_path):
    shared = agent(run_dir=tmp_path / "run")
    shared.env_id, shared.trainer.env_steps = "ALE/Pong-v5", 12_345
    for others in (None, score(-3.25, env="ALE/Boxing-v5"), score(-3.25, steps=12_344)):
        if others:
            (tmp_path / "run/scores.json").write_text(json.dumps(others))
        shared.save_pretrained(tmp_path / "shared")
        assert "not evaluated yet" in (tmp_path / "shared/README.md").read_text(), others
    (tmp_path / "run/scores.json").write_text(json.dumps(score(-3.25)))
    shared.save_pretrained(tmp_path / "shared")  # over the first
    text = (tmp_path / "shared/README.md").read_text()
    for part in ("IRIS on ALE/Pong-v5", "3 actions", "12,345", "-3.25 ± 0.50 over 4 episodes, human-normalised 0.123"):
        assert part in text, part
    assert json.loads(text.split("```json")[1].split("```")[0]) == IRISConfig.tiny(env="Still").to_dict()
    data = card_data(tmp_path / "shared")
    assert (data["library_name"], data["pipeline_tag"]) == ("iris-gym", "reinforcement-learning")
    result = data["model-index"][0]["results"][0]
    assert result["dataset"]["name"] == "ALE/Pong-v5"
    assert result["metrics"][0] == {"type": "mean_reward", "value": -3.25}


def test_a_card_of_a_nameless_environment_without_human_score():
    state = {"env": None, "num_actions": 2, "num_timesteps": 0, "config": {}}
    scores = score(1.0) | {"standard_error": None, "human_normalized": None}
    text = str(model_card(Snapshot(state, {}, {}), scores, "me/mine"))
    assert "| score | 1.00 over 4 episodes |" in text
    assert 'from_pretrained("me/mine")' in text


def test_a_loaded_run_tells_its_scores(tmp_path):
    agent(run_dir=tmp_path / "run").save_checkpoint()
    (tmp_path / "run/scores.json").write_text(json.dumps(score(-3.25, env=None, steps=0)))
    IRISAgent.load(tmp_path / "run", device="cpu").save_pretrained(tmp_path / "shared")
    assert "-3.25 ± 0.50" in (tmp_path / "shared/README.md").read_text()


@pytest.mark.filterwarnings("ignore:learning ends at")
def test_steps_are_counted_over_several_trainings(tmp_path):
    """In pieces, whose own counts begin anew, and of an agent that goes on from what was shared or saved."""
    first = agent()
    first.learn(20)
    first.learn(20)
    first.save_pretrained(tmp_path / "first")
    assert "| environment steps | 40 |" in (tmp_path / "first/README.md").read_text()
    second = IRISAgent.from_pretrained(tmp_path / "first", Still(), device="cpu")
    assert second.trainer.steps_trained == 40
    second.learn(20)
    second.save(tmp_path / "second.zip")
    assert IRISAgent.load(tmp_path / "second.zip", device="cpu").trainer.steps_trained == 60
    second.save_pretrained(tmp_path / "second")
    assert "| environment steps | 60 |" in (tmp_path / "second/README.md").read_text()


def test_the_folder_of_a_run_is_left_alone(tmp_path):
    original = agent(run_dir=tmp_path / "run")
    before = (tmp_path / "run" / CONFIG_FILE).read_bytes()
    with pytest.raises(UsageError, match="run' is the folder of a run; choose another"):
        original.save_pretrained(tmp_path / "run")
    assert (tmp_path / "run" / CONFIG_FILE).read_bytes() == before


def test_what_lies_in_the_folder_stays_where_it_is_no_agents(tmp_path):
    """A README that somebody wrote; but not the frames of an agent that lay there before, nor its card."""
    original = agent()
    original.start_frames = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    original.save_pretrained(tmp_path)
    agent().save_pretrained(tmp_path)
    assert IRISAgent.from_pretrained(tmp_path, device="cpu").start_frames is None
    (tmp_path / "README.md").write_text("my notes")
    original.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my notes"


@pytest.mark.parametrize("read", [IRISAgent.load, IRISAgent.resume])
def test_what_reads_runs_says_what_reads_a_shared_agent(read, tmp_path):
    agent().save_pretrained(tmp_path)
    with pytest.raises(
        UsageError, match="is no run but an agent that save_pretrained wrote; IRISAgent.from_pretrained"
    ):
        read(tmp_path, device="cpu")


def test_a_folder_of_something_else_is_refused(tmp_path):
    refused(tmp_path, "is no shared agent: its config.json is missing")
    (tmp_path / CONFIG_FILE).write_text("[]")
    refused(tmp_path, "is no shared agent")


def test_damage_is_refused(tmp_path):
    agent().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(stored | {"format_version": 99}))
    refused(tmp_path, "has format_version=99")
    (tmp_path / CONFIG_FILE).write_text(json.dumps(stored | {"config": stored["config"] | {"lstm_dim": -1}}))
    refused(tmp_path, "lstm_dim=-1")
    (tmp_path / CONFIG_FILE).write_text(json.dumps(stored | {"num_actions": 5}))
    refused(tmp_path, "shape")
    (tmp_path / CONFIG_FILE).write_text(json.dumps(stored))
    weights = load_file(tmp_path / SHARED_WEIGHTS_FILE)
    save_file({name: value for name, value in weights.items() if "lstm" not in name}, tmp_path / SHARED_WEIGHTS_FILE)
    refused(tmp_path, "lacks tensor 'actor_critic.lstm")
    (tmp_path / SHARED_WEIGHTS_FILE).write_bytes(b"nothing")
    refused(tmp_path, "is damaged: model.safetensors")


# The hub


@pytest.fixture
def remote(monkeypatch, tmp_path):
    """A hub in a folder: `owner/name/file`."""
    root = tmp_path / "hub"

    def fetch(repo_id, file, *, local_files_only=False, **_):
        if local_files_only or not (root / repo_id / file).is_file():
            raise FileNotFoundError("not in the cache\nand more lines")
        return str(root / repo_id / file)

    def reach(url, **_):
        if not root.exists():
            raise OSError("[Errno -2] Name or service not known\nand more lines")

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **_):
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id, folder_path, **_):
            shutil.copytree(folder_path, root / repo_id)
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    monkeypatch.setattr(hub, "get_hf_file_metadata", reach)
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    return root


def test_an_agent_goes_to_the_hub_and_comes_back(remote):
    original = agent()
    assert original.push_to_hub("me/still", private=True).endswith("me/still/commit/1")
    assert 'from_pretrained("me/still")' in (remote / "me/still/README.md").read_text()
    restored = IRISAgent.from_pretrained("me/still", device="cpu")
    codebook = original.models.tokenizer.quantizer.codebook
    assert torch.equal(codebook, restored.models.tokenizer.quantizer.codebook)


def test_only_the_files_of_an_agent_are_fetched(remote, monkeypatch):
    """Whatever else lies in the repository, such as a pickle that other libraries would load."""
    agent().push_to_hub("me/still")
    for name in ("pytorch_model.bin", "policy.pth", "setup.py", "replay.pkl"):
        (remote / "me/still" / name).write_bytes(b"code")
    asked, fetch = [], hub.hf_hub_download

    def listening(repo_id, file, **options):
        asked.append((repo_id, file))
        return fetch(repo_id, file, **options)

    monkeypatch.setattr(hub, "hf_hub_download", listening)
    IRISAgent.from_pretrained("me/still", device="cpu")
    names = [file for repo_id, file in asked if repo_id == "me/still"]
    assert len(names) == len(asked)
    assert set(names) == {CONFIG_FILE, SHARED_WEIGHTS_FILE, "start_frames.safetensors"}


@pytest.mark.parametrize(("name", "most"), [(CONFIG_FILE, 4_000_000), (SHARED_WEIGHTS_FILE, 16_999_409)])
def test_a_file_larger_than_its_agent_is_not_fetched(remote, monkeypatch, name, most):
    agent().push_to_hub("me/still")

    class Metadata:
        def __init__(self, url: str) -> None:
            self.size = most + 1 if url.endswith(name) else 1

    monkeypatch.setattr(hub, "get_hf_file_metadata", lambda url, **_: Metadata(url))
    refused("me/still", rf"'{name}' of 'me/still' on the Hugging Face hub has {most + 1:,} bytes, {most:,} at most")


@pytest.mark.parametrize("address", ["hf://a/b/../../c", "hf://../b/c", "hf://a/b/./c"])
def test_an_address_that_leaves_its_repository_is_refused(address):
    with pytest.raises(UsageError, match="names no file"):
        download(address)


def test_others_dream_in_a_shared_agent_by_its_id_or_folder(remote):
    original = agent()
    original.start_frames = torch.from_numpy(OBSERVATION.transpose(2, 0, 1)[None].copy())
    original.push_to_hub("me/still")
    with pytest.warns(UserWarning, match="has had no update"):
        dreams = [
            gymnasium.make_vec("IrisGym/Dream-v0", num_envs=2, checkpoint=where, device="cpu")
            for where in ("me/still", str(remote / "me/still"))
        ]
    first, second = (dream.reset(seed=0)[0] for dream in dreams)
    assert torch.equal(first, second)


def test_an_id_that_the_hub_does_not_know_is_refused(remote):
    remote.mkdir()
    with pytest.raises(UsageError, match="'me/nothing' on the Hugging Face hub cannot be had"):
        gymnasium.make_vec("IrisGym/Dream-v0", num_envs=2, checkpoint="me/nothing")


def test_a_file_on_the_hub_has_an_address(remote):
    (remote / "someone/models/pretrained").mkdir(parents=True)
    (remote / "someone/models/pretrained/Pong.pt").touch()
    assert is_hub_file("hf://someone/models/pretrained/Pong.pt")
    assert not is_hub_file(Path("models/Pong.pt"))
    assert download("hf://someone/models/pretrained/Pong.pt") == remote / "someone/models/pretrained/Pong.pt"


@pytest.mark.parametrize(
    "address", ["hf://", "hf://someone", "hf://someone/models", "hf://someone/models/", "hf:////a"]
)
def test_an_address_of_no_file_is_refused(address):
    with pytest.raises(UsageError, match="names no file; write hf://owner/repository/path"):
        download(address)


def test_without_a_connection_one_line_says_so(remote):
    with pytest.raises(UsageError, match="of 'a/b' on the Hugging Face hub cannot be had .*Name or service") as error:
        download("hf://a/b/c.pt")
    assert "\n" not in str(error.value)
    refused("a/b", "'config.json' of 'a/b' on the Hugging Face hub cannot be had")


def test_without_a_connection_the_cache_still_answers(monkeypatch, tmp_path):
    def unreachable(url, **_):
        raise OSError("unreachable")

    def cached(repo_id, file, *, local_files_only=False, **_):
        assert local_files_only
        return str(tmp_path / file)

    monkeypatch.setattr(hub, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(hub, "hf_hub_download", cached)
    assert download("hf://a/b/c.pt") == tmp_path / "c.pt"
