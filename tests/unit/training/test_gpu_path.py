"""The path of a GPU, as far as it goes without one: on torch's fake tensors every operation knows its device and dtype, and
reading a value, which on a GPU would wait for it, is an error. Nothing is computed, so nothing is measured."""

import pytest
import torch
from tiny_models import tiny_architectures
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from common.base import device
from common.base.device import choose_amp, choose_device
from common.base.errors import UserError
from common.base.processes import Processes
from common.data.batches import Batches
from common.model.build import set_trainable
from common.model.predict import predict
from common.training.features import FeatureBatches
from common.training.optim import Average, build_loss, build_sgd, parameter_groups
from common.training.step import train_step

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture
def fake(monkeypatch):
    """Fake tensors, on a GPU that computes in bf16 and fp16."""
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *args, **kwargs: True)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.amp.grad_scaler.amp_definitely_not_available", lambda: False, raising=False)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def tiny(finetune: str = "full") -> nn.Module:
    with GPU:
        return set_trainable(tiny_architectures()["resnext50_32x4d"](num_classes=10), finetune)


def batches(augment: str = "basic", training: bool = True) -> Batches:
    images, labels = torch.zeros(11, 3, 16, 16, dtype=torch.uint8), torch.arange(11) % 10
    return Batches(images, labels, torch.arange(11), 8, 24, GPU, augment=augment, flip=True, training=training)


def without_gpu_kernels(monkeypatch, model: nn.Module) -> list[dict]:
    """In place of what asks for a real GPU, autograd's engine and the fused optimizer's kernel → the kernel's calls."""

    def backward(loss: torch.Tensor) -> None:
        assert loss.device == GPU and loss.dtype == torch.float32
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)

    calls = []

    def fused_sgd(parameters, gradients, momenta, **options) -> None:
        assert {tensor.device for tensors in (parameters, gradients, momenta) for tensor in tensors} == {GPU}
        calls.append(options)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch, "_fused_sgd_", fused_sgd)
    return calls


def test_fake_tensors_refuse_to_be_read(fake):
    with pytest.raises(DataDependentOutputException):
        torch.zeros(3, device=GPU).sum().item()


def test_data_lies_on_the_device_and_batches_are_made_there(fake):
    made = batches()
    assert made.images.device == made.labels.device == GPU
    for images, labels in made.epoch(0):
        assert images.device == labels.device == GPU
        assert images.shape[1:] == (3, 24, 24) and images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16], ids=str)
def test_a_step_stays_on_the_device_in_the_precision_asked_for(amp, fake, monkeypatch):
    model, dtypes = tiny("partial"), set()
    model.layer4.register_forward_hook(lambda module, inputs, output: dtypes.add((output.device, output.dtype)))
    optimizer = build_sgd(parameter_groups(model, 0.1, 5e-4), 0.1, 0.9, True, GPU)
    scaler = torch.amp.GradScaler("cuda", enabled=amp is torch.float16)
    calls = without_gpu_kernels(monkeypatch, model)
    loss_fn, sums = build_loss("cross_entropy", 0.1), torch.zeros(3, device=GPU)
    for images, labels in batches().epoch(0):
        sums += train_step(model, images, labels, loss_fn, optimizer, scaler, amp)
    assert sums.device == GPU and dtypes == {(GPU, amp or torch.float32)}
    assert len(calls) == 2 * len(optimizer.param_groups)
    for options in calls:  # the kernel itself skips a step that overflowed, so that nobody has to look
        assert (options["found_inf"] is not None) == (options["grad_scale"] is not None) == (amp is torch.float16)


class NoWaiting(TorchDispatchMode):
    """Refuses what waits for a GPU: a copy to or from it that is not asked to go on alone, and one from ordinary memory that does not
    fit into a command, 64 KB, which waits whatever it is asked."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation is torch.ops.aten._to_copy.default:
            source, target = args[0].device, torch.device(kwargs.get("device") or args[0].device)
            self.check(args[0], source, target, kwargs.get("non_blocking", False))
        elif operation is torch.ops.aten.copy_.default:
            self.check(args[1], args[1].device, args[0].device, len(args) > 2 and args[2])
        return operation(*args, **kwargs)

    @staticmethod
    def check(tensor: torch.Tensor, source: torch.device, target: torch.device, non_blocking: bool) -> None:
        if source.type != target.type:
            assert non_blocking and tensor.nbytes <= 65536, (
                f"{tensor.nbytes} bytes from {source} to {target} wait for it"
            )


def test_a_copy_that_waits_is_seen(fake):
    small, large = torch.zeros(3), torch.zeros(2**15)
    with NoWaiting():
        small.to(GPU, non_blocking=True)
        for waits in (lambda: small.to(GPU), lambda: large.to(GPU, non_blocking=True), torch.zeros(3, device=GPU).cpu):
            with pytest.raises(AssertionError, match="wait for it"):
                waits()


@pytest.mark.parametrize("augment", ["none", "basic"])
def test_no_step_copies_what_it_would_have_to_wait_for(augment, fake, monkeypatch):
    model = tiny()
    optimizer = build_sgd(parameter_groups(model, 0.1, 5e-4), 0.1, 0.9, True, GPU)
    scaler, sums = torch.amp.GradScaler("cuda", enabled=False), torch.zeros(3, device=GPU)
    without_gpu_kernels(monkeypatch, model)
    images = torch.zeros(80, 3, 32, 32, dtype=torch.uint8)
    made = Batches(
        images, torch.arange(80) % 10, torch.arange(80), 40, 24, GPU, augment=augment, flip=True, training=True
    )
    with NoWaiting():
        for batch in made.epoch(0):
            sums += train_step(model, *batch, build_loss("cross_entropy", 0.1), optimizer, scaler, torch.bfloat16)
    assert sums.device == GPU


def test_the_average_copies_nothing_between_devices():
    """On the meta device: a copy of a fake tensor, which an average begins with, is not safe to free."""
    with torch.device("meta"):
        model = tiny_architectures()["resnext50_32x4d"](num_classes=10)
    average = Average(model, 0.9)
    with NoWaiting():
        for _ in range(2):
            average.update_parameters(model)
    assert int(average.n_averaged) == 2


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_a_mixed_batch_takes_the_same_step(loss, fake, monkeypatch):
    with GPU:
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    optimizer = build_sgd(parameter_groups(model, 0.1, 0.0), 0.1, 0.9, False, GPU)
    without_gpu_kernels(monkeypatch, model)
    images, soft = torch.zeros(4, 3, 8, 8, device=GPU), torch.full((4, 10), 0.1, device=GPU)
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    assert train_step(model, images, soft, build_loss(loss), optimizer, scaler).device == GPU


def test_predictions_come_back_as_float32_on_the_cpu(fake):
    logits, labels = predict(tiny(), batches(training=False).epoch(0), GPU, torch.bfloat16)
    assert logits.shape == (11, 10) and logits.dtype == torch.float32 and logits.device.type == "cpu"
    assert labels.shape == (11,) and labels.device.type == "cpu"


def test_kept_features_lie_on_the_device(fake):
    kept = FeatureBatches(torch.zeros(20, 2, 7, device=GPU), torch.zeros(20, device=GPU), 8, 0, Processes())
    for features, labels in kept.epoch(1):
        assert features.device == labels.device == GPU and features.shape[1:] == (7,)


def test_frozen_statistics_stay_frozen_when_several_gpus_share_theirs():
    model = set_trainable(tiny_architectures()["resnext50_32x4d"](num_classes=10), "partial")
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model).train()
    assert isinstance(model.bn1, nn.SyncBatchNorm)
    assert not model.bn1.training and not model.layer2[0].bn1.training and model.layer3[0].bn1.training


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_takes_a_gpu_of_its_own(name, two_gpus, monkeypatch):
    assert choose_device(name) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device(name) == torch.device("cuda", 1)
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=f"--device is {name}, but torch sees 2 CUDA devices"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:2", "gpu", "meta"])
def test_a_device_that_is_not_there_is_refused(name, two_gpus):
    with pytest.raises(UserError, match=f"--device is '?{name}"):
        choose_device(name)


def test_mixed_precision_is_what_the_device_computes_in(monkeypatch):
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True, s=supported: s)
        assert choose_amp("auto", GPU) == dtype
    for has_bf16, dtype in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(device, "_cpu_has_bf16", lambda has=has_bf16: has)
        assert choose_amp("auto", CPU) == dtype
    assert [choose_amp(name, GPU) for name in ("none", "bf16", "fp16")] == [None, torch.bfloat16, torch.float16]


@pytest.mark.parametrize(
    "capability, amx, avx512_bf16, expected",
    [
        ("AVX512", True, True, torch.bfloat16),  # Sapphire Rapids
        ("AVX512", False, True, torch.bfloat16),  # Zen 4
        ("AVX512", False, False, None),  # Skylake
        ("AVX2", False, True, None),  # a Zen 4 that ATEN_CPU_CAPABILITY holds back
        ("AVX512", None, None, None),  # a torch that doesn't say
    ],
)
def test_a_processor_trains_in_bf16_when_it_multiplies_in_it(capability, amx, avx512_bf16, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for name, has in {"_is_amx_tile_supported": amx, "_is_avx512_bf16_supported": avx512_bf16}.items():
        if has is None:
            monkeypatch.delattr(torch.cpu, name)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda has=has: has)
    assert choose_amp("auto", CPU) == expected


def test_a_cpu_trains_in_bf16_only_where_its_gradients_are_right(monkeypatch):
    monkeypatch.setattr(device, "_cpu_has_bf16", lambda: True)
    assert choose_amp("auto", CPU, 16) is None and choose_amp("auto", CPU, 17) == torch.bfloat16
    with pytest.raises(UserError, match="--amp is bf16"):
        choose_amp("bf16", CPU, 16)
    assert choose_amp("bf16", GPU, 16) == torch.bfloat16 == choose_amp("bf16", CPU, 17)

    convolution = nn.Conv2d(64, 64, 3, stride=2, padding=1, groups=32, bias=False)
    for pixels in (2, 3, 7):  # at the last stage, of images of 17, 33 and 224 px
        images = torch.randn(8, 64, pixels, pixels)
        gradients = []
        for amp in (False, True, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
                answer = convolution(images)
            gradients += torch.autograd.grad(answer, convolution.weight, torch.ones_like(answer))
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0.05, atol=0.05)
        assert torch.equal(gradients[1], gradients[2])
