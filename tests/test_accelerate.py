import contextlib
import copy
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from iris_gym import IRISAgent, IRISConfig, accelerate, build_models, record, report
from iris_gym.accelerate import Captured, CUDAGraphs, FrozenCopy, Numerics, compute_dtype, products, version
from iris_gym.assembly import build_dynamics, build_imagination, build_learners, build_replay, freeze
from iris_gym.benchmark.agreement import bf16_agreement
from iris_gym.benchmark.measuring import count_operations
from iris_gym.benchmark.noise import fill_with_noise
from iris_gym.data.replay import Replay
from iris_gym.evaluation.pictures import run_pictures
from iris_gym.imagination.dynamics import Dynamics
from iris_gym.training.losses import imagine
from iris_gym.training.randomness import RandomStreams

CPU = torch.device("cpu")
LAYOUTS = pytest.mark.parametrize("layout", ["frame_action", "frame_action_reward_end"])

# Precision


@pytest.mark.parametrize(
    ("precision", "worthwhile", "supported", "expected"),
    [
        ("float32", True, True, torch.float32),
        ("bf16", False, False, torch.bfloat16),
        ("auto", True, True, torch.bfloat16),
        ("auto", False, True, torch.float32),
        ("auto", True, False, torch.float32),
    ],
)
def test_the_dtype_that_is_computed_in(monkeypatch, precision, worthwhile, supported, expected):
    monkeypatch.setattr(accelerate, "gains_from_bf16", lambda device: supported)
    assert compute_dtype(precision, CPU, worthwhile=worthwhile) == expected


@pytest.mark.parametrize(
    ("instructions", "tiles", "intel", "gains"),
    [(False, False, False, False), (True, False, False, True), (True, False, True, False), (True, True, True, True)],
)
def test_processors_of_intel_gain_from_bf16_by_tiles_alone(monkeypatch, instructions, tiles, intel, gains):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(accelerate, "_made_by_intel", lambda: intel)
    assert accelerate.gains_from_bf16(CPU) == gains


def test_bf16_is_asked_of_the_gpu_that_is_computed_on(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext(current.append(device.index)))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current == [1])
    assert accelerate.gains_from_bf16(torch.device("cuda", 1))


def test_devices_of_an_unknown_kind_have_no_bf16():
    assert not accelerate.gains_from_bf16(torch.device("meta"))


def test_the_forward_pass_alone_is_in_the_lower_precision():
    layer, x = nn.Linear(3, 3), torch.ones(1, 3)
    with Numerics(torch.bfloat16).forward(CPU):
        assert not torch.is_autocast_cache_enabled()
        y = layer(x)
    assert (y.dtype, layer(x).dtype, layer.weight.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    with Numerics().forward(CPU):
        assert layer(x).dtype == torch.float32


def float32_settings() -> tuple[str, bool]:
    """Those of a GPU's products and convolutions, which torch has without one, too."""
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def set_float32(matmul: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.fixture
def used_gpu(monkeypatch):
    """As if there were one, as far as torch's settings go."""
    if torch.cuda.is_available():
        torch.cuda.init()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    saved = float32_settings()
    yield
    set_float32(*saved)


BEFORE = pytest.mark.parametrize("before", [("highest", True), ("high", False), ("medium", True)])


@BEFORE
@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_on_or_off_during_an_update_and_then_as_before(used_gpu, before, tf32):
    set_float32(*before)
    with Numerics(tf32=tf32).update():
        assert float32_settings() == ("high" if tf32 else "highest", tf32)
    with contextlib.suppress(ZeroDivisionError), Numerics(tf32=tf32).update():
        raise ZeroDivisionError
    assert float32_settings() == before


@BEFORE
def test_without_a_gpu_no_setting_is_touched(used_gpu, monkeypatch, before):
    set_float32(*before)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with products(tf32=True):
        assert float32_settings() == before


def test_what_is_inferred_is_the_same_each_time(used_gpu, monkeypatch):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "deterministic", False)
    assert accelerate.inference(lambda: cudnn.deterministic)() is True
    assert cudnn.deterministic is False
    with contextlib.suppress(ZeroDivisionError):
        accelerate.inference(lambda: 1 / 0)()
    assert cudnn.deterministic is False
    cudnn.deterministic = True
    accelerate.inference(lambda: None)()
    assert cudnn.deterministic is True


def test_attention_is_left_to_other_kernels_than_cudnns(used_gpu):
    enabled = torch.backends.cuda.cudnn_sdp_enabled
    assert enabled()
    with products(tf32=True), products(tf32=False):
        assert not enabled()
    assert enabled()
    with sdpa_kernel([SDPBackend.MATH]):
        with products(tf32=True):
            pass
        assert not enabled(), "as the program wants it"


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has no settings of single operations")
def test_settings_of_single_operations_are_left_as_they_are(used_gpu):
    """Torch refuses to read the older ones then."""
    conv = torch.backends.cudnn.conv
    before, conv.fp32_precision = conv.fp32_precision, "ieee"
    try:
        with pytest.raises(RuntimeError):
            assert torch.backends.cudnn.allow_tf32
        with products(tf32=True):
            assert conv.fp32_precision == "ieee"
        assert conv.fp32_precision == "ieee"
    finally:
        conv.fp32_precision = before


def test_an_agent_learns_with_tf32_and_does_all_else_without(used_gpu, tmp_path):
    set_float32("high", True)
    config = IRISConfig.tiny(checkpoint_interval=1, total_epochs=3)
    agent = IRISAgent("MinAtar/Breakout-v1", config, seed=0, device="cpu")
    seen: dict[str, set[tuple[str, bool]]] = {}

    def watch(module: nn.Module, name: str) -> None:
        module.register_forward_pre_hook(lambda *_: seen.setdefault(name, set()).add(float32_settings()))

    for name, model in agent.models.by_name().items():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.LSTM):
                watch(module, name)
    exact, fast = ("highest", False), ("high", True)
    agent.learn(60)  # collecting, too, which has a copy of the tokenizer
    assert seen == {"tokenizer": {fast}, "actor_critic": {exact, fast}, "world_model": {fast}}
    seen.clear()
    agent.predict(np.zeros((64, 64, 3), np.uint8))
    agent.evaluate(1, max_steps=3)
    dream = agent.make_dream_env(2, render_mode="rgb_array")
    dream.reset(seed=0)
    dream.step(np.zeros(2, np.int64))
    dream.render()
    record(agent, source="side-by-side", max_steps=3, out=tmp_path)
    report(agent, episodes=1, starts=2, horizon=2, max_steps=20, out=tmp_path / "page.html")
    with Replay(None) as replay:
        fill_with_noise(replay, 30, 3)
        shown = replay.sample_segments(2, 4, generator=np.random.default_rng(0), align="start")
        assert run_pictures(1, Dynamics(agent.models.tokenizer, agent.models.world_model), replay)
    bf16_agreement(agent.config, agent.models, shown)
    assert seen == dict.fromkeys(agent.models.by_name(), {exact})


# Frozen copies


def half(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).to(torch.bfloat16)


def test_the_version_counts_what_is_written():
    module = nn.BatchNorm1d(2)
    seen = [version(module)]
    optimizer = torch.optim.AdamW(module.parameters(), 0.1)
    module(torch.randn(3, 2)).square().sum().backward()  # writes to the buffers
    seen.append(version(module))
    optimizer.step()
    seen.append(version(module))
    module.load_state_dict({name: value.clone() for name, value in module.state_dict().items()})
    seen.append(version(module))
    assert seen == sorted(set(seen))
    module.eval()(torch.randn(3, 2))
    assert version(module) == seen[-1]


def test_a_copy_follows_what_was_written_and_its_tensors_stay_where_they_are():
    module = nn.Linear(2, 2)
    frozen = FrozenCopy(module, half)
    places = [parameter.data_ptr() for parameter in frozen.copy.parameters()]
    with torch.no_grad():
        module.weight.fill_(1 + 2**-10)
    assert not (frozen.copy.weight == 1).any()
    frozen.refresh()
    assert (frozen.copy.weight == 1).all()  # rounded to bf16
    assert [parameter.data_ptr() for parameter in frozen.copy.parameters()] == places
    assert frozen.copy.weight.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in frozen.copy.parameters())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_nothing_is_copied_where_nothing_was_written():
    module = nn.Linear(2, 2)
    frozen = FrozenCopy(module, half)
    before = version(frozen.copy)
    frozen.refresh()
    assert version(frozen.copy) == before


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_the_codebook_is_shared_and_goes_on_learning(codebook):
    config = IRISConfig.tiny(codebook=codebook, precision="bf16")
    models = build_models(config, 3, "cpu")
    tokenizer, before = models.tokenizer, models.tokenizer.quantizer.codebook.detach().clone()
    frozen = freeze(config, models).tokenizer
    assert frozen is not None
    assert frozen.copy.quantizer is tokenizer.quantizer
    learner = build_learners(config, models, RandomStreams(0, CPU))[0]
    with build_replay(config, None) as replay:
        fill_with_noise(replay, 20, 3)
        learner.update(replay.sample_segments(8, 1, generator=RandomStreams(0, CPU).sampling, align="start"), 1)
    frozen.refresh()
    assert tokenizer.quantizer.codebook.dtype == torch.float32
    assert not torch.equal(tokenizer.quantizer.codebook, before)
    for mine, theirs in zip(frozen.copy.encoder.parameters(), tokenizer.encoder.parameters(), strict=True):
        assert torch.equal(mine, theirs.to(torch.bfloat16))


def test_in_float32_a_cpu_infers_with_copied_convolutions_and_the_world_model_itself():
    config = IRISConfig.tiny(precision="float32")
    models, frames = build_models(config, 3, "cpu"), torch.rand(2, 3, 64, 64)
    frozen = freeze(config, models)
    assert frozen.world_model is None
    assert frozen.tokenizer is not None
    for network in ("encoder", "decoder"):
        convolutions = [m for m in getattr(frozen.tokenizer.copy, network).modules() if isinstance(m, nn.Conv2d)]
        assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    torch.testing.assert_close(
        frozen.tokenizer.copy.encoder_outputs(frames), models.tokenizer.encoder_outputs(frames), rtol=1e-4, atol=1e-5
    )
    assert freeze(config.replace(accelerate=False), models).tokenizer is None


# Recorded calls


class Rerun:
    """A device without graphs: a replay does the same work again and puts it where the recorded results lie."""

    def __init__(self) -> None:
        self.warm_ups, self.captures, self.replays = 0, 0, 0

    def warm_up(self, run):
        self.warm_ups += 1
        run()
        run()

    def capture(self, run, generators):
        self.captures += 1
        result = run()

        def replay():
            self.replays += 1
            for place, value in zip(tensors(result), tensors(run()), strict=True):
                place.copy_(value)

        return result, replay


def tensors(result) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    return [getattr(result, name) for name in ("frames", "actions", "rewards", "ends")]


def test_a_recorded_call_gives_what_the_call_gives():
    captured = Captured(lambda a, b: a @ b, graphs=Rerun())
    for _ in range(3):
        a, b = torch.randn(2, 3), torch.randn(3, 4)
        assert torch.equal(captured(a, b), a @ b)


def test_inputs_are_copied_and_results_overwritten_by_the_next_call():
    captured, x = Captured(lambda x: x + 1, graphs=Rerun()), torch.zeros(2)
    first = captured(x)
    x.fill_(9)
    assert first.tolist() == [1, 1]
    second = captured(torch.full((2,), 4.0))
    assert second is first
    assert first.tolist() == [5, 5]


def test_each_set_of_shapes_and_dtypes_is_recorded_once():
    graphs = Rerun()
    captured = Captured(lambda x: 2 * x, graphs=graphs)
    inputs = [torch.ones(2), torch.ones(3), torch.ones(2, dtype=torch.float64), torch.ones(1, 2)]
    for _ in range(3):
        for x in inputs:
            assert torch.equal(captured(x), 2 * x)
    assert (graphs.warm_ups, graphs.captures, graphs.replays) == (4, 4, 12)


def test_what_is_counted_is_what_a_replay_does_and_not_its_recording():
    captured, x = Captured(lambda x: x @ x, graphs=Rerun()), torch.ones(3, 3)
    expected = count_operations(lambda: x @ x)
    assert [count_operations(lambda: captured(x)), captured(x).sum(), count_operations(lambda: captured(x))] == [
        expected,
        27,
        expected,
    ]


def test_warming_up_and_recording_draw_nothing():
    recorded, plain = (torch.Generator().manual_seed(3) for _ in range(2))
    captured = Captured(lambda x: x + torch.rand(2, generator=recorded), generators=[recorded], graphs=Rerun())
    for _ in range(3):
        assert torch.equal(captured(torch.zeros(2)), torch.rand(2, generator=plain))
    assert torch.equal(recorded.get_state(), plain.get_state())


@pytest.mark.parametrize("failing", ["warm_up", "capture"])
def test_where_nothing_can_be_recorded_it_goes_on_after_one_warning(monkeypatch, failing):
    def refuse(*_):
        torch.rand(1, generator=generator)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Rerun, failing, refuse)
    generator, plain = (torch.Generator().manual_seed(3) for _ in range(2))
    captured = Captured(lambda x: x + torch.rand(2, generator=generator), generators=[generator], graphs=Rerun())
    with pytest.warns(UserWarning, match="no CUDA graph could be captured.*not permitted"):
        assert torch.equal(captured(torch.zeros(2)), torch.rand(2, generator=plain))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (2, 3):
            assert torch.equal(captured(torch.zeros(2)), torch.rand(2, generator=plain)), size


class FakeCUDA:
    """What `CUDAGraphs` asks of torch.cuda, of two GPUs of which the first is the current one."""

    def __init__(self, *, fails: bool) -> None:
        self.fails, self.current, self.log = fails, 0, []
        self.stream_now: dict[int, object] = {0: "main of 0", 1: "main of 1"}
        self.default_generators = [FakeGenerator(7), FakeGenerator(8)]

    @contextlib.contextmanager
    def device(self, device: torch.device):
        before, self.current = self.current, device.index
        try:
            yield
        finally:
            self.current = before

    def current_device(self):
        return self.current

    def current_stream(self):
        return self.stream_now[self.current]

    def set_stream(self, stream):
        self.stream_now[self.current] = stream

    def Stream(self):
        return f"another of {self.current}"

    def CUDAGraph(self):
        return types.SimpleNamespace(register_generator_state=self.log.append, replay=None)

    @contextlib.contextmanager
    def graph(self, graph, *, stream, capture_error_mode):
        before, self.stream_now[self.current] = self.current_stream(), stream
        self.log.append((stream, capture_error_mode))
        yield
        if self.fails:
            raise RuntimeError("capture failed")
        self.stream_now[self.current] = before


class FakeGenerator:
    def __init__(self, seed: int) -> None:
        self.state, self.renewed = torch.Generator().manual_seed(seed).get_state(), None

    def get_state(self):
        return self.state

    def graphsafe_set_state(self, generator):
        self.renewed = generator.get_state()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("torch_version", "registers"), [("2.13.0+cu130", True), ("2.14.1+cu130", False)])
def test_a_graph_is_captured_on_its_gpu_and_after_a_failure_all_is_as_before(
    monkeypatch, fails, torch_version, registers
):
    cuda, generator = FakeCUDA(fails=fails), FakeGenerator(3)
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch, "__version__", TorchVersion(torch_version))
    monkeypatch.setattr(torch, "Generator", lambda device: torch._C.Generator())
    graphs = CUDAGraphs(torch.device("cuda", 1))
    with pytest.raises(RuntimeError) if fails else contextlib.nullcontext():
        assert graphs.capture(lambda: "result", [generator]) == ("result", None)
    assert cuda.log == [*([generator] if registers else []), ("another of 1", "thread_local")]
    assert (cuda.current, cuda.stream_now) == (0, {0: "main of 0", 1: "main of 1"})
    for each in (generator, cuda.default_generators[1]):
        assert torch.equal(each.renewed, each.state) if fails else each.renewed is None
    assert cuda.default_generators[0].renewed is None


@pytest.mark.parametrize(
    ("changes", "recorded"),
    [({}, True), ({"accelerate": False}, False), ({"imagination_horizon": 5}, True)],
    ids=["as it is", "plain", "a context that overflows"],
)
def test_a_gpu_records_rollouts_unless_told_otherwise(monkeypatch, changes, recorded):
    config = IRISConfig.tiny(**changes)
    models = build_models(config, 3, "cpu")
    monkeypatch.setattr(Dynamics, "device", torch.device("cuda", 1))
    imagination = build_imagination(config, models, freeze(config, models), torch.Generator())
    assert isinstance(imagination, Captured) == recorded
    assert not recorded or imagination.graphs.device == torch.device("cuda", 1)


# Rollouts

HORIZONS = pytest.mark.parametrize("horizon", [4, 9], ids=["within the context", "beyond the context"])


def parts(config: IRISConfig, device: torch.device = CPU):
    """Models, and what a rollout starts from."""
    torch.manual_seed(0)
    models = build_models(config, 3, device)
    frames = torch.rand(4, 3, 64, 64, device=device)
    with torch.no_grad():
        tokens = models.tokenizer.encode(frames)
    return models, (tokens, frames, *models.actor_critic.initial_state(4))


def assert_same(one, other) -> None:
    for a, b in zip(tensors(one), tensors(other), strict=True):
        assert torch.equal(a, b)


@LAYOUTS
@HORIZONS
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_recorded_rollout_is_the_plain_one_number_for_number(layout, precision, horizon):
    config = IRISConfig.tiny(sequence_layout=layout, precision=precision, imagination_horizon=horizon)
    models, inputs = parts(config)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    plain, other = (build_imagination(config, models, freeze(config, models), source) for source in generators)
    captured = Captured(other, generators=[generators[1]], graphs=Rerun())
    seen = []
    for _ in range(3):
        expected = plain(*inputs)
        assert_same(captured(*inputs), expected)
        seen.append(expected.actions)
    assert not (torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2]))
    with torch.no_grad():  # weights that are written to later count at the next replay
        models.actor_critic.actor.bias.copy_(torch.tensor([-50.0, 50.0, -50.0]))
    assert (captured(*inputs).actions[:, :-1] == 1).all()


class ForeignTensors(TorchDispatchMode):
    """Tensors of the CPU that are met or made on the way, numbers in tensors aside, which kernels take by value."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        met = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if any(tensor.device.type == "cpu" and tensor.dim() for tensor in met):
            self.found.append(func.overloadpacket.__name__)
        return result


@LAYOUTS
@HORIZONS
def test_a_rollout_elsewhere_than_on_a_cpu_never_meets_it(layout, horizon):
    """Tensors without values take a GPU's branches: what came from the host would be a copy at each step there."""
    config = IRISConfig.tiny(sequence_layout=layout, imagination_horizon=horizon)
    models, inputs = parts(config)
    for module in models.by_name().values():
        module.to("meta")
    rollout = build_imagination(config, models, freeze(config, models), None)  # there are no generators for these
    inputs = [tensor.to("meta") for tensor in inputs]
    with ForeignTensors() as foreign:
        rollout(*inputs)
    assert foreign.found == []
    with ForeignTensors() as foreign:
        torch.tensor([1, 2]).to("meta")
    assert foreign.found


SYNCHRONISING = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "_unique2", "equal", "item"}
ASKING = {"cpu", "item", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__", "unique"}


class DispatchedSynchronisations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in SYNCHRONISING or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class AskedOfTensors(TorchFunctionMode):
    """What is no dispatch on a CPU, but would be a wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ASKING or (name == "to" and "cpu" in (*args[1:], *(kwargs or {}).values())):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def synchronisations(run) -> list[str]:
    with DispatchedSynchronisations() as dispatched, AskedOfTensors() as asked:
        run()
    return dispatched.found + asked.found


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
    ],
)
def test_waiting_for_the_device_would_be_noticed(wait):
    assert synchronisations(lambda: wait(torch.ones(3)))


@LAYOUTS
@HORIZONS
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_rollout_never_waits_for_the_device(layout, precision, horizon):
    config = IRISConfig.tiny(sequence_layout=layout, precision=precision, imagination_horizon=horizon)
    models, inputs = parts(config)
    imagination = build_imagination(config, models, freeze(config, models), torch.Generator())
    assert synchronisations(lambda: imagination(*inputs)) == []


@LAYOUTS
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["autoencoder", "world_model", "actor_critic"])
def test_a_gradient_never_waits_for_the_device(name, layout, precision):
    """From sampled rows to gradients. Behind them a CPU, which waits for nobody, is asked whether they are finite."""
    config, streams = IRISConfig.tiny(sequence_layout=layout, precision=precision), RandomStreams(0, CPU)
    models = build_models(config, 3, "cpu")
    learner = next(learner for learner in build_learners(config, models, streams) if learner.name == name)
    with build_replay(config, None) as replay:
        fill_with_noise(replay, 30, 3)
        plan = learner.plan
        segment = replay.sample_segments(
            plan.batch_size, plan.segment_length, generator=streams.sampling, align=plan.align
        )
        assert synchronisations(lambda: learner._backward(learner._prepared(segment))) == []


@pytest.mark.parametrize("precision, most", [("float32", 125), ("bf16", 163)])
def test_how_many_operations_a_pass_of_the_default_dispatches(precision, most):
    """In bf16 a CPU attends by plain products, and scales and hides by operations of their own."""
    config = IRISConfig(precision=precision)
    models = build_models(config, 4, "cpu")
    world_model = build_dynamics(models, freeze(config, models)).world_model
    assert len(world_model.transformer.blocks) == 10
    cache, token = world_model.transformer.empty_cache(2), torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        assert count_operations(lambda: world_model.next_token(token, cache)) <= most


# On a GPU


@pytest.mark.gpu
@LAYOUTS
@HORIZONS
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_graphs_give_what_the_plain_path_gives(layout, horizon, temperature, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # else sums of a decoder may come in any order
    cuda = torch.device("cuda")
    config = IRISConfig.tiny(sequence_layout=layout, precision="float32")
    models, inputs = parts(config, cuda)
    dynamics = build_dynamics(models, freeze(config, models)).with_options(overflow_context=1, temperature=temperature)
    generators = [torch.Generator(cuda).manual_seed(5) for _ in range(2)]
    plain, other = (imagine(dynamics, models.actor_critic, horizon=horizon, generator=source) for source in generators)
    captured = Captured(other, graphs=CUDAGraphs(cuda), generators=[generators[1]])
    for _ in range(3):
        assert_same(captured(*inputs), plain(*inputs))


@pytest.mark.gpu
@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_no_update_waits_for_the_gpu(accelerated, precision):
    cuda = torch.device("cuda")
    config = IRISConfig.tiny(accelerate=accelerated, precision=precision)
    streams = RandomStreams(0, cuda)
    models = build_models(config, 3, cuda)
    with build_replay(config, None, device=cuda) as replay:
        fill_with_noise(replay, 30, 3)
        assert (replay._mirror is not None) == accelerated
        for learner in build_learners(config, models, streams):
            arguments = learner.plan.batch_size, learner.plan.segment_length

            def update(learner=learner, arguments=arguments) -> None:
                drawn = replay.sample_segments(*arguments, generator=streams.sampling, align=learner.plan.align)
                learner.update(drawn, 1)

            update()  # records graphs, initialises libraries
            try:
                torch.cuda.set_sync_debug_mode("error")
                update()
            finally:
                torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@HORIZONS
def test_no_rollout_waits_for_the_gpu(horizon):
    cuda = torch.device("cuda")
    config = IRISConfig.tiny(imagination_horizon=horizon)
    models, inputs = parts(config, cuda)
    imagination = build_imagination(config, models, freeze(config, models), torch.Generator(cuda))
    assert isinstance(imagination, Captured)
    imagination(*inputs)
    try:
        torch.cuda.set_sync_debug_mode("error")
        imagination(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_gpu_sees_the_tokens_that_a_cpu_sees():
    frames, tokens = torch.rand(64, 3, 64, 64), []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        models = build_models(IRISConfig.tiny(precision="float32"), 3, device)
        with products(tf32=False), torch.no_grad():
            tokens.append(models.tokenizer.encode(frames.to(device)).cpu())
    assert (tokens[0] == tokens[1]).float().mean() > 0.99  # sums are rounded in another order


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_an_agent_of_a_gpu_learns_goes_on_and_travels(precision, tmp_path):
    config = IRISConfig.tiny(precision=precision, imagination_horizon=4)
    agent = IRISAgent("MinAtar/Breakout-v1", config, seed=0, device="cuda", run_dir=tmp_path / "run").learn(60)
    agent = IRISAgent.resume(tmp_path / "run", device="cuda").learn(100)
    assert agent.num_timesteps == 100
    assert all(value.isfinite().all() for model in agent.models.by_name().values() for value in model.parameters())
    agent.make_dream_env(2).reset(seed=0)
    agent.save(tmp_path / "agent.zip")
    observation = np.zeros((64, 64, 3), np.uint8)
    chosen = [
        IRISAgent.load(tmp_path / "agent.zip", device=device).predict(observation)[0] for device in ("cpu", "cuda")
    ]
    assert all(0 <= int(action) < 3 for action in chosen)
