"""The documentation that both estimators share, written once."""

_TEMPLATE = """{summary}

    It minimises scikit-learn's objective, on torch::

        F(W, b) = ( sum_i s_i loss(y_i, W x_i + b) + ||W||^2 / (2 C) ) / S,        S = sum_i s_i

    where ``s_i`` is the sample weight times the class weight of row i, so coefficients agree with those of
    :class:`~sklearn.linear_model.LogisticRegression`. The intercept is never penalised.
{notes}

    Parameters
    ----------
    C : float, default=1.0
        Inverse of the penalty's strength, in (0, inf]. ``np.inf`` means no penalty.

    l1_ratio : float, default=0.0
        Share of the L1 norm in the penalty. Only 0, the L2 penalty, is supported so far.

    fit_intercept : bool, default=True
        Whether the model has an intercept.

    class_weight : dict or 'balanced', default=None
        Weight of each class, multiplied with the sample weights. ``'balanced'`` gives all classes the same total
        weight, computed with the sample weights.

    solver : {{'auto', 'lbfgs', 'newton-cholesky', 'sgd'}}, default='auto'
        The algorithm. Parameters from `learning_rate` to `n_iter_no_change` concern ``'sgd'`` only.

        - ``'auto'`` is ``'newton-cholesky'`` for tiny data and ``'lbfgs'`` for all other.
        - ``'newton-cholesky'``: Newton's method with the full Hessian; exact and indifferent to the scale of the
          features. Its memory grows with the square of ``n_features * n_classes``.
        - ``'lbfgs'``: L-BFGS that starts near the optimum of a random sample of rows and is preconditioned by the
          Hessian there, and by that of all rows where progress is slow. It reads X a handful of times.
        - ``'sgd'``: mini-batch gradient descent with momentum, as in a hand-written torch loop. The only one that
          needs standardised features and that is approximate.

    tol : float, default=1e-4
        Stop when the largest absolute entry of F's gradient is at most `tol` and F is estimated to be within the
        fraction `tol` of its minimum (``tol ** 1.5`` for ``'lbfgs'``, whose estimate is a rough one). For ``'sgd'``,
        stop when `n_iter_no_change` epochs in a row did not improve the training objective (with `early_stopping`, the
        accuracy on held-out rows) by `tol`, or with ``learning_rate='auto'`` begin to lower the rate then; 0 runs all
        epochs.

    max_iter : int, default=100
        Largest number of iterations, each of which evaluates F once; of epochs for ``'sgd'``.

    learning_rate : float or 'auto', default='auto'
        Step size of ``'sgd'`` on F, that is, on the mean loss. ``'auto'`` derives it from the data, so that it does
        not diverge whatever the scale of the features, and keeps it until the objective stands still (for at most
        three fifths of `max_iter` epochs); then the rate falls linearly to zero, and the fit ends. With
        `early_stopping`, the accuracy on held-out rows may end it before.

    momentum : float, default=0.9
        Momentum of ``'sgd'``, in [0, 1).

    nesterov : bool, default=False
        Whether ``'sgd'`` uses Nesterov's momentum.

    batch_size : int, 'auto' or None, default='auto'
        Rows in a mini-batch of ``'sgd'``. ``'auto'`` means 32, None all rows.

    shuffle : bool, default=True
        Whether ``'sgd'`` puts the rows in a new random order for every epoch.

    early_stopping : bool, default=False
        Whether ``'sgd'`` holds out rows and stops when its accuracy on them no longer improves. Without it every row
        is trained on. The other solvers ignore it.

    validation_fraction : float, default=0.1
        Share of the rows, stratified by class, that `early_stopping` holds out.

    n_iter_no_change : int, default=5
        Epochs without improvement after which ``'sgd'`` stops.

    warm_start : bool, default=False
        Whether `fit` starts from the coefficients of the previous fit.

    random_state : int, RandomState instance or None, default=None
        Seed of the order of the rows and of the held-out rows in ``'sgd'``, and of the samples in ``'lbfgs'``, where
        None stands for a fixed seed and any seed leads to the same optimum, within `tol`.

    verbose : int, default=0
        Whether to print a line for each iteration.

    device : str, default='auto'
        Where to compute: ``'cpu'``, ``'cuda'``, ``'cuda:1'``, ``'mps'``. With ``'auto'`` a tensor stays where it is;
        other data goes to an accelerator if there is one and the work is large enough to repay the copy.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients, one row if there are two classes. float32 for float32 data, float64 otherwise.

    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts; zero if ``fit_intercept=False``.

    classes_ : ndarray of shape (n_classes,)
        Class labels.

    n_iter_ : int
        Iterations, or epochs, that were run.

    converged_ : bool
        Whether `tol` was met, judged by the gradient in float64 at the coefficients as they are stored (for
        ``'sgd'``, by its own stopping rule, which ``tol=0`` switches off).

    objective_ : float
        F at the stored coefficients.

    gradient_norm_ : float
        Largest absolute entry of F's gradient at the stored coefficients, computed in float64.

    optimality_gap_ : float
        A rigorous bound on ``objective_`` less its minimum, by strong convexity, up to rounding. Infinite without a
        penalty, and where it would take more than a twentieth of the fit: with an intercept, one more read of X.

    n_passes_ : float
        How often the solver read X, in full reads: a read of a tenth of the rows counts 0.1. Checks of the input are
        not counted.

    loss_curve_ : ndarray of shape (n_iter_,)
        F after each iteration. For ``'sgd'``, the mean over an epoch's mini-batches of F as each update found it, so
        that with ``batch_size=None`` entry k is F before update k.

    solver_ : str
        The solver that was used.

    device_ : str
        The device that was used.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where X has them.

    See Also
    --------
    {other}
    sklearn.linear_model.LogisticRegression : scikit-learn's estimator with the same objective.

    Notes
    -----
    Fitted attributes are NumPy arrays and Python numbers whatever the device, so a model can be pickled on one machine
    and used on any other. scikit-learn's callbacks are supported through ``set_callbacks``, with one task for each
    iteration or epoch.

    References
    ----------
    .. [1] J. Nocedal and S. J. Wright (2006), Numerical Optimization, chapters 3, 6 and 7.
    .. [2] Q. Jin and A. Mokhtari (2021), Exploiting Local Convergence of Quasi-Newton Methods Globally: Adaptive
       Sample Size Approach, arXiv:2106.05445 (starting from samples of the rows).
    .. [3] R. M. Gower et al. (2019), SGD: General Analysis and Improved Rates, ICML (the learning rate ``'auto'``).

    Examples
    --------{example}
    """


def documented(**parts):
    """Fill the shared docstring of an estimator class."""

    def decorate(cls):
        cls.__doc__ = _TEMPLATE.format(**parts)
        return cls

    return decorate
