"""The documentation that two estimators share, written once."""

from collections.abc import Callable
from typing import TypeVar

Class = TypeVar("Class", bound=type)

SINGLE_FIT = """{summary}

    It minimises scikit-learn's objective, on torch::

        F(W, b) = ( sum_i s_i loss(y_i, W x_i + b) + P(W) / C ) / S,        S = sum_i s_i
        P(W) = (1 - l1_ratio) ||W||^2 / 2 + l1_ratio ||W||_1

    where ``s_i`` is the sample weight times the class weight of row i, so coefficients agree with those of
    :class:`~sklearn.linear_model.LogisticRegression`. The intercept is never penalised.
{notes}

    Parameters
    ----------
    C : float, default=1.0
        Inverse of the penalty's strength, in (0, inf]. ``np.inf`` means no penalty.

    l1_ratio : float, default=0.0
        Share of the L1 norm in the penalty, from 0 (L2) to 1 (L1). If it is positive, coefficients whose features
        matter little are exactly zero, and the `solver` must be ``'auto'``, ``'prox-newton'`` or ``'sgd'``.

    penalty_weights : array-like of shape (n_features,) or dict, default=None
        Factor of each feature's penalty, zero or positive: 0 leaves its coefficients unpenalised, and ``np.inf`` leaves
        the feature out. A dict by feature name, for X with names, is for some features; the others have 1. Factors
        are used as they are, while glmnet scales its ``penalty.factor`` to a mean of 1. An infinite factor needs
        ``'auto'``, ``'prox-newton'`` or ``'sgd'`` as `solver`.

    coef_bounds : pair (lower, upper) or dict, default=None
        Bounds of the coefficients: two numbers, or arrays of shape (n_features,), such as ``(0, np.inf)`` for
        coefficients that are not negative. Each of the two may be a dict by feature name, too, or all of it a dict of
        pairs by feature name; features that are not named are not bounded. The bounds of a feature hold for all
        classes; the intercept has none. The `solver` must be ``'auto'``, ``'prox-newton'`` or ``'sgd'``.

    fit_intercept : bool, default=True
        Whether the model has an intercept.

    class_weight : dict or 'balanced', default=None
        Weight of each class, multiplied with the sample weights: a dict by label, in which a missing class has the
        weight 1. ``'balanced'`` gives all classes the same total weight, computed with the sample weights.

    solver : {{'auto', 'lbfgs', 'newton-cholesky', 'prox-newton', 'sgd'}}, default='auto'
        The algorithm. The parameters from `learning_rate` to `shuffle` apply to ``'sgd'`` only.

        - ``'auto'`` is ``'prox-newton'`` where the penalty has an L1 norm or the coefficients have bounds. Otherwise
          it is ``'newton-cholesky'`` for tiny data and else ``'lbfgs'``.
        - ``'newton-cholesky'``: Newton's method with the full Hessian; exact, and independent of the scale of the
          features. Its memory grows with the square of ``n_features * n_classes``.
        - ``'lbfgs'``: L-BFGS that starts near the optimum of a random sample of rows and is preconditioned by the
          Hessian there, and by that of all rows where progress is slow. It takes a handful of passes over the data.
        - ``'prox-newton'``: proximal Newton. Each iteration is one pass over the data, for a quadratic model that keeps
          the kinks and bounds of the penalty. With an L1 norm and more than four times as many features as rows, it
          works on the features that matter and looks at all others once an iteration; beside X it stores these columns.
        - ``'sgd'``: mini-batch gradient descent with momentum, as in a hand-written torch loop, with a proximal step
          for an L1 norm. It is the only approximate solver, and the only one that needs standardised features.

    tol : float, default=1e-4
        Stop when the largest absolute entry of F's gradient is at most `tol` and F is estimated to be within the
        fraction `tol` of its minimum (``tol ** 1.5`` for ``'lbfgs'`` and ``'prox-newton'`` where their Hessian is an
        approximation and the estimate rough). With an L1 norm or bounds, the subgradient of least norm takes the place
        of the gradient. For ``'sgd'``, stop when `n_iter_no_change` epochs in a row did not improve the training
        objective by `tol`, or with ``learning_rate='auto'`` begin to lower the rate then; 0 runs all epochs. With
        `early_stopping`, also the smallest improvement of the accuracy that counts.

    max_iter : int, default=100
        Maximum number of iterations, each of which evaluates F once; of epochs for ``'sgd'``.

    learning_rate : float or 'auto', default='auto'
        Step size of ``'sgd'`` on F, that is, on the mean loss. ``'auto'`` derives it from the data, so that the fit
        does not diverge whatever the scale of the features, and leaves it constant until the objective stops improving
        (for at most three fifths of `max_iter` epochs); then the rate decreases linearly to zero, and the fit ends.
        With `early_stopping`, the accuracy on the validation data may end it earlier.

    momentum : float, default=0.9
        Momentum of ``'sgd'``, in [0, 1).

    nesterov : bool, default=False
        Whether ``'sgd'`` uses Nesterov's momentum.

    batch_size : int, 'auto' or None, default='auto'
        Rows in a mini-batch of ``'sgd'``. ``'auto'`` means 32, None all rows.

    shuffle : bool, default=True
        Whether ``'sgd'`` shuffles the rows before every epoch. A stream has its own order.

    early_stopping : bool, default=False
        Whether to stop when the accuracy on the validation data, ``fit(..., X_val=..., y_val=...)``, has not improved
        by `tol` for `n_iter_no_change` iterations, and to return the best iterate: the one with the highest validation
        accuracy and, among those, with the lowest validation loss. Without validation data, ``'sgd'`` holds out some of
        the rows; the other solvers train on every row until `tol` is met.

    validation_fraction : float, default=0.1
        Share of the rows, stratified by class, that `early_stopping` holds out for ``'sgd'`` if no validation data is
        given.

    n_iter_no_change : int, default=5
        Epochs without improvement after which ``'sgd'`` stops, or iterations of any solver with `early_stopping`.

    warm_start : bool, default=False
        Whether `fit` starts from the coefficients of the previous fit.

    random_state : int, RandomState instance or None, default=None
        Seed of the order of the rows and of the held-out rows in ``'sgd'``, and of the samples in ``'lbfgs'`` and
        ``'prox-newton'``, where None is a fixed seed and any seed leads to the same optimum, within `tol`.

    verbose : int, default=0
        Whether to print a line for each iteration or epoch: the objective, the largest entry of its gradient (not for
        ``'sgd'``), the passes over the data so far, the validation accuracy, and the seconds since the fit began.

    device : str or torch.device, default='auto'
        Where to compute: ``'cpu'``, ``'cuda'``, ``'cuda:1'``, ``'xpu'``, ``'mps'``. With ``'auto'`` a tensor stays on
        its device; other data is moved to an accelerator if there is one and it is expected to be done sooner, its
        start and the copy of X included. Sparse X stays on the CPU. `device_reason_` says what was decided, and why.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients, one row if there are two classes. float32 for float32 data, float64 otherwise.

    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercepts; zero if ``fit_intercept=False``.

    classes_ : ndarray of shape (n_classes,)
        Class labels.

    n_iter_ : ndarray of shape (1,)
        Number of iterations, or epochs; each call of `partial_fit` adds one.

    converged_ : bool
        Whether `tol` was met, judged by the gradient in float64 at the stored coefficients (for ``'sgd'``, by its own
        stopping rule, which ``tol=0`` disables). False after `partial_fit`.

    objective_ : float
        F at the stored coefficients.

    gradient_norm_ : float
        Largest absolute entry of F's gradient at the stored coefficients, computed in float64; with an L1 norm or
        bounds, of the subgradient of least norm, which is zero at an optimum only.

    optimality_gap_ : float
        A rigorous bound on ``objective_`` minus its minimum, a duality gap, up to rounding. Infinite if a feature has
        neither a penalty nor bounds, and where it would take more than a twentieth of the fit: with an L2 penalty and
        an intercept, one more pass over the data. With an L1 norm alone it is large if the penalty is so weak that
        `gradient_norm_` is not small beside its strength over S, ``l1_ratio / (C * S)``; a smaller `tol` helps.

    n_passes_ : float
        Number of passes of the solver over the data: a pass over a tenth of the rows counts 0.1. Checks of the input
        are not counted, but the first scan of a stream or of a large memory-mapped file is.

    loss_curve_ : ndarray of shape (n_iterations,)
        F after each iteration. For ``'sgd'``, the mean over an epoch's mini-batches of F before each update, so with
        ``batch_size=None`` entry k is F before update k.

    history_ : dict of ndarrays of shape (n_iterations,)
        What was recorded in each iteration of `fit`, as NumPy arrays: ``'iteration'`` (``'epoch'`` for ``'sgd'``),
        counted from 1; ``'objective'``, the same as `loss_curve_`; ``'gradient_norm'``, the largest absolute entry of
        the gradient (not for ``'sgd'``, which does not compute the gradient of all rows; for data with at least twice
        as many features as rows, in the coordinates of the reduced problem); ``'seconds'`` since `fit` began. With
        validation data, given or held out, also ``'train_loss'``, ``'train_accuracy'``, ``'validation_loss'`` and
        ``'validation_accuracy'`` after each iteration; callbacks that need one of the first two add both. Losses are F
        without its penalty, with the same weights (including the class weights of the training rows); accuracies use
        the sample weights, as `score` does. Those of the training rows take one pass over the data in each epoch of
        ``'sgd'``, and in each iteration on a stream and where other solvers lack the memory to store the logits; for
        data with that many features, those of the validation data take one as well.

    solver_ : str
        The solver that was used.

    device_ : str
        The device that was used.

    device_reason_ : str
        Why it was used, in a sentence.

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
    and used on any other. Under ``sklearn.config_context(array_api_dispatch=True)`` they and all predictions are arrays
    of the library and on the device of X instead, and ``classes_`` of those of y. ``set_callbacks`` accepts callbacks
    of scikit-learn, with one task for each iteration or epoch of `fit`, and those of ``torchlogreg.callbacks``.

    References
    ----------
    .. [1] J. Nocedal and S. J. Wright (2006), Numerical Optimization, chapters 3, 6 and 7.
    .. [2] Q. Jin and A. Mokhtari (2021), Exploiting Local Convergence of Quasi-Newton Methods Globally: Adaptive
       Sample Size Approach, arXiv:2106.05445 (starting from samples of the rows).
    .. [3] R. M. Gower et al. (2019), SGD: General Analysis and Improved Rates, ICML (the learning rate ``'auto'``).
    .. [4] J. D. Lee, Y. Sun and M. A. Saunders (2014), Proximal Newton-Type Methods for Minimizing Composite Functions,
       arXiv:1206.1623.

    Examples
    --------{example}
    """


CROSS_VALIDATION = """{summary}

    For every value of C and l1_ratio and every fold it minimises the objective of :class:`{single}`. All these models
    are solved as one batch that shares the passes over the data (as two if some penalties have an L1 norm and others
    have none), so the results are those of single fits in a fraction of the time. It follows
    :class:`~sklearn.linear_model.LogisticRegressionCV` with ``use_legacy_attributes=False``.

    Parameters
    ----------
    Cs : int or array-like of shape (n_cs,), default=10
        Values of C, or how many of them to space evenly on a log scale: from 1e-4 to 1e4 if 0 is among `l1_ratios`, as
        in LogisticRegressionCV. Otherwise they begin where all coefficients are still zero and the first is about to
        enter, for the smallest l1_ratio (see :func:`smallest_useful_C`, which knows no `penalty_weights` and
        `coef_bounds`), and span four powers of ten, or two if there are not more rows than features. Where weights or
        bounds keep a coefficient from being zero, they span from 1e-4 to 1e4. ``np.inf`` means no penalty.

    l1_ratios : array-like of shape (n_l1_ratios,), default=(0.0,)
        Values of l1_ratio, the share of the L1 norm in the penalty, from 0 (L2) to 1 (L1). All values of C are tried
        with each of them.

    penalty_weights : array-like of shape (n_features,) or dict, default=None
        Factor of each feature's penalty, for all values of C; see :class:`{single}`.

    coef_bounds : pair (lower, upper) or dict, default=None
        Bounds of the coefficients; see :class:`{single}`.

    fit_intercept : bool, default=True
        Whether the models have an intercept.

    cv : int, cross-validation generator or iterable, default=None
        How to split: a number of stratified folds (None means 5), a splitter of scikit-learn, or pairs of training and
        test indices. Rows that are listed twice count twice.

    scoring : str, callable or None, default='neg_log_loss'
        The score that selects C and l1_ratio: the name of a scorer, a function ``scoring(estimator, X, y)``, or None
        for the accuracy. ``'neg_log_loss'`` and ``'accuracy'`` are computed for all models at once.

    class_weight : dict or 'balanced', default=None
        Weight of each class, multiplied with the sample weights. ``'balanced'`` gives all classes the same total weight
        in every fold (in LogisticRegressionCV: in all rows together).

    solver : {{'auto', 'lbfgs', 'newton-cholesky', 'prox-newton'}}, default='auto'
        The algorithm; see :class:`{single}`. Penalties with an L1 norm need ``'auto'`` or ``'prox-newton'``.

    tol : float, default=1e-4
        Tolerance of each fit; see :class:`{single}`.

    max_iter : int, default=100
        Maximum number of iterations of each fit.

    refit : bool, default=True
        Whether the final model is fitted to all rows at the best C and l1_ratio. Otherwise it is the mean over the
        folds of the models that were best on each, and `C_` and `l1_ratio_` are the means of theirs.

    random_state : int, RandomState instance or None, default=None
        Seed of the samples of rows in ``'lbfgs'`` and ``'prox-newton'``, where None is a fixed seed.

    verbose : int, default=0
        Whether to print how many models are done. ``set_callbacks(ProgressBar())`` shows a progress bar.

    device : str or torch.device, default='auto'
        Where to compute; see :class:`{single}`. With ``'auto'`` the number of models counts.

    Attributes
    ----------
    C_ : float
        The best C: the one with the largest mean score, together with `l1_ratio_`. Of several with the same score, the
        first.

    Cs_ : ndarray of shape (n_cs,)
        The values of C.

    scores_ : ndarray of shape (n_folds, n_l1_ratios, n_cs)
        Score of every fold, l1_ratio and C.

    coefs_paths_ : ndarray of shape (n_folds, n_l1_ratios, n_cs, n_classes, n_features + 1)
        Coefficients of every fold, l1_ratio and C, the intercept last (without it if ``fit_intercept=False``); one row
        in place of ``n_classes`` if there are two classes.

    n_iter_ : ndarray of shape (n_folds, n_l1_ratios, n_cs)
        Iterations of every fold, l1_ratio and C, including those of the model of all rows where the fold starts from
        it.

    cv_results_ : dict
        The scores in the format of :class:`~sklearn.model_selection.GridSearchCV`. Times are a model's share of the
        batch.

    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients of the final model.

    intercept_ : ndarray of shape (1,) or (n_classes,)
        Its intercepts; zero if ``fit_intercept=False``.

    classes_ : ndarray of shape (n_classes,)
        Class labels.

    converged_ : bool
        Whether all models met `tol`.

    objective_ : float
        Objective of the final model, if ``refit=True``.

    gradient_norm_ : float
        Largest absolute entry of its gradient, if ``refit=True``.

    l1_ratio_ : float
        The best l1_ratio.

    l1_ratios_ : ndarray of shape (n_l1_ratios,)
        The values of l1_ratio.

    solver_ : str
        The solver of the final model.

    device_ : str
        The device that was used.

    device_reason_ : str
        Why it was used, in a sentence.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where X has them.

    See Also
    --------
    {single} : One fit.
    TorchGridSearchCV : The same for other parameters, and for pipelines.
    ScorePathDisplay : Plot of the scores against C.
    smallest_useful_C : Where a path of models with an L1 norm begins.

    Notes
    -----
    A fold is a weight of zero for the rows that it holds out, so X is neither copied nor sliced. The models of all rows
    are fitted first, one for each C and only as precisely as the folds differ from them; those of the folds start
    there, and all folds share the preconditioner of their C. Where classes are nearly separable, the models with weak
    penalties start from those with stronger ones on the same fold instead. With an L1 norm, all models of the folds
    start at those of all rows and share their curvature; on small data they are solved one by one. A fold in which a
    class is missing is fitted and scored with all classes, as in LogisticRegressionCV.

    Examples
    --------{example}
    """


def documented(template: str, **parts: str) -> Callable[[Class], Class]:
    """Fill in a docstring that two estimators share."""

    def decorate(cls: Class) -> Class:
        cls.__doc__ = template.format(**parts)
        return cls

    return decorate
