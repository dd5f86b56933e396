"""Device, precision and random seeds."""

import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import trainpart1
import wikiart
from support.system import devices, processes, settings
from support.training import augmentation


def read(*flags):
    return settings.read("classifier", "", [str(flag) for flag in flags])


@pytest.mark.parametrize("device", ["nothing", "cuda:99", "meta", ""])
def test_a_device_that_cannot_be_used_is_one_line(workdir, refused, listing, device):
    line = refused(trainpart1, "--device", device)
    assert line.startswith("--device: ") and device in line
    assert listing(workdir) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU that can be used")
@pytest.mark.parametrize(("build", "why"), [(None, "it is a build for the CPU"), ("13.0", "driver may be too old")])
def test_a_gpu_that_torch_cannot_use_is_a_warning(monkeypatch, tmp_path, capsys, build, why):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", str(tmp_path / "nvidiactl"))
    monkeypatch.setattr(torch.version, "cuda", build)
    assert devices.start(read()).type == "cpu" and not capsys.readouterr().err
    (tmp_path / "nvidiactl").touch()
    assert devices.start(read()).type == "cpu" and why in capsys.readouterr().err
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for flags in ([], ["--device", "cpu"]):  # as was asked
        assert devices.start(read(*flags)).type == "cpu" and not capsys.readouterr().err


@pytest.fixture
def two_processes(monkeypatch):
    """This process is the first of two, and the other is not waited for."""
    for name in processes.TORCHRUN:
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in "init_process_group", "all_reduce":
        monkeypatch.setattr(torch.distributed, name, lambda _: None)


@pytest.mark.parametrize(("batch_size", "warns"), [(30, True), (32, False)])
def test_few_paintings_per_process_are_a_warning(two_processes, capsys, batch_size, warns):
    devices.start(read("--device", "cpu", "--batch_size", batch_size))
    assert ("15 paintings per step and process" in capsys.readouterr().err) == warns


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [("--batch_size", 63, "shared evenly by 2"), ("--batch_size", 2, "at least 2"),
     ("--device", "cuda:0", 'got "cuda:0" for 2 processes')],
)  # fmt: skip
def test_what_several_processes_cannot_share_is_one_line(workdir, refused, two_processes, flag, value, words):
    line = refused(trainpart1, "--device", "cpu", flag, value)
    assert line.startswith(f"{flag}: ") and words in line


@pytest.mark.parametrize(
    ("name", "bfloat16", "capability", "expected"),
    [
        ("NVIDIA H100", True, (9, 0), torch.bfloat16),
        ("Tesla T4", False, (7, 5), torch.float16),
        ("NVIDIA GeForce GTX 1660", False, (7, 5), torch.float32),  # its float16 convolutions can give NaN
        ("NVIDIA GeForce GTX 1080", False, (6, 1), torch.float32),
    ],
)
def test_a_gpu_gets_the_fastest_precision_that_it_has(monkeypatch, capsys, name, bfloat16, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert devices.precision(torch.device("cuda", 0)) == expected


def can_fake_cuda() -> bool:
    """Older versions of torch, built for CUDA, need a driver to fill even a fake tensor."""
    with contextlib.suppress(RuntimeError), FakeTensorMode():
        return bool(torch.empty(1, device="cuda").uniform_().is_cuda)
    return False


@pytest.mark.skipif(not can_fake_cuda(), reason="this version of torch has no fake CUDA tensors without a driver")
@pytest.mark.parametrize("network", ["residual", "autoencoder"])
def test_nothing_leaves_the_gpu_between_a_batch_and_its_loss(network, monkeypatch):
    """With fake tensors, which have a device and no values: an operation of tensors on two devices raises."""
    monkeypatch.setattr(devices, "precision", lambda device: torch.float32)
    cuda = torch.device("cuda", 0)
    with FakeTensorMode():
        with cuda:
            model = wikiart.Autoencoder(32, 8) if network == "autoencoder" else wikiart.make_classifier(network, 3, 32)
        images, labels = torch.empty(8, 3, 32, 32, device=cuda), torch.empty(8, dtype=torch.int64, device=cuda)
        if network == "autoencoder":
            loss = wikiart.autoencoder_loss(model, augmentation.crop_and_flip(images, 32))
            results = [loss, wikiart.embed(model, images), model.decode(model.encode(images))]
        else:
            loss = wikiart.classifier_loss(model, augmentation.crop_and_flip(images, 24), labels)
            results = [loss, wikiart.classify(model.eval(), images, flips=True)]
            assert model.takes(24)  # a discriminant asks with the model on the GPU
        assert all(value.device == cuda for value in results)
        with pytest.raises(RuntimeError, match="device"):
            wikiart.classifier_loss(torch.nn.Flatten(), images, labels.cpu())
