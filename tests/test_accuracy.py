"""What the results say, as floors that slow tests keep: accuracy on real paintings, and the autoencoder's error."""

import json

import jobs
import pytest

SHARED = jobs.ROOT.parent / "shared"
WEIGHTS = SHARED / "mobilenet_v2_imagenet.pth"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WEIGHTS.exists(), reason="needs the real paintings and weights in ../shared"),
    pytest.mark.usefixtures("full_networks"),
]
FLOORS = {  # about three standard deviations below the mean of docs/results.md
    "from scratch": (["--image_size", 64, "--epochs", 4], 0.39),
    "transfer": (["--image_size", 96, "--epochs", 0, "--architecture", "mobilenet_v2", "--pretrained", WEIGHTS], 0.56),
}


def metrics(tmp_path, train, test, *flags):
    folders = ["--trainingdir", SHARED / "wikiart16" / "train", "--testingdir", SHARED / "wikiart16" / "test"]
    common = [*folders, "--outputdir", tmp_path, "--cachedir", tmp_path / "cache"]
    assert jobs.call(train, *common, *flags).status == jobs.call(test, *common).status == 0
    return json.loads(next(tmp_path.glob("metrics_*.json")).read_text())


@pytest.mark.parametrize("name", FLOORS)
def test_part_1_is_as_good_as_documented(name, tmp_path):
    flags, floor = FLOORS[name]
    assert metrics(tmp_path, "trainpart1", "testtrainpart1", *flags)["accuracy"] >= floor


def test_part_2_is_better_than_its_pca(tmp_path):
    found = metrics(tmp_path, "trainauto", "testtrainauto", "--image_size", 64, "--epochs", 4)
    assert found["mse"] < 0.95 * found["pca_mse"] and found["spaces"]["style"]["ami"] > 0.12
