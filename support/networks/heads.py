"""The linear heads of a classifier, and how one is fitted to features instead of being trained."""

import warnings

import torch
from torch import Tensor, nn

from support.system import processes
from support.system.console import UserError

EPS = 1e-4  # a tenth of the typical variance of one statistic: rare colours and patterns are amplified less
NEVER = -20.0  # logit of a style without paintings
C = 0.002  # of the logistic regression: the inverse of its L2 penalty


class Head(nn.Module):
    """Features, standardized unless told otherwise, and a linear layer: float [B, width] -> logits [B, classes]."""

    def __init__(self, width: int, classes: int, standardized: bool = True) -> None:
        super().__init__()
        self.standardize = nn.BatchNorm1d(width, eps=EPS, affine=False) if standardized else nn.Identity()
        if standardized:
            self.standardize.running_var.fill_(1e-3)  # so that the running variance converges in a few steps
        self.linear = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.standardize(features))


def fit(features: Tensor, labels: Tensor, classes: int, balanced: bool, standardized: bool = True) -> Head:
    """A head that is scikit-learn's logistic regression, on the CPU, in eval mode and without gradients.

    features: float32 [N, width]; labels: int64 [N], below `classes`. balanced: whether every style has the same weight,
    or every painting. A style without labels is never predicted. The first process fits, and all get the same head.
    Raises UserError for features that are not finite.
    """
    if not features.isfinite().all():
        raise UserError("the features are not finite, so the head cannot be fitted; try a lower learning_rate")
    head = Head(features.shape[1], classes, standardized).requires_grad_(False).eval()
    if standardized:
        mean, variance = features.mean(0), features.var(0, correction=0)
        head.standardize.running_mean.copy_(mean)
        head.standardize.running_var.copy_(variance)
        features = (features - mean).div_((variance + EPS).sqrt())  # all of WikiArt takes gigabytes
    if processes.rank() == 0:
        _regress(head.linear, features, labels, balanced)
    head.load_state_dict(processes.from_first(head.state_dict()))
    return head


def _regress(linear: nn.Linear, features: Tensor, labels: Tensor, balanced: bool) -> None:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    regression = LogisticRegression(C=C, class_weight="balanced" if balanced else None, max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last iterations change next to nothing
        regression.fit(features.numpy(), labels.numpy())
    weight, bias = torch.from_numpy(regression.coef_), torch.from_numpy(regression.intercept_)
    if len(weight) == 1:  # two styles have one logit, the difference of ours
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    linear.weight.zero_()
    linear.bias.fill_(NEVER)
    linear.weight[regression.classes_] = weight.to(linear.weight)
    linear.bias[regression.classes_] = bias.to(linear.bias)
