"""What must hold by mathematics, whatever any other library computes."""

import warnings

import numpy as np
import pytest
import torch
from helpers import (
    DETERMINISTIC,
    F64,
    LOSSES,
    SOLVERS,
    TABLE,
    autograd_epoch,
    dense_design,
    generator,
    gradient_norm,
    halves,
    mini_batch,
    objective,
    objective_of,
    random_design,
    random_objective,
    states,
    table,
)
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning

from torchlogreg import TorchGridSearchCV, TorchLogisticRegression, TorchSoftmaxClassifier, TorchSoftmaxClassifierCV
from torchlogreg._data.dense import DenseDesign
from torchlogreg._data.tuning import CPU_BLOCK_NUMBERS, MAX_PARTIAL_SUM_NUMBERS, MIN_PRODUCTS_PER_THREAD
from torchlogreg._objective.losses import Multinomial
from torchlogreg._objective.objective import Objective
from torchlogreg._objective.penalties import ElasticNet
from torchlogreg._runtime.threads import fit_arithmetic, n_workers
from torchlogreg._solvers import newton_numpy
from torchlogreg._solvers.driver import Settings, minimise
from torchlogreg._solvers.lbfgs_numpy import KroneckerFactor, LBFGSNumPy
from torchlogreg._solvers.newton_numpy import NewtonNumPy
from torchlogreg._solvers.sgd import SGD


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("n", [30, 3 * CPU_BLOCK_NUMBERS // 40])  # one block, several blocks
def test_pull_is_the_adjoint_of_predict(n, intercept, order):
    rows = random_design(n, 40, intercept=intercept, order=order)
    W = torch.randn(2, rows.shape[1], 3, generator=generator(1), dtype=F64)
    R = torch.randn(n, 2, 3, generator=generator(2), dtype=F64)
    blocks = list(rows.blocks())
    assert (len(blocks) > 1) == (n > 30)
    eta = torch.cat([block.matvec(W) for block in blocks])
    pulled = sum(block.rmatvec(r) for block, r in zip(blocks, R.split([len(b.X) for b in blocks]), strict=True))
    torch.testing.assert_close((eta * R).sum(), (pulled * W).sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("n_weights", [1, 4, 40])  # by copies of one, and of several
@pytest.mark.usefixtures("two_threads")
def test_gram_is_the_weighted_second_moment(n_weights, intercept):
    n = 2 * MIN_PRODUCTS_PER_THREAD // 30**2 // n_weights if n_weights < 40 else 8000  # enough for two threads
    rows = random_design(n, 30, intercept=intercept)
    weight = torch.rand(n, n_weights, generator=generator(3), dtype=F64)
    X = torch.cat([rows.X, torch.ones(n, 1, dtype=F64)], dim=1) if intercept else rows.X
    expected = torch.einsum("nm,ni,nj->mij", weight, X, X)
    with fit_arithmetic(rows.X):
        torch.testing.assert_close(rows.gram(weight), expected, rtol=1e-11, atol=1e-11)
        again = rows.select(slice(None)).whole.gram(weight)
    torch.testing.assert_close(again, expected, rtol=1e-11, atol=1e-11)
    diagonal = expected.diagonal(dim1=1, dim2=2).contiguous()
    torch.testing.assert_close(rows.gram_diagonal(weight), diagonal, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("n_models", [1, 3])
@pytest.mark.parametrize("n_copies", [2, 40])  # sums over parts of the rows, and whole ones for each model
@pytest.mark.usefixtures("two_threads")
def test_gram_of_copies_is_the_second_moment_of_kronecker_products(n_copies, n_models):
    rows = random_design(9000 if n_copies == 2 else 60, 30)
    factor = torch.randn(rows.shape[0], n_models, n_copies, generator=generator(3), dtype=F64)
    X = torch.cat([rows.X, torch.ones(len(rows.X), 1, dtype=F64)], dim=1)
    copies = torch.einsum("nbk,ni->bnki", factor, X).flatten(2)
    with fit_arithmetic(rows.X):
        assert (2 * n_models * (n_copies * 31) ** 2 > MAX_PARTIAL_SUM_NUMBERS) == (n_copies == 40 and n_models == 3)
        found = rows.gram_of_copies(factor)
    torch.testing.assert_close(found, copies.mT @ copies, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.usefixtures("two_threads")
def test_inner_products_are_made_of_tiles(order, dtype):
    rows = random_design(150, 1000, order=order)
    rows = DenseDesign(rows.X.to(dtype), rows.y, rows.weight, intercept=True)
    expected = rows.X.to(F64) @ rows.X.to(F64).T
    torch.testing.assert_close(rows.inner_products(), expected, rtol=1e-12, atol=1e-10)
    with fit_arithmetic(rows.X):
        assert n_workers() == 2
        found = rows.inner_products()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_closed_forms_equal_autograd(loss):
    K = loss.n_logits
    eta = (5 * torch.randn(20, 2, K, generator=generator(), dtype=F64)).requires_grad_()
    y = loss.targets(torch.randint(max(2, K), (20,), generator=generator(1)), F64)
    assert torch.autograd.gradcheck(lambda e: loss.value(e, y), (eta,))
    by_autograd = torch.autograd.grad(loss.value(eta, y).sum(), eta, create_graph=True)[0]
    value, residual = loss.value_and_residual(eta.detach(), y)
    torch.testing.assert_close(value, loss.value(eta, y).detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(residual, by_autograd.detach(), rtol=1e-12, atol=1e-14)
    codes = loss.codes(y).to(F64) if K == 1 else loss.codes(y)
    alone = loss.residual(eta.detach()[:, 0].T, codes)  # (K, n)
    torch.testing.assert_close(alone, residual[:, 0].T, rtol=1e-12, atol=1e-14)
    second = torch.stack([torch.autograd.grad(by_autograd[..., k].sum(), eta, retain_graph=True)[0] for k in range(K)])
    second = second.permute(1, 2, 0, 3)  # (n, B, K, K)
    a, b = loss.curvature(eta.detach())
    curvature = torch.diag_embed(a) - (0.0 if b is None else b[..., None] * b[..., None, :])
    torch.testing.assert_close(curvature, second, rtol=1e-9, atol=1e-12)
    weight = torch.rand(20, 2, generator=generator(2), dtype=F64)
    mean = loss.summed_curvature(eta.detach(), weight)
    torch.testing.assert_close(mean, (weight[..., None, None] * second).sum(dim=0), rtol=1e-9, atol=1e-12)
    directions = torch.randn(2, K, 4, generator=generator(3), dtype=F64)
    along = torch.einsum("bkm,nbkl,blm->nbm", directions, second, directions)
    torch.testing.assert_close(loss.curvature_along(eta.detach(), directions), along, rtol=1e-9, atol=1e-12)
    k, l = torch.triu_indices(K, K)
    if K == 1:
        column, weights = eta.detach()[:, 0, 0].numpy(), weight[:, 0].numpy()
        total, residuals = loss.one_logit_kernel(column, y.numpy(), weights)
        assert total == pytest.approx(float(weight[:, 0] @ value[:, 0]), rel=1e-12)
        np.testing.assert_allclose(residuals, weights * residual[:, 0, 0].numpy(), rtol=1e-12, atol=1e-14)
    small = loss.small(eta.detach()[:, 0].numpy(), y.numpy(), k.numpy(), l.numpy())
    for ours, reference in zip(small, (value, residual, second[..., k, l]), strict=True):
        np.testing.assert_allclose(ours, reference[:, 0].numpy(), rtol=1e-9, atol=1e-12)
    assert float(torch.linalg.eigvalsh(second).max()) <= loss.smoothness + 1e-12
    total = loss.log_proba(eta.detach()).exp().sum(dim=-1)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_extreme_logits_stay_finite(loss):
    eta = torch.tensor([-1e4, 0.0, 1e4], dtype=F64)[:, None, None].expand(3, 1, loss.n_logits).clone()
    eta[..., 0] *= -1
    y = loss.targets(torch.zeros(3, dtype=torch.int64), F64)
    for tensor in (*loss.value_and_residual(eta, y), loss.log_proba(eta)):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_gradient_and_hessian_are_derivatives_of_the_value(loss, intercept):
    problem = random_objective(loss, intercept=intercept, l2=0.3)
    d, K = problem.design.shape[1], loss.n_logits
    W = torch.randn(1, d, K, generator=generator(4), dtype=F64)

    def value(W):
        index = torch.arange(problem.design.shape[0])
        return mini_batch(problem, W, index).sum()

    point = problem.second_order(W)
    hessian = point.hessian
    torch.testing.assert_close(point.value.sum(), value(W))
    torch.testing.assert_close(point.gradient, torch.autograd.functional.jacobian(value, W), rtol=1e-10, atol=1e-13)
    reference = torch.autograd.functional.hessian(value, W).permute(2, 1, 5, 4, 0, 3).reshape(K * d, K * d)
    torch.testing.assert_close(problem.diagonal(W).flatten(), reference.diagonal(), rtol=1e-9, atol=1e-12)
    if K > 1 and intercept:  # the flat direction of the intercepts is lifted, the rest is the Hessian
        lifted = (hessian[0, 0] - reference).view(K, d, K, d)
        assert float(lifted[:, -1, :, -1].std()) < 1e-12
        assert float(lifted[0, -1, 0, -1]) > 0
        lifted[:, -1, :, -1] = 0
        torch.testing.assert_close(lifted, torch.zeros_like(lifted), rtol=0, atol=1e-12)
    else:
        torch.testing.assert_close(hessian[0, 0], reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_batch_of_models_equals_one_fit_each(loss, name):
    B = 4
    problem = random_objective(loss, B=B, n=300, p=6)
    problem.design.weight[:, 1] *= torch.arange(300) % 2  # a fold
    rows = problem.design
    problem = Objective.of(
        rows, loss, ElasticNet(torch.tensor([0.1, 1.0, 10.0, 100.0], dtype=F64)[:, None, None] * torch.ones(7, 1))
    )
    W = torch.zeros(B, 7, loss.n_logits, dtype=F64)
    together = minimise(problem, TABLE[name](), W, Settings(1e-9, 300)).point
    for b in range(B):
        alone = Objective.of(
            rows.reweighted(rows.weight[:, b : b + 1]), loss, ElasticNet(torch.full((1, 7, 1), 10.0**b / 10, dtype=F64))
        )
        single = minimise(alone, TABLE[name](), W[:1], Settings(1e-9, 300)).point
        torch.testing.assert_close(together.W[b], single.W[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("l2", [0.0, 1.0])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_newton_in_numpy_takes_the_steps_of_newton_in_torch(loss, l2, monkeypatch):
    problem = random_objective(loss, n=200, l2=l2)
    W = torch.zeros(1, 5, loss.n_logits, dtype=F64)
    assert newton_numpy.is_small(problem, W)
    fast = [step for step, _ in zip(states(TABLE["newton-cholesky"](), problem, W), range(6), strict=False)]
    monkeypatch.setattr("torchlogreg._solvers.tuning.NUMPY_NEWTON_NUMBERS", 0)
    slow = [step for step, _ in zip(states(TABLE["newton-cholesky"](), problem, W), range(6), strict=False)]
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a.point.W, b.point.W, rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(a.point.value, b.point.value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("l2", [0.0, 1.0])
def test_a_kronecker_factor_inverts_the_hessian_of_rows_that_are_alike(l2):
    rng = np.random.default_rng(0)
    p, S = rng.dirichlet(np.ones(4)), np.cov(rng.normal(size=(6, 50)))
    M, penalty = np.diag(p) - np.outer(p, p), np.full((6, 1), l2)
    penalty[-1] = 0.0
    factor = KroneckerFactor.of(M, S, penalty, 5)
    W = rng.normal(size=(6, 4))
    W -= W.mean(axis=1, keepdims=True)  # the others are where the softmax is flat
    np.testing.assert_allclose(factor.solve(S @ W @ M + penalty * W), W, atol=1e-10)


def test_lbfgs_in_numpy_goes_on_from_what_was_packed():
    problem = random_objective(Multinomial(3), n=4000, l2=0.1)
    solver = TABLE["lbfgs"]().specialised(problem, torch.zeros(1, 5, 3, dtype=F64))
    assert isinstance(solver, LBFGSNumPy)
    state = solver.init(problem, torch.zeros(1, 5, 3, dtype=F64))
    for _ in range(4):
        state = solver.step(problem, state)
    again = solver.unpack(problem, solver.pack(state))
    for _ in range(4):
        state, again = solver.step(problem, state), solver.step(problem, again)
        torch.testing.assert_close(state.point.W, again.point.W, rtol=1e-12, atol=1e-14)
    assert state.reading.gap[0] < 1e-6


@pytest.mark.parametrize("C", [1.0, 1e4])
def test_lbfgs_in_numpy_hands_over_to_newton_once_it_has_cost_as_much(C, monkeypatch):
    rng = np.random.default_rng(0)
    X = np.exp(rng.normal(size=(2000, 6)) * 2)  # rows so unlike that no mean of them says much
    y = (X @ rng.normal(size=(6, 4)) + 5 * rng.gumbel(size=(2000, 4))).argmax(axis=1)
    begun = []
    init = NewtonNumPy.init
    monkeypatch.setattr(NewtonNumPy, "init", lambda *arguments: begun.append(1) or init(*arguments))
    model = TorchSoftmaxClassifier(solver="lbfgs", C=C, tol=1e-8).fit(X, y)
    best = TorchSoftmaxClassifier(solver="newton-cholesky", C=C, tol=1e-10).fit(X, y)
    assert begun
    assert model.converged_
    np.testing.assert_allclose(model.coef_, best.coef_, atol=1e-5 * np.abs(best.coef_).max())


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_fused_epoch_an_autograd_epoch_and_torch_optim_take_the_same_steps(loss, intercept, nesterov):
    n, p = 50, 4
    problem = random_objective(loss, n=n, p=p, intercept=intercept, l2=2.0)
    solver = SGD(learning_rate=0.1, momentum=0.8, nesterov=nesterov, batch_size=16)
    d, K = problem.design.shape[1], loss.n_logits
    W0 = torch.randn(1, d, K, generator=generator(5), dtype=F64).mT.contiguous().mT
    ends, values = [], []
    for epoch in (SGD.epoch, autograd_epoch):
        W, velocity, g = W0.clone(), torch.zeros_like(W0), generator(6)
        values.append([float(epoch(solver, problem, W, velocity, 0.1, g)) for _ in range(3)])
        ends.append(W)
    parameter = torch.nn.Parameter(W0.clone())
    optimiser = torch.optim.SGD([parameter], lr=0.1, momentum=0.8, nesterov=nesterov)
    g = generator(6)
    for _ in range(3):
        for index in torch.randperm(n, generator=g).split(16):
            optimiser.zero_grad()
            mini_batch(problem, parameter, index).sum().backward()
            optimiser.step()
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ends[0], parameter.detach(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-12)


def test_the_mean_of_the_mini_batches_is_the_objective():
    problem = random_objective(Multinomial(3), n=60)
    W = torch.randn(1, 5, 3, generator=generator(7), dtype=F64)
    batches = torch.arange(60).split(16)
    mean = sum(mini_batch(problem, W, index) * len(index) / 60 for index in batches)
    torch.testing.assert_close(mean, problem.value_and_gradient(W).value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 2.0, 1: 0.5, 2: 1.0}])
def test_a_weight_is_a_repetition_and_zero_a_removal(solver, class_weight):
    X, y = table("wine", True)
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    model = TorchSoftmaxClassifier(solver=solver, tol=1e-9, class_weight=class_weight)
    weighted = model.fit(X, y, sample_weight=weight).coef_
    repeated = model.fit(np.repeat(X, weight, axis=0), np.repeat(y, weight)).coef_
    np.testing.assert_allclose(weighted, repeated, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["iris", "digits"])  # Newton's method in NumPy and in torch, samples for L-BFGS
@pytest.mark.parametrize("by", ["sample_weight", "class_weight", "stream"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_class_without_weight_has_a_probability_that_tends_to_zero(solver, name, by, dtype):
    X, y = table(name, True, binary=True)
    X, low, high = X.astype(dtype), y.min(), y.max()
    stream = [(X[::2], y[::2]), (X[1::2], y[1::2])]
    for C in (0.01, 1e4, np.inf) if solver != "sgd" else (1.0,):
        model = TorchLogisticRegression(C=C, solver=solver, max_iter=30, random_state=0)
        for heavy, light in ((low, high), (high, low)):
            if by == "sample_weight":
                model.fit(X, y, (y == heavy) * 0.3)
            else:
                model.set_params(class_weight={light: 0.0}).fit(*((stream,) if by == "stream" else (X, y)))
            assert model.converged_
            assert model.predict_proba(X)[:, list(model.classes_).index(light)].max() < 1e-6
            assert (model.predict(X) == heavy).all()
            assert np.isfinite(model.predict_log_proba(X)).all()
            assert model.objective_ < 1e-12
            assert model.gradient_norm_ < 1e-12


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["iris", "digits"])
def test_one_of_many_classes_has_all_the_weight(solver, name):
    X, y = (array[:600] for array in table(name, True))
    for label in (0, 2):
        model = TorchSoftmaxClassifier(solver=solver, random_state=0).fit(X, y, y == label)
        assert model.converged_
        assert model.predict_proba(X)[:, label].min() > 1 - 1e-6
        np.testing.assert_allclose(model.coef_, 0.0, atol=1e-20)
    light = TorchSoftmaxClassifier(solver=solver, random_state=0).fit(X, y, y > 0)  # several classes: no corner
    assert light.converged_
    assert light.predict_proba(X[y > 0])[:, 0].max() < 0.01


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_class_alone_without_an_intercept_has_an_ordinary_optimum(solver):
    X, y = table("breast_cancer", True)
    settings = {"fit_intercept": False, "tol": 1e-6 if solver == "sgd" else 1e-4, "random_state": 0}
    model = TorchLogisticRegression(solver=solver, max_iter=1000, **settings).fit(X, y, y == 1)
    assert model.converged_
    alone = X[y == 1]
    twin = TorchLogisticRegression(tol=1e-10, fit_intercept=False)  # a row costs what its negative does in the other
    twin.fit(np.vstack([alone, -alone]), np.repeat([1, 0], len(alone)), 0.5)
    np.testing.assert_allclose(model.objective_, twin.objective_, rtol=1e-3)


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_a_class_alone_is_not_separated(solver):
    X, y = table("breast_cancer", True)
    X = np.column_stack([X, np.full(len(X), 0.5)])  # along which the loss falls for ever
    model = TorchLogisticRegression(C=np.inf, fit_intercept=False, solver=solver).fit(X, y, y == 1)  # no warning
    assert model.converged_
    assert model.objective_ < 1e-12


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_a_class_alone_from_any_start_within_the_usual_iterations(solver):
    X, y = table("breast_cancer", True)
    for start in (0.0, -3.0):
        for C in (1.0, np.inf):
            model = TorchLogisticRegression(C=C, solver=solver, random_state=0)
            model.fit(X, y, y == 1, coef_init=np.full((1, 30), 0.1), intercept_init=[start])
            assert model.converged_
            assert model.objective_ < 1e-12
    model = TorchLogisticRegression(solver=solver, warm_start=True).fit(X, y).fit(X, y, y == 0)
    assert model.converged_
    assert model.predict_proba(X)[:, 1].max() < 1e-6


def test_scaling_all_weights_scales_C():
    X, y = table("wine", True)
    a = TorchSoftmaxClassifier(C=3.0, tol=1e-10).fit(X, y).coef_
    b = TorchSoftmaxClassifier(C=1.0, tol=1e-10).fit(X, y, sample_weight=3.0).coef_
    np.testing.assert_allclose(a, b, rtol=1e-8)


@pytest.mark.parametrize("weight", [1e300, 1e-300, 1e12, 1e-12])
def test_the_unit_of_the_weights_cancels_without_a_penalty(weight):
    X, y = table("iris", True, binary=True)
    model = TorchLogisticRegression(C=np.inf, tol=1e-8)
    np.testing.assert_allclose(model.fit(X, y, weight).coef_, model.fit(X, y).coef_, rtol=1e-6)


@pytest.mark.parametrize("weight", [1e307, 1e-307])  # the sum of the weights overflows
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_unit_of_the_weights_cancels_against_C(solver, weight):
    X, y = table("wine", True)
    weights = np.full(len(y), weight)
    model = TorchSoftmaxClassifier(solver=solver, tol=1e-4 if solver == "sgd" else 1e-9, random_state=0)
    expected = model.fit(X, y, X_val=X, y_val=y).coef_, model.history_["validation_loss"]
    model.set_params(C=1 / weight).fit(X, y, weights, X_val=X, y_val=y, sample_weight_val=weights)
    np.testing.assert_allclose(model.coef_, expected[0], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(model.history_["validation_loss"], expected[1], rtol=1e-7)
    np.testing.assert_allclose(model.history_["train_accuracy"], model.history_["validation_accuracy"], rtol=1e-12)


@pytest.mark.parametrize("weight", [1e307, 1e-307])
def test_the_unit_of_the_weights_cancels_against_C_in_batches(weight):
    X, y = table("wine", True)
    weights = np.full(len(y), weight)
    options = {"cv": 3, "scoring": "neg_log_loss"}
    plain = TorchSoftmaxClassifierCV(Cs=[1.0, 10.0], tol=1e-9, **options).fit(X, y)
    scaled = TorchSoftmaxClassifierCV(Cs=[1 / weight, 10 / weight], tol=1e-9, **options).fit(X, y, weights)
    np.testing.assert_allclose(scaled.coef_, plain.coef_, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(scaled.scores_[0], plain.scores_[0], rtol=1e-8)
    grid = {"C": [1.0], "fit_intercept": [True, False]}
    plain = TorchGridSearchCV(TorchSoftmaxClassifier(tol=1e-9), grid, **options).fit(X, y)
    grid["C"] = [1 / weight]
    scaled = TorchGridSearchCV(TorchSoftmaxClassifier(tol=1e-9), grid, **options).fit(X, y, sample_weight=weights)
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(scaled.cv_results_[name], plain.cv_results_[name], rtol=1e-7)


def test_two_softmax_rows_at_C_are_one_logit_at_2C():
    # At the optimum w1 = -w0, so the two penalties add up to that of the one logit 2 w1 at 2 C.
    X, y = table("breast_cancer", True)
    logit = TorchLogisticRegression(C=2.0, tol=1e-10).fit(X, y)
    two_rows = objective_of(dense_design(X, y), Multinomial(2))
    W = minimise(two_rows, TABLE["newton-cholesky"](), torch.zeros(1, 31, 2, dtype=F64), Settings(1e-10, 100)).point.W
    np.testing.assert_allclose((W[0, :-1, 1] - W[0, :-1, 0]).numpy(), logit.coef_[0], rtol=1e-8)


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e4, 1e8])
def test_without_a_penalty_the_units_of_a_feature_do_not_matter(solver, scale):
    X, y = table("iris", True, binary=True)
    units = np.array([1.0, scale, 1.0, 1 / scale])
    plain = TorchLogisticRegression(C=np.inf, solver=solver, tol=1e-8).fit(X, y)
    scaled = TorchLogisticRegression(C=np.inf, solver=solver, tol=1e-8, max_iter=300)
    # A gradient of 1e-8 is below rounding where a column is 1e8 large: the optimum is reached all the same.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scaled.fit(X * units, y)
    assert scaled.objective_ == pytest.approx(plain.objective_, rel=1e-9)
    np.testing.assert_allclose(scaled.coef_ * units, plain.coef_, rtol=1e-3)


def in_small_units(n, n_classes, unit):
    """Rows whose second column is in units so small that squares of its numbers underflow in float32."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3))
    y = (X @ rng.normal(size=(3, n_classes)) + rng.gumbel(size=(n, n_classes))).argmax(axis=1)
    return X, X * [1.0, unit, 1.0], y


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("n", [300, 6000])  # all rows, and samples
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("container", ["float32", "sparse", "stream", "bfloat16"])
def test_squares_that_underflow_in_float32(container, n_classes, n, solver):
    _, small, y = in_small_units(n, n_classes, 2.0**-73)
    small = small.astype(np.float32)
    plain = small * np.float32([1.0, 2.0**73, 1.0])
    data = {
        "float32": lambda X: (X, y),
        "sparse": lambda X: (csr_array(X), y),
        "stream": lambda X: (halves(X, y), None),
        "bfloat16": lambda X: (torch.from_numpy(X).bfloat16(), y),
    }[container]
    model = TorchSoftmaxClassifier(C=np.inf, solver=solver)
    expected = model.fit(*data(plain)).objective_
    assert model.fit(*data(small)).converged_
    assert model.objective_ == pytest.approx(expected, rel=1e-5)


def test_squares_that_underflow_in_float32_in_batches():
    for n in (300, 6000):
        X, small, y = in_small_units(n, 3, 2.0**-73)
        model = TorchSoftmaxClassifierCV(Cs=[10.0, np.inf], cv=3, scoring="neg_log_loss")
        model.fit(small.astype(np.float32), y)
        assert model.converged_
        expected = TorchSoftmaxClassifierCV(Cs=[10.0, np.inf], cv=3, scoring="neg_log_loss").fit(X, y)
        np.testing.assert_allclose(model.scores_[0][:, 1], expected.scores_[0][:, 1], rtol=1e-3)


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("n", [300, 6000])  # all rows, and samples
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("container", ["table", "sparse", "stream"])
def test_squares_that_overflow_in_float32(container, n_classes, n, solver):
    X, _, y = in_small_units(n, n_classes, 1.0)
    X[::50, 1] = 1e20  # what stands for a missing number
    X = X.astype(np.float32)
    model = TorchSoftmaxClassifier(solver=solver, max_iter=300)
    with warnings.catch_warnings():  # a gradient of 1e-4 is beyond what coefficients can express
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected = model.fit(X.astype(np.float64), y).objective_
    with pytest.warns(ConvergenceWarning, match="Coefficients in float32 cannot express"):
        model.fit(*{"table": (X, y), "sparse": (csr_array(X), y), "stream": (halves(X, y),)}[container])
    assert model.objective_ == pytest.approx(expected, rel=1e-5)


def test_constant_and_repeated_columns_change_no_prediction():
    X, y = table("wine", True)
    extended = np.column_stack([X, np.ones(len(X)), X[:, 0], np.zeros(len(X))])
    for C in (1.0, 1e-2):
        model = TorchSoftmaxClassifier(C=C, tol=1e-9).fit(extended, y)
        np.testing.assert_allclose(model.coef_[:, 0], model.coef_[:, -2], rtol=1e-6)
        assert np.abs(model.coef_[:, [-1, -3]]).max() < 1e-6  # an unpenalised intercept makes a constant column useless
    free = TorchLogisticRegression(C=np.inf, tol=1e-7)
    Xb, yb = table("iris", True, binary=True)
    wide = np.column_stack([Xb, Xb[:, 0], np.full(len(Xb), 3.0)])
    np.testing.assert_allclose(free.fit(wide, yb).predict_proba(wide), free.fit(Xb, yb).predict_proba(Xb), atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_reported_objective_and_gradient_are_those_of_the_stored_coefficients(solver, dtype):
    X, y = table("wine", True)
    X = X.astype(dtype)
    model = TorchSoftmaxClassifier(solver=solver, random_state=0, tol=0 if solver == "sgd" else 1e-4).fit(X, y)
    assert model.objective_ == pytest.approx(objective(model, X, y), rel=1e-12)
    assert model.gradient_norm_ == pytest.approx(gradient_norm(model, X, y), rel=1e-6)
    if model.converged_:
        assert gradient_norm(model, X, y) <= model.tol
    assert model.coef_.dtype == model.intercept_.dtype == dtype
    assert model.loss_curve_.shape == (model.n_iter_[0],)


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_the_objective_never_rises(solver, name):
    curve = TorchSoftmaxClassifier(solver=solver, C=1e4, max_iter=300).fit(*table(name, True)).loss_curve_
    assert (np.diff(curve) <= 64 * np.finfo(float).eps).all()
