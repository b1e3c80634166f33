"""How many functions stand between `fit` and the arithmetic."""

import sys
from pathlib import Path

import numpy as np
import pytest

import torchlogreg
from torchlogreg import TorchSoftmaxClassifier
from torchlogreg._data.dense import DenseDesign
from torchlogreg._solvers.lbfgs import LBFGS

PACKAGE = str(Path(torchlogreg.__file__).parent)


@pytest.mark.usefixtures("one_thread")
def test_at_most_eleven_frames_lie_between_fit_and_a_product(monkeypatch):
    """Three of them are the seam to other processes: `led`, `total` and the sums over rows."""
    product, stacks = DenseDesign.flat_matvec, []

    def noted(*arguments):
        frame, names = sys._getframe(1), []
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGE):
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        stacks.append(names)
        return product(*arguments)

    monkeypatch.setattr(DenseDesign, "flat_matvec", noted)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((8000, 30))
    y = (X @ rng.standard_normal((30, 3))).argmax(axis=1)
    TorchSoftmaxClassifier(solver=LBFGS.name, C=0.1).fit(X, y)
    plain = [names for names in stacks if "step" in names and not {"second_order", "newton_on_samples"} & set(names)]
    assert plain
    for names in plain:
        assert names[-1] == "fit"
        assert len(names) - 1 <= 11, names
