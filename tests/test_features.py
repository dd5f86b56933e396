"""support/networks/features.py: what a fitted head reads, computed once and cached."""

import copy
import shutil

import jobs
import pytest
import torch

import wikiart
from support.networks import features
from support.training import balance, batches

ARCHITECTURE, S = "shufflenet_v2_x0_5", 32
CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(4)
    return wikiart.make_classifier(ARCHITECTURE, 3, S)


def make_loader(plan=None, size=23):
    random = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (23, 3, S, S), dtype=torch.uint8, generator=random)
    return batches.Batches(images[:size], torch.arange(size) % 3, CPU, plan)


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
    for beside in None, tmp_path / "a.uint8":
        assert torch.allclose(features.compute(model, loader, some, beside), found[some], atol=1e-4)
    assert len(list(tmp_path.iterdir())) == 1  # without a file to cache them beside, none is written


def test_features_are_cached_until_weights_or_paintings_change(model, tmp_path, monkeypatch):
    before = copy.deepcopy(model.state_dict())

    def computed(size=23):
        return features.compute(model, make_loader(size=size), torch.arange(size), tmp_path / "a.uint8")

    first = computed()
    assert jobs.same(dict(model.state_dict()), dict(before))  # a copy is folded: the model keeps its batch norms
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


def test_features_are_not_those_of_other_code(model, tmp_path, monkeypatch):
    shutil.copytree(jobs.ROOT / "support", tmp_path / "support")
    shutil.copy(jobs.ROOT / "wikiart.py", tmp_path)
    paths = [features.cache_path("a.uint8", model, 23)]
    monkeypatch.setattr(features, "CODE", tmp_path)
    for changed in "wikiart.py", "support/networks/levels.py", "support/folder/new.py", None:
        features.code_version.cache_clear()
        paths.append(features.cache_path("a.uint8", model, 23))
        if changed:
            (tmp_path / changed).parent.mkdir(exist_ok=True)
            with open(tmp_path / changed, "a") as file:
                file.write("STEP = 2\n")
    features.code_version.cache_clear()
    assert len(set(paths)) == 5  # the first one is of code with four scripts that are not in the copy


def test_features_of_other_code_are_removed(model, tmp_path, monkeypatch):
    for code in "a" * 64, "b" * 64:
        monkeypatch.setattr(features, "code_version", lambda code=code: code)
        path = features.cache_path(tmp_path / "x-32-1.uint8", model, 23)
        features.cached(path, lambda: torch.ones(3))
        features.cached(path.with_name(path.name.replace("x-", "y-")), lambda: torch.ones(3))
    assert sorted(file.name[:14] for file in tmp_path.iterdir()) == ["x-32-1.bbbbbbb", "y-32-1.bbbbbbb"]


def test_where_features_cannot_be_cached_is_a_warning(tmp_path, capsys):
    (tmp_path / "cache").write_text("no folder")
    found = features.cached(tmp_path / "cache" / "a.pth", lambda: torch.ones(3))
    assert torch.equal(found, torch.ones(3)) and "a.pth: cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("architecture", ["residual", "mobilenet_v2", "densenet121", ARCHITECTURE])
def test_folded_batch_norms_change_no_feature(architecture):
    torch.manual_seed(7)
    model = wikiart.make_classifier(architecture, 3, S).eval()
    norms = [module for module in model.trunk.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            for values in norm.weight, norm.bias, norm.running_mean, norm.running_var:
                values.copy_(torch.rand_like(values) + 0.5)
        images = torch.rand(4, 3, S, S)
        quick = copy.deepcopy(model)
        features.fold_batch_norms(quick.trunk)
        expected, found = model.all_features(images), quick.all_features(images)
    assert len([module for module in quick.modules() if isinstance(module, torch.nn.BatchNorm2d)]) < len(norms)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max())
