"""All hyperparameters in one flat dataclass."""

import dataclasses
import difflib
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from iris_gym.config_limits import check_limits, check_parameters
from iris_gym.envs import is_atari
from iris_gym.errors import UsageError, one_line
from iris_gym.evaluation.evaluate import MAX_STEPS
from iris_gym.types import FRAME_SIZE
from iris_gym.untrusted.documents import parse_json, parse_yaml, read_document, shown

ATARI_100K_STEPS = 100_000


@dataclass
class IRISConfig:
    """Hyperparameters of IRIS. The defaults are those of Micheli et al. (2023) with a lighter autoencoder, an earlier
    start of world model and actor-critic, and no perceptual loss.

    Fields may be assigned; an agent validates its config and keeps a copy. Where nothing else is said, sizes and
    learning rates are positive, numbers of updates, weights and temperatures at least 0, and shares in [0, 1].
    """

    env: str = "ALE/Pong-v5"
    """Environment id, used where no environment is passed."""
    atari_100k: bool = True
    """Atari games under the Atari-100k protocol. False: as they are registered, sticky actions and all."""
    max_env_steps: int = ATARI_100K_STEPS
    """Environment steps after which nothing is collected any more, while training goes on to `total_epochs`."""
    preprocessing: Literal["iris", "ale"] = "iris"
    """iris: each raw frame resized before the maximum of two. ale: ALE's own faster vector environment."""

    autoencoder: Literal["strided", "vqgan"] = "strided"
    """strided: a few strided convolutions. vqgan: the published agent's network, nine times the arithmetic."""
    vocab_size: int = 512
    """Codes in the autoencoder's codebook; at least 2."""
    tokens_per_frame: int = 16
    """Tokens a frame; (64 / 2^encoder_downsamplings)²."""
    encoder_downsamplings: int = 4
    """Stride-2 convolutions in the encoder, 1 to 5."""
    token_embedding_dim: int = 512
    """Width of a code."""
    encoder_channels: int = 64
    """Channels of the autoencoder's convolutions, a multiple of 8, in vqgan of 32."""
    encoder_output_channels: int = 512
    """Channels between the network vqgan and the 1×1 convolutions to and from codes; strided has none between."""
    reconstruction_loss: Literal["mse", "l1"] = "mse"
    """Squared or absolute error of the pixels in [-1, 1]."""
    perceptual_weight: float = 0.0
    """Weight of LPIPS in the autoencoder's loss; needs the extra iris-gym[lpips] where it is not 0."""
    foreground_weight: float = 0.0
    """Weight of a second reconstruction term that looks where a frame differs from its batch's mean frame. The plain
    squared error is nearly all background: small moving things, one pixel of 4,096 for Pong's ball, come last."""
    codebook: Literal["ema", "gradient"] = "ema"
    """ema: codes follow the encoder's outputs by moving averages. gradient: the optimizer moves them."""
    commitment_weight: float = 0.25
    """Weight of the commitment loss, β."""
    codebook_decay: float = 0.99
    """Decay of the moving averages that the codebook ema follows, in (0, 1]."""
    dead_code_threshold: int = 100
    """Updates after which an unused code of the codebook ema is put on an encoder output. 0: never."""
    autoencoder_learning_rate: float = 1e-4
    """Of Adam. With small networks and thousands of updates instead of a hundred thousand it wants to be higher, as the
    other two learning rates do: `small` has twenty times as much, ten times as much of the actor-critic's, and thirty
    times of the transformer's, for Muon."""
    autoencoder_adam_beta2: float = 0.999
    """Decay of Adam's second moments, below 1. A lower one forgives single bad batches sooner, as small ones are."""
    autoencoder_batch_size: int = 256
    """Frames a batch."""
    autoencoder_updates_per_epoch: int = 200
    """Updates of the autoencoder in each epoch from its first one on."""
    autoencoder_first_updates: int | None = None
    """Updates of the autoencoder's first epoch, which has all the experience before it to catch up with. None: as in
    any other epoch."""

    hard_examples: float = 0.0
    """Share of the autoencoder's batches, rounded to frames, that are the worst reconstructed of seven times as many
    (online hard example mining, Shrivastava et al. 2016), from its second epoch on. What only good play meets is a
    small part of a replay, and is otherwise learned last. `autoencoder/` metrics are then those of hard batches, worse
    than of all frames."""

    transformer_layers: int = 10
    """Blocks of attention and perceptron in the world model."""
    transformer_embed_dim: int = 256
    """Width of the transformer."""
    transformer_heads: int = 4
    """Heads of its attention, which share the width."""
    transformer_timesteps: int = 20
    """Timesteps that the world model reads at most, 2 or more: its context, and the length of its training segments."""
    sequence_layout: Literal["frame_action", "frame_action_reward_end"] = "frame_action"
    """Tokens of a timestep, in their order. With reward and end among them the next frame depends on what was sampled;
    a timestep is two tokens longer and a dream's step two passes."""
    transformer_dropout: float = 0.1
    """Probability of dropout on embeddings, attention weights and the outputs of both halves of a block."""
    gradient_checkpointing: bool = False
    """Compute the transformer's activations again in the backward pass: less memory, more time."""
    learn_first_frames: bool = True
    """Whether the world model learns the tokens of a segment's first frame, too, as the published one does. A dream
    never asks for them: it begins at a frame. Nothing tells them beforehand, and the shorter the segments, the more of
    the loss is that."""
    transformer_optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: the matrices in the transformer's blocks move by orthogonalised momentum (Jordan et al. 2024), all else by
    AdamW."""
    transformer_learning_rate: float = 1e-4
    """Of either; see `autoencoder_learning_rate`."""
    transformer_weight_decay: float = 0.01
    """Of either, on the weights of linear layers alone."""
    transformer_batch_size: int = 64
    """Segments a batch."""
    transformer_updates_per_epoch: int = 200
    """Updates of the world model in each epoch from its first one on."""
    transformer_first_updates: int | None = None
    """Updates of the world model's first epoch; see `autoencoder_first_updates`."""

    actor_channels: int = 32
    """Channels of the actor-critic's first two convolutions; the last two have twice as many."""
    lstm_dim: int = 512
    """Width of the actor-critic's LSTM."""
    zero_heads: bool = False
    """Policy and value start at zero: the first policy is uniform, and no first value has to be unlearned."""
    feature_norm: bool = False
    """Layer normalisation between the actor-critic's convolutions and its LSTM. Without it the features of small
    networks may shrink to nothing while they learn, and the policy then does the same whatever it sees."""
    orthogonal_init: bool = False
    """The actor-critic's convolutions begin orthogonal, with gain √2 and no bias (Saxe et al. 2014), as PPO's do in
    Stable-Baselines3. As torch begins them, features fade from each to the next, and some small actors have ended with
    one action for whatever they saw, `feature_norm` notwithstanding."""
    imagination_horizon: int = 20
    """Steps of an imagined rollout; at least 2, for the last one only bootstraps."""
    burn_in: int = 20
    """Real frames that the LSTM sees before it acts in a dream or in a new stretch of collection."""
    discount: float = 0.995
    """γ, in (0, 1]."""
    td_lambda: float = 0.95
    """λ of the λ-returns, in [0, 1]."""
    entropy_weight: float = 0.001
    """Weight of the entropy bonus in the policy's loss."""
    learn_after_end: bool = True
    """Whether the imagined steps behind a predicted end count in the actor-critic's loss, as in the published agent,
    where ends are rare. The dream goes on there as from nowhere, and where episodes are short that is most of it."""
    actor_critic_learning_rate: float = 1e-4
    """Of Adam; see `autoencoder_learning_rate`."""
    actor_critic_batch_size: int = 64
    """Imagined rollouts a batch."""
    actor_critic_updates_per_epoch: int = 200
    """Updates of the actor-critic in each epoch from its first one on."""
    actor_critic_first_updates: int | None = None
    """Updates of the actor-critic's first epoch; see `autoencoder_first_updates`."""
    actor_critic_passes: int = 1
    """Steps that an update of the actor-critic takes on one and the same dreams: several learn more from each, for less
    than more dreams would cost. Then the clipped surrogate of PPO takes the place of REINFORCE (Schulman et al. 2017,
    equation 7); otherwise than there each step estimates returns and advantages anew."""
    clip_range: float = 0.2
    """With several `actor_critic_passes`: how far the probability of an action may move from what it was in the dream,
    as a share of it, before the action counts no more."""
    imitation_share: float = 0.0
    """Share of the actor-critic's batch that is lived instead of dreamt: stretches of the best episodes since
    `random_steps`, of which only what went better than expected is learned (self-imitation, Oh et al. 2018). A dream
    does not lead on from where all that was met ended badly; one episode that went on by chance does. Episodes that
    were cut after a negative reward are left out: the cut may be all that is good about them."""
    imitated_episodes: float = 0.1
    """With `imitation_share`: the share of the episodes, those with the largest sums of rewards, that are best."""
    max_gradient_norm: float = 10.0
    """Gradients are clipped to this norm, each component's by itself."""
    sample_uniformly: Literal["episodes", "steps"] = "episodes"
    """What is drawn uniformly from the replay: an episode, and then a step of it, as the published agent does; or a
    step of all. With episodes a step of a short one counts more."""
    dreams_before_rewards: float = 0.0
    """Share of the actor-critic's batch that is dreamed from less than `imagination_horizon` steps before a real
    reward, where one was seen (skewed sampling, Jaderberg et al. 2017, section 3.2): what is rare is dreamed of more
    often. What is imitated takes the place of other dreams. The world model's own batches are left as they are, for it
    would take good luck for the rule."""
    novelty_weight: float = 0.0
    """Weight of an exploration bonus in training's dreams: 1 / √n for a frame whose tokens were met n times in the
    replay, less the mean of a batch. Where no reward has been found yet the policy goes where it has seldom been,
    instead of staying where it learned to be safe. Counting has up to 10,000 frames encoded an epoch: of more so many
    are drawn, and most of the rare ones are not found. 0: none, as in the published agent."""
    unseen_is_novel: bool = False
    """Whether, with `novelty_weight`, a dreamed frame that was never met is as novel as one met once, instead of having
    neither bonus nor cost. A poor world model makes most of them up; a good one shows by them where nobody has been."""
    max_bad_updates: int = 10
    """Updates in a row with a loss or gradient that is not finite, each of them skipped, after which the run stops; at
    least 1."""
    accumulate_gradients: int = 1
    """Parts in which a batch goes through a network, one after another, while the gradients add up: the same update in
    less memory. Only dropout is drawn anew for each part."""

    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Of autoencoder and world model in training, weights aside. auto: bf16 where the device has it and the networks
    are wide enough to gain. The actor-critic, codebook distances, returns and losses are float32 always, and so is
    all that is done outside of training."""
    accelerate: bool = True
    """CUDA graphs, TF32, networks in bf16 and the replay on the GPU, each where it is supported. False: the plain path,
    which computes the same."""

    cache_frames: bool = True
    """Keep tokens and reconstructions of the replay's frames for as long as the autoencoder stays as it is. False:
    compute them for every update anew, which takes longer and gives the same."""

    env_steps_per_epoch: int = 200
    """Environment steps collected in each epoch, up to `max_env_steps`."""
    total_epochs: int = 600
    """Epochs of a training."""
    start_autoencoder_after: int = 5
    """Epochs before the first autoencoder update."""
    start_transformer_after: int = 15
    """Epochs before the first world-model update."""
    start_actor_critic_after: int = 35
    """Epochs before the first actor-critic update."""
    slow_autoencoder_after: int | None = None
    """Epoch after which the autoencoder's learning rate falls linearly, at `stop_autoencoder_after` to
    `settled_autoencoder_factor` of what it was."""
    stop_autoencoder_after: int | None = None
    """Last epoch with `autoencoder_updates_per_epoch`; None: no end. A moving codebook spoils the world model's
    targets."""
    settled_autoencoder_updates: int = 0
    """Updates an epoch after `stop_autoencoder_after`, at the last learning rate: what is new in the environment is
    still learned, and most tokens of what is known stay as they are."""
    settled_autoencoder_factor: float = 0.1
    """The last learning rate of an autoencoder that slows or settles, as a share, above 0, of
    `autoencoder_learning_rate`."""

    random_steps: int = 0
    """Environment steps at the beginning whose actions are uniformly random: the first models then learn from what
    these meet, and not from what an untrained policy happens to prefer."""
    epsilon: float = 0.01
    """Share of uniformly random actions while collecting: whatever the policy is sure of, each is tried at times."""
    collect_temperature: float = 1.0
    """Temperature of the policy while collecting."""
    eval_temperature: float = 0.5
    """Temperature of the policy in `predict` and in evaluations."""
    eval_interval: int = 5
    """Epochs between evaluations in the real environment. 0: never; so it is, too, where the agent was given an
    environment instead of an id, which leaves that to Stable-Baselines3's `EvalCallback`."""
    eval_episodes: int = 16
    """Episodes of an evaluation during training."""
    max_eval_steps: int = MAX_STEPS
    """Steps after which an episode of an evaluation is cut; as many as 108,000 frames, at which Atari games are cut."""

    checkpoint_interval: int = 5
    """Epochs between checkpoints and pictures in the run folder."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept; older ones are removed."""

    @classmethod
    def paper(cls, **changes: Any) -> "IRISConfig":
        """The published agent (Micheli et al. 2023, appendix A), whose checkpoints `from_published` reads."""
        return cls(**(PAPER | changes))

    @classmethod
    def small(cls, **changes: Any) -> "IRISConfig":
        """For a laptop's CPU: learns something real in five to fifteen minutes."""
        return cls(**(SMALL | changes))

    @classmethod
    def tiny(cls, **changes: Any) -> "IRISConfig":
        """For tests: every code path in seconds."""
        return cls(**(TINY | changes))

    def replace(self, **changes: Any) -> "IRISConfig":
        """A copy with some fields changed; unknown names and wrong types are refused."""
        _check_names(changes)
        config = dataclasses.replace(self, **changes)
        config._validate_types()
        return config

    @property
    def lived_rows(self) -> int:
        """How many of an actor-critic's batch are lived instead of dreamt."""
        return round(self.imitation_share * self.actor_critic_batch_size)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "IRISConfig":
        """Build from a mapping such as a parsed JSON file; unknown names and wrong types are refused."""
        if not isinstance(values, dict):
            raise UsageError(f"a config must be a mapping of field names to values, not {type(values).__name__}")
        _check_names(values)
        config = cls(**values)
        config.validate()
        return config

    def save(self, path: str | Path) -> None:
        """Write as JSON, or as YAML where the name ends in .yaml or .yml."""
        path = Path(path)
        if path.suffix in YAML_SUFFIXES:
            path.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False))
        else:
            path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "IRISConfig":
        """Read what `save` wrote, or a file by hand with any part of the fields."""
        return cls.from_dict(read_mapping(path))

    def validate(self) -> None:
        """Raise `UsageError` for the first field whose value cannot be used, or fields that contradict each other."""
        self._validate_types()
        check_limits(vars(self))
        for name in POSITIVE:
            _require(getattr(self, name) > 0, name, getattr(self, name), "must be greater than 0")
        for name in NON_NEGATIVE:
            _require((getattr(self, name) or 0) >= 0, name, getattr(self, name), "must be 0 or greater")
        for name in UNIT_INTERVAL:
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "must lie in [0, 1]")
        beta2 = self.autoencoder_adam_beta2
        _require(beta2 < 1, "autoencoder_adam_beta2", beta2, "must be less than 1")
        self._validate_shapes()
        check_parameters(vars(self))
        self._validate_protocol()

    def _validate_types(self) -> None:
        for name, expected in get_type_hints(type(self)).items():
            _check_type(name, getattr(self, name), expected)

    def _validate_shapes(self) -> None:
        width, heads = self.transformer_embed_dim, self.transformer_heads
        _require(
            width % heads == 0,
            "transformer_embed_dim",
            width,
            f"must be a multiple of transformer_heads={heads}, such as {math.ceil(width / heads) * heads}",
        )
        groups = 32 if self.autoencoder == "vqgan" else 8
        _require(
            self.encoder_channels % groups == 0,
            "encoder_channels",
            self.encoder_channels,
            f"must be a multiple of {groups}, the number of normalisation groups of autoencoder={self.autoencoder!r}",
        )
        _require(
            1 <= self.encoder_downsamplings <= 5,
            "encoder_downsamplings",
            self.encoder_downsamplings,
            "must lie between 1 and 5",
        )
        tokens = (FRAME_SIZE // 2**self.encoder_downsamplings) ** 2
        _require(
            self.tokens_per_frame == tokens,
            "tokens_per_frame",
            self.tokens_per_frame,
            f"must be {tokens}: encoder_downsamplings={self.encoder_downsamplings} halves a frame of "
            f"{FRAME_SIZE}×{FRAME_SIZE} to {math.isqrt(tokens)}×{math.isqrt(tokens)}",
        )
        _require(self.vocab_size >= 2, "vocab_size", self.vocab_size, "must be at least 2")
        _require(
            self.transformer_timesteps >= 2, "transformer_timesteps", self.transformer_timesteps, "must be at least 2"
        )
        _require(
            self.imagination_horizon >= 2,
            "imagination_horizon",
            self.imagination_horizon,
            "must be at least 2: the last step only bootstraps",
        )

    def _validate_protocol(self) -> None:
        last = self.stop_autoencoder_after
        _require(
            last is None or last > self.start_autoencoder_after,
            "stop_autoencoder_after",
            last,
            f"must be greater than start_autoencoder_after={self.start_autoencoder_after}, or None",
        )
        _require(
            last is not None or not self.settled_autoencoder_updates,
            "settled_autoencoder_updates",
            self.settled_autoencoder_updates,
            "needs stop_autoencoder_after, after which they are done, or must be 0",
        )
        slow = self.slow_autoencoder_after
        _require(
            slow is None or (last is not None and 0 <= slow < last),
            "slow_autoencoder_after",
            slow,
            f"must lie between 0 and stop_autoencoder_after={last}, which has to be given, or be None",
        )
        batch = self.actor_critic_batch_size
        _require(
            not self.imitation_share or 0 < self.lived_rows < batch,
            "imitation_share",
            self.imitation_share,
            f"must be 0, or leave some of actor_critic_batch_size={batch} to dreams and some to what was lived",
        )
        _require(
            not (self.atari_100k and is_atari(self.env)) or self.max_env_steps == ATARI_100K_STEPS,
            "max_env_steps",
            self.max_env_steps,
            f"must be {ATARI_100K_STEPS} for an Atari game under atari_100k=True; set atari_100k=False to choose it",
        )


POSITIVE = (
    "max_env_steps vocab_size token_embedding_dim encoder_channels encoder_output_channels codebook_decay "
    "autoencoder_learning_rate autoencoder_batch_size transformer_layers transformer_embed_dim transformer_heads "
    "transformer_learning_rate transformer_batch_size lstm_dim discount actor_critic_learning_rate "
    "actor_critic_batch_size actor_channels max_gradient_norm env_steps_per_epoch total_epochs checkpoint_interval "
    "keep_checkpoints eval_episodes accumulate_gradients max_bad_updates max_eval_steps settled_autoencoder_factor "
    "actor_critic_passes clip_range imitated_episodes"
).split()
NON_NEGATIVE = (
    "perceptual_weight foreground_weight commitment_weight dead_code_threshold autoencoder_updates_per_epoch "
    "transformer_weight_decay transformer_updates_per_epoch burn_in entropy_weight actor_critic_updates_per_epoch "
    "start_autoencoder_after start_transformer_after start_actor_critic_after collect_temperature "
    "eval_temperature eval_interval random_steps autoencoder_first_updates transformer_first_updates "
    "actor_critic_first_updates settled_autoencoder_updates novelty_weight"
).split()
UNIT_INTERVAL = (
    "codebook_decay autoencoder_adam_beta2 transformer_dropout discount td_lambda epsilon dreams_before_rewards "
    "hard_examples settled_autoencoder_factor imitation_share imitated_episodes"
).split()
YAML_SUFFIXES = (".yaml", ".yml")

CONFIG_LIMIT = 200_000
"""Bytes of the largest config file that is read; all fields together take about 2,000."""

PAPER: dict[str, Any] = dict(
    autoencoder="vqgan",
    codebook="gradient",
    commitment_weight=1.0,
    reconstruction_loss="l1",
    perceptual_weight=1.0,
    start_transformer_after=25,
    start_actor_critic_after=50,
)

SMALL: dict[str, Any] = dict(
    vocab_size=128,
    token_embedding_dim=32,
    encoder_channels=16,
    foreground_weight=0.5,
    commitment_weight=0.05,
    codebook_decay=0.98,
    autoencoder_learning_rate=2e-3,
    autoencoder_adam_beta2=0.95,
    autoencoder_batch_size=16,
    autoencoder_first_updates=1_500,
    autoencoder_updates_per_epoch=50,
    settled_autoencoder_updates=10,
    settled_autoencoder_factor=0.05,
    hard_examples=0.5,
    transformer_layers=2,
    transformer_embed_dim=128,
    transformer_timesteps=5,  # with twice the segments of 10 it predicts twice as well after as many updates
    transformer_dropout=0.0,
    transformer_optimizer="muon",
    transformer_learning_rate=3e-3,
    transformer_batch_size=32,
    transformer_first_updates=800,
    transformer_updates_per_epoch=50,
    actor_channels=16,
    lstm_dim=256,
    zero_heads=True,
    orthogonal_init=True,
    feature_norm=True,
    imagination_horizon=10,
    burn_in=5,
    discount=0.97,
    learn_after_end=False,
    learn_first_frames=False,
    actor_critic_learning_rate=1e-3,
    entropy_weight=0.003,
    actor_critic_batch_size=16,
    actor_critic_first_updates=300,
    actor_critic_updates_per_epoch=30,
    actor_critic_passes=3,
    imitation_share=0.375,
    imitated_episodes=0.05,
    sample_uniformly="steps",
    dreams_before_rewards=0.25,
    novelty_weight=0.15,
    random_steps=1_000,
    epsilon=0.05,
    start_autoencoder_after=4,
    slow_autoencoder_after=4,
    stop_autoencoder_after=6,
    start_transformer_after=4,
    start_actor_critic_after=4,
    eval_interval=5,
    eval_episodes=8,
)

TINY: dict[str, Any] = dict(
    vocab_size=32,
    token_embedding_dim=16,
    encoder_channels=8,
    autoencoder_batch_size=8,
    autoencoder_updates_per_epoch=3,
    transformer_layers=2,
    transformer_embed_dim=32,
    transformer_heads=2,
    transformer_timesteps=4,
    transformer_batch_size=2,
    transformer_updates_per_epoch=2,
    lstm_dim=32,
    imagination_horizon=4,
    burn_in=3,
    actor_critic_batch_size=2,
    actor_critic_updates_per_epoch=2,
    env_steps_per_epoch=20,
    total_epochs=5,
    start_autoencoder_after=0,
    start_transformer_after=1,
    start_actor_critic_after=2,
    eval_interval=0,
    eval_episodes=1,
    checkpoint_interval=2,
)

PRESETS: dict[str, dict[str, Any]] = {"default": {}, "paper": PAPER, "small": SMALL, "tiny": TINY}


HARD_CASES: dict[str, dict[str, Any]] = {
    # Micheli et al. 2023, appendix: for Freeway alone actions are sampled at temperature 0.01 while collecting. A
    # random walk hardly ever crosses the road, and an agent that has seen no reward has nothing to learn from.
    "freeway": dict(collect_temperature=0.01),
    # A GPU of little memory. The same updates, but for dropout's draws: batches stay as large as they were.
    "low-memory": dict(accumulate_gradients=8, gradient_checkpointing=True),
}
"""What is known to help in a hard case, as changes to any preset."""


def preset(name: str, device_type: str = "cpu") -> IRISConfig:
    """The config of a preset, such as `paper`, or of a preset and hard cases, such as `paper+freeway+low-memory`.

    `auto` is default on a GPU and small elsewhere.
    """
    base, *cases = preset_name(name, device_type).split("+")
    if base not in PRESETS or not set(cases) <= set(HARD_CASES):
        raise UsageError(
            f"preset={shown(name)} is unknown; choose one of auto, {', '.join(PRESETS)}, and after it as many as you "
            f"like of {', '.join('+' + case for case in HARD_CASES)}"
        )
    changes = {field: value for case in cases for field, value in HARD_CASES[case].items()}
    return IRISConfig(**(PRESETS[base] | changes))


def preset_name(name: str, device_type: str = "cpu") -> str:
    """What `auto` stands for, hard cases kept; any other name as it is."""
    base, plus, cases = name.partition("+")
    return ("default" if device_type == "cuda" else "small") + plus + cases if base == "auto" else name


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Parse a JSON or YAML file of config fields."""
    path = Path(path)
    source, is_yaml = f"config file {shown(str(path))}", path.suffix in YAML_SUFFIXES
    content = read_document(path, source, CONFIG_LIMIT)
    try:
        values = parse_yaml(content) if is_yaml else parse_json(content)
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} cannot be read: {error}") from error
    except ValueError as error:
        kind = "YAML" if is_yaml else "JSON"
        raise UsageError(f"{source} is not valid {kind}: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{source} holds a {type(values).__name__}; it must map names of fields to values")
    _check_names(values)
    return values


def _check_names(values: dict[str, Any]) -> None:
    known = [field.name for field in fields(IRISConfig)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(shown(name), known, n=1)
            raise UsageError(
                f"{shown(name)} is no field of IRISConfig" + (f"; did you mean {near[0]!r}?" if near else "")
            )


def _check_type(name: str, value: Any, expected: Any) -> None:
    if get_args(expected) and type(get_args(expected)[0]) is str:
        _require(value in get_args(expected), name, value, f"must be one of {', '.join(get_args(expected))}")
        return
    allowed = get_args(expected) or (expected,)
    whole_for_real = float in allowed and isinstance(value, int)
    fits = isinstance(value, allowed) or whole_for_real
    if isinstance(value, bool) and bool not in allowed:
        fits = False
    words = " or ".join("None" if kind is type(None) else kind.__name__ for kind in allowed)
    _require(fits, name, value, f"must be of type {words}")
    _require(not isinstance(value, float) or math.isfinite(value), name, value, "must be finite")


def _require(condition: bool, name: str, value: Any, what_would_do: str) -> None:
    if not condition:
        raise UsageError(f"{name}={shown(value)} {what_would_do}")
