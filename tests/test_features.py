"""support/networks/features.py: what a fitted head reads, computed once and cached."""

import copy

import jobs
import pytest
import torch

import wikiart
from support.networks import features
from support.training import balance, batches

S = 32


@pytest.fixture
def model():
    """A network whose batch norms, as after a training, do something."""
    torch.manual_seed(4)
    model = wikiart.make_classifier("shufflenet_v2_x0_5", 3, S)
    with torch.no_grad():
        for norm in [module for module in model.trunk.modules() if isinstance(module, torch.nn.BatchNorm2d)]:
            for values in norm.weight, norm.bias, norm.running_mean, norm.running_var:
                values.copy_(torch.rand_like(values) + 0.5)
    return model


def make_loader(plan=None, size=23):
    random = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (23, 3, S, S), dtype=torch.uint8, generator=random)
    return batches.Batches(images[:size], torch.arange(size) % 3, torch.device("cpu"), plan)


def test_features_are_those_of_every_painting_and_synthetic_one(model, tmp_path):
    base, neighbour, weight = torch.tensor([1, 4]), torch.tensor([4, 7]), torch.tensor([0.25, 0.5])
    loader = make_loader(balance.SmotePlan(base, neighbour, weight, torch.tensor([1, 1])))
    found = features.compute(model, loader, torch.arange(25), tmp_path / "a.uint8")
    first, second = loader.images[base].float(), loader.images[neighbour].float()
    with torch.no_grad():
        blended = torch.lerp(first, second, weight.view(-1, 1, 1, 1))
        expected = model.all_features(torch.cat([loader.images, blended]) / 255)
    assert found.dtype == torch.float32 and torch.allclose(found[:23], expected[:23], atol=1e-4)
    assert (found - expected).abs().mean() < 1e-4  # rounding in the blend moves single pixels in histograms
    some = torch.tensor([7, 2, 24])
    assert torch.allclose(features.compute(model, loader, some, tmp_path / "a.uint8"), found[some], atol=1e-4)


def test_features_are_cached_until_weights_or_paintings_change(model, tmp_path, monkeypatch):
    before = copy.deepcopy(model.state_dict())

    def computed(size=23):
        return features.compute(model, make_loader(size=size), torch.arange(size), tmp_path / "a.uint8")

    first = computed()
    assert jobs.same(dict(model.state_dict()), dict(before))  # a copy is folded: the model keeps its batch norms
    folded = copy.deepcopy(model)
    features.fold_batch_norms(folded.trunk)
    assert "BatchNorm2d" not in str(folded.trunk)
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("a.") and path.suffix == ".pth"  # goes when the paintings' own file goes
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(model, "all_features", None)
        model.head.linear.weight.add_(1)  # which is not read
        assert torch.equal(computed(), first)
    path.write_bytes(path.read_bytes()[:-200])
    assert torch.equal(computed(), first)  # a damaged file is made again
    assert list(tmp_path.iterdir()) == [path]
    assert torch.allclose(computed(9), first[:9], atol=1e-5)  # some cannot be read any more
    with torch.no_grad():
        model.trunk.conv1[0].weight[0].add_(1)
    assert not torch.equal(computed(), first) and len(list(tmp_path.iterdir())) == 3


def test_other_code_computes_features_again_and_removes_the_old(model, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(features, "CODE", tmp_path)
    monkeypatch.setattr(features, "code_version", features.code_version.__wrapped__)
    for changed in "wikiart.py", "support/levels.py", "support/networks/new.py":
        (tmp_path / changed).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / changed).write_text("STEP = 2\n")
        paths = [features.cache_path(cache / name, model, 23) for name in ("x-32-1.uint8", "y-32-1.uint8")]
        assert not any(path.exists() for path in paths)
        for path in paths:
            features.cached(path, lambda: torch.ones(3))
        assert sorted(cache.iterdir()) == sorted(paths)


def test_where_features_cannot_be_cached_is_a_warning(tmp_path, capsys):
    (tmp_path / "cache").write_text("no folder")
    found = features.cached(tmp_path / "cache" / "a.pth", lambda: torch.ones(3))
    assert torch.equal(found, torch.ones(3)) and "a.pth: cannot be written" in capsys.readouterr().err
