"""Paintings that may have a wrong label: predicted by heads that have not seen them, and ranked."""

import csv
import warnings

import jobs
import numpy as np
import pytest
import torch
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

import testtrainpart1
import trainpart1
import wikiart
from support.answers import suspects
from support.networks import heads
from support.system import console

S = 32


def test_probabilities_are_scikit_learns_of_heads_that_have_not_seen_a_painting_or_its_copy():
    torch.manual_seed(2)
    labels, groups = torch.arange(60) % 3, torch.arange(60) // 2 * 2  # every painting has a copy, of another style
    groups[40:] = torch.arange(40, 60)
    features = torch.randn(60, 20) + labels[:, None]
    found = suspects.predict_out_of_fold(features, labels, groups, False, 5)
    folds = StratifiedGroupKFold(suspects.FOLDS, shuffle=True, random_state=5)
    model, arrays = LogisticRegression(C=heads.C, max_iter=1000), (features.numpy(), labels.numpy())
    expected = cross_val_predict(model, *arrays, groups=groups.numpy(), cv=folds, method="predict_proba")
    assert np.allclose(found.numpy(), expected, atol=1e-3)


def test_rare_styles_are_not_judged_and_the_others_are_ranked_by_the_probability_of_their_label():
    torch.manual_seed(3)
    labels = torch.tensor([0] * 20 + [1] * 20 + [2] * 3)
    features = torch.randn(43, 10) + 3.0 * labels[:, None]
    labels[[4, 30]] = torch.tensor([1, 0])  # wrong
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = suspects.predict_out_of_fold(features, labels, torch.arange(43), True, 0).numpy()
    assert np.isnan(found[40:]).all() and np.allclose(found[:40].sum(1), 1, atol=1e-5)
    order = suspects.rank(found, labels.numpy())
    assert sorted(order) == list(range(40)) and set(order[:2]) == {4, 30}
    quality = get_label_quality_scores(labels[:40].numpy(), found[:40, :2], method="self_confidence")
    assert np.allclose(quality[order], np.sort(quality), atol=1e-6)
    with pytest.raises(console.DataError, match="1 style with 4 paintings or more, expected at least 2"):
        suspects.predict_out_of_fold(features, labels, torch.where(labels == 0, torch.arange(43), 99), True, 0)


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_changed_label_is_found_by_the_script(epochs, tmp_path, paint, run, drawn):
    paint(tmp_path / "train", {"A": 14, "B": 12})
    (tmp_path / "train" / "A" / "003.jpg").rename(tmp_path / "train" / "B" / "wrong.jpg")
    torch.manual_seed(0)
    torch.save(wikiart.make_classifier("shufflenet_v2_x0_5", 2, S).trunk.state_dict(), tmp_path / "w.pth")
    flags = jobs.flags(tmp_path / "train", tmp_path, "--image_size", S, "--architecture", "shufflenet_v2_x0_5")
    more = ["--pretrained", tmp_path / "w.pth", "--validation", 0, "--epochs", epochs]
    assert run(trainpart1, *flags, *more).status == 0
    places = ["--trainingdir", tmp_path / "train", "--cachedir", tmp_path / "cache", "--outputdir", tmp_path]
    done = run(testtrainpart1, *places, "--suspects")
    assert done.status == 0 and ("trained on these labels" in done.err) == bool(epochs)
    rows = list(csv.DictReader((tmp_path / "suspects.csv").read_text().splitlines()))
    assert len(rows) == 26 and rows[0]["path"].endswith("wrong.jpg") and rows[0]["style"] == "B"
    values = [float(row["probability"]) for row in rows]
    assert values == sorted(values) and rows[0]["predicted"] == "A" and float(rows[0]["predicted_probability"]) > 0.5
    assert not (tmp_path / "metrics_part1.json").exists() and "wrong.jpg: B " in done.out
    titles = [axes.get_title() for axes in drawn["suspects.png"].axes]
    assert titles[0].startswith("B ") and "\nor A " in titles[0] and sum(map(bool, titles)) == suspects.SHOWN


def test_suspects_and_predictions_are_not_asked_for_at_once(workdir, refused):
    assert refused(testtrainpart1, "--suspects", "--predict", "a.jpg") == "--suspects cannot be given with --predict"
