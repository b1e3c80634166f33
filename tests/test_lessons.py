"""Hand-written torch lessons, each by one call of `fit`: the figures they print, and an independent loop.

A figure written with fewer digits than its tolerance asks for is compared to half a unit of its last digit.
"""

import numpy as np
import pytest
import torch
from helpers import DETERMINISTIC, needs_data
from torch.nn.functional import binary_cross_entropy_with_logits

from torchlogreg import TorchLogisticRegression
from torchlogreg.datasets import fetch_diabetes

pytestmark = pytest.mark.usefixtures("one_thread")  # so few rows do not repay a second one

SGD = {"solver": "sgd", "C": np.inf, "batch_size": None, "tol": 0}


def loop(X, y, w, b, n_steps, *, reduction="mean", **settings):
    """Plain torch: (w, b, loss before each step)."""
    w = torch.tensor(w, dtype=X.dtype, requires_grad=True)
    b = torch.tensor(b, dtype=X.dtype, requires_grad=True)
    optimizer = torch.optim.SGD([w, b], **settings)
    losses = []
    for _ in range(n_steps):
        loss = binary_cross_entropy_with_logits(X @ w + b, y, reduction=reduction)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return w.detach().numpy(), b.item(), np.array(losses)


def test_eight_points():
    X = np.array([[2.5, -1.2], [1.3, 2.5], [6.2, 3.6], [1.3, 4.0], [5.4, 3.4], [6.0, 2.3], [4.3, 7.2], [8.2, 3.9]])
    y = np.array([0, 0, 1, 0, 1, 1, 1, 1])
    model = TorchLogisticRegression(**SGD, momentum=0, learning_rate=0.08, max_iter=1000)
    model.fit(X, y, coef_init=[[2, 2]], intercept_init=[1])
    losses = 8 * model.loss_curve_  # the lesson sums, the estimator averages
    found = losses[[0, 1, 999]]
    np.testing.assert_allclose(found, [23.827150380161367, 23.201291076310216, 0.4907801188653521], rtol=0, atol=1e-9)
    np.testing.assert_allclose(model.coef_[0], [1.30352664, 0.3015996], rtol=0, atol=5e-9)
    assert model.intercept_[0] == pytest.approx(-4.817742837478264, abs=1e-9)

    w, b, expected = loop(
        torch.from_numpy(X), torch.from_numpy(y).double(), [2.0, 2.0], 1.0, 1000, reduction="sum", lr=0.01
    )
    np.testing.assert_allclose(model.coef_[0], w, rtol=0, atol=1e-9)
    assert model.intercept_[0] == pytest.approx(b, abs=1e-9)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-9)


def test_two_clouds():
    torch.manual_seed(10)
    centre = torch.full((100, 2), 1.7)
    X = torch.cat([torch.normal(centre, 1) + 1, torch.normal(-centre, 1) + 1])
    y = torch.tensor([0.0, 1.0]).repeat_interleave(100)
    model = TorchLogisticRegression(**SGD, momentum=0.9, learning_rate=0.01, max_iter=991)
    model.fit(X, y, coef_init=[[-0.0459, -0.4516]], intercept_init=[0.1329])
    assert model.coef_.dtype == np.float32
    assert model.loss_curve_[990] == pytest.approx(0.0295367, abs=1e-4)
    np.testing.assert_allclose(model.coef_[0], [-1.7549978, -1.9061438], rtol=0, atol=1e-4)
    assert model.intercept_[0] == pytest.approx(2.8523597, abs=1e-4)
    assert model.score(X, y) == 1.0

    w, b, losses = loop(X, y, [-0.0459, -0.4516], 0.1329, 991, lr=0.01, momentum=0.9)
    np.testing.assert_allclose(model.coef_[0], w, rtol=0, atol=1e-4)
    assert model.intercept_[0] == pytest.approx(b, abs=1e-4)
    np.testing.assert_allclose(model.loss_curve_, losses, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("seed", "boundary"), [(0, 2.419), (1, 2.413)])
def test_hours_of_study(seed, boundary):
    torch.manual_seed(seed)
    layer = torch.nn.Linear(1, 1)
    start, offset = layer.weight[0].tolist(), layer.bias.item()
    X, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0.0, 0.0, 1.0])
    model = TorchLogisticRegression(**SGD, momentum=0, learning_rate=0.03, max_iter=1000)  # three times the sum's
    model.fit(X, y, coef_init=[start], intercept_init=[offset])
    assert -model.intercept_[0] / model.coef_[0, 0] == pytest.approx(boundary, abs=1e-3)

    w, b, _ = loop(X, y, start, offset, 1000, reduction="sum", lr=0.01)
    np.testing.assert_allclose([model.coef_[0, 0], model.intercept_[0]], [w[0], b], rtol=0, atol=1e-4)


def test_one_feature():
    X, y = torch.tensor([[0.6], [1.0], [3.5], [4.0]]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    model = TorchLogisticRegression(**SGD, momentum=0, learning_rate=0.01, max_iter=500).fit(X, y)
    assert model.predict([[0.5], [7.0]]).tolist() == [0, 1]

    w, b, losses = loop(X, y, [0.0], 0.0, 500, lr=0.01)
    np.testing.assert_allclose([model.coef_[0, 0], model.intercept_[0]], [w[0], b], rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.loss_curve_, losses, rtol=0, atol=1e-5)


@needs_data
@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_diabetes(solver):
    X, y = fetch_diabetes()
    model = TorchLogisticRegression(C=np.inf, solver=solver, tol=1e-9).fit(X, y)
    assert model.objective_ == pytest.approx(0.47167073, abs=5e-9)
    assert model.score(X, y) == pytest.approx(0.769433, abs=5e-7)

    rows, labels = torch.from_numpy(X), torch.from_numpy(y).double()

    def loss(p):
        return binary_cross_entropy_with_logits(rows @ p[:-1] + p[-1], labels)

    p = torch.zeros(X.shape[1] + 1, dtype=torch.float64)
    for _ in range(10):  # Newton's method, both derivatives by autograd
        gradient = torch.autograd.functional.jacobian(loss, p)
        p = p - torch.linalg.solve(torch.autograd.functional.hessian(loss, p), gradient)
    np.testing.assert_allclose([*model.coef_[0], *model.intercept_], p, rtol=0, atol=1e-6)
