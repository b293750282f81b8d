"""The estimators: what scikit-learn asks of them, over `mg.train.fit` and `mg.train.predict`."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils import Tags, assert_all_finite, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from minigrad import train
from minigrad.checks import MOST, integer
from minigrad.nn import Module, recompute_statistics
from minigrad.ops import cross_entropy, mse_loss
from minigrad.optim import Optimizer
from minigrad.sklearn.parts import (
    BestWeights,
    Factory,
    made_loader,
    made_model,
    made_optimizer,
    normalizes,
    same_everywhere,
)
from minigrad.tensor import Tensor
from minigrad.train.callbacks import checked_callbacks

Loss = Callable[[Tensor, Tensor], Tensor]
Rows = Any  # what scikit-learn takes for data: an array, a data frame, nested lists


class NetworkEstimator(BaseEstimator):
    """What the two estimators share; a subclass says how targets become numbers, and outputs predictions."""

    model_: Module  # these are there once it is fitted
    optimizer_: Optimizer
    history_: train.History
    n_iter_: int
    _seed: int

    def __init__(
        self,
        model: Sequence[int] | Factory = (100,),
        *,
        batch_norm: bool = True,
        activation: str = "relu",
        loss: Loss | None = None,
        optimizer: str | Callable[..., Optimizer] = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        batch_size: int = 64,
        epochs: int = 50,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 0.0,
        callbacks: object = (),
        warm_start: bool = False,
        random_state: Any = None,
        device: str = "cpu",
        verbose: bool | int = False,
    ) -> None:
        self.model = model
        self.batch_norm = batch_norm
        self.activation = activation
        self.loss = loss
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.epochs = epochs
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.callbacks = callbacks
        self.warm_start = warm_start
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    # What the subclasses say

    _y_options: ClassVar[dict[str, bool]] = {}  # of scikit-learn's check of targets
    _metrics: ClassVar[tuple[str, ...]] = ()

    def _targets(self, y: np.ndarray, begins: bool, classes: Rows) -> np.ndarray:
        """The targets as the loss takes them; where training begins, what they are is noted."""
        raise NotImplementedError

    def _outputs(self) -> int:
        """How many numbers the network gives for a row."""
        raise NotImplementedError

    def _own_loss(self) -> Loss:
        """The loss where none was given."""
        raise NotImplementedError

    # Training

    def _train(self, X: Rows, y: Rows, *, begins: bool, epochs: int, partial: bool, classes: Rows = None) -> Self:
        """Train a network that is made here if it `begins`, else the one that is there; `partial` is a part of the data."""
        rows, y = in_float32(self, X, y, reset=begins, **self._y_options)
        targets = self._targets(y, begins, classes)
        size = integer("batch_size", self.batch_size)
        if begins:
            done, seed = 0, same_everywhere(int(check_random_state(self.random_state).randint(MOST)))
            model = made_model(
                self.model, rows.shape[1], self._outputs(), batch_norm=self.batch_norm, activation=self.activation,
                seed=seed, device=self.device,
            )  # fmt: skip
        else:
            done, seed, model = self.n_iter_, self._seed, self.model_
        if partial and not begins:
            optimizer = self.optimizer_
            optimizer.lr = self.lr
        else:
            optimizer = made_optimizer(self.optimizer, model, self.lr, self.weight_decay)
        watchers = checked_callbacks(copy.deepcopy(self.callbacks))
        if self.verbose and not any(isinstance(watcher, train.Progress) for watcher in watchers):
            watchers.append(train.Progress())
        validation, best = None, BestWeights()
        if self.early_stopping:
            rows, validation_rows, targets, validation_targets = train_test_split(
                rows, targets, test_size=self.validation_fraction, random_state=seed,
                stratify=targets if is_classifier(self) else None,
            )  # fmt: skip
            validation = validation_rows, validation_targets
            watchers += [best, train.EarlyStop(self.n_iter_no_change, min_delta=self.tol)]
        loader = made_loader(rows, targets, size, seed, model)
        loader.seek(done * len(loader))  # so that each epoch has an order of its own
        history = train.fit(
            model, optimizer, loader, epochs=epochs, loss=checked(self.loss or self._own_loss(), self._outputs()),
            metrics=self._metrics, validation=validation, callbacks=watchers, progress=False,
        )  # fmt: skip
        best.put_back(model)
        if not partial and normalizes(model):
            recompute_statistics(model, loader)
        self.model_, self.optimizer_, self.history_, self._seed = model.eval(), optimizer, history, seed
        self.n_iter_ = loader.position // len(loader)
        return self

    def fit(self, X: Rows, y: Rows) -> Self:
        """Train on rows X (n, features), which become float32, and their targets y.

        It takes `epochs` epochs, or as many as early stopping allows, and then replaces the running statistics of Batch
        Normalization by those of the training data (`mg.nn.recompute_statistics`). With warm_start=True it goes on from the
        weights that are there, with a new optimizer. Raises ValueError for data or parameters that make no sense,
        `mg.train.DivergedError` for a loss that is no longer finite.
        """
        begins = not (self.warm_start and hasattr(self, "model_"))
        return self._train(X, y, begins=begins, epochs=integer("epochs", self.epochs), partial=False)

    def _train_on(self, X: Rows, y: Rows, classes: Rows = None) -> Self:
        """One epoch over a part of the data; the optimizer goes on too."""
        if self.early_stopping:
            raise ValueError("partial_fit is one epoch, which cannot stop early: set early_stopping=False")
        return self._train(X, y, begins=not hasattr(self, "model_"), epochs=1, partial=True, classes=classes)

    # Predicting

    def _predicted(self, X: Rows) -> np.ndarray:
        """The network's outputs, computed in float32, as the float64 that scikit-learn expects: (n, outputs)."""
        check_is_fitted(self, "model_")
        rows = in_float32(self, X, reset=False)
        return train.predict(self.model_, rows).astype(np.float64)


def in_float32(estimator: NetworkEstimator, *data: Rows, **options: bool) -> Any:
    """The data as scikit-learn checks and converts them; a number that float32 cannot hold is its ValueError."""
    with np.errstate(over="ignore", invalid="ignore"):  # it becomes infinite, which is what the check finds
        return validate_data(estimator, *data, dtype=np.float32, **options)


def checked(loss: Loss, outputs: int) -> Loss:
    """The loss, which refuses outputs of another shape than (rows, outputs): a network of the user's may have others."""

    def checked_loss(predictions: Tensor, targets: Tensor) -> Tensor:
        shape = getattr(predictions, "shape", None)
        if shape != (len(targets), outputs):
            raise ValueError(f"the network must give {outputs} numbers a row, ({len(targets)}, {outputs}), not {shape}")
        return loss(predictions, targets)

    return checked_loss


class MinigradClassifier(ClassifierMixin, NetworkEstimator):
    """A network that tells classes apart, trained by `mg.train.fit` on the mean cross entropy.

    Args:
        model: widths of the hidden layers; or a function of the numbers of features and classes that makes a
            `mg.nn.Module` from (rows, features) to logits (rows, classes).
        batch_norm, activation: of hidden layers given by widths: whether each is normalized, and "relu", "sigmoid" or "tanh".
        loss: a function of (logits, labels) to the mean over the batch; None is `mg.cross_entropy`. Labels are the places
            in `classes_`.
        optimizer: "adam", "adamw", "sgd" (with momentum 0.9), "rmsprop", "adagrad", or what makes an optimizer when called
            with the parameters, `lr` and `weight_decay`: `mg.optim.Adam`, or a `functools.partial` of one with more settings.
        lr, weight_decay: learning rate and L2 penalty.
        batch_size: rows in a step, all of them where there are fewer. With Batch Normalization a last batch of one row
            is left out of its epoch.
        epochs: passes over the data that `fit` makes.
        early_stopping: set aside `validation_fraction` of the rows, of each class alike, and stop when the loss on them has
            not become better by more than `tol` for `n_iter_no_change` epochs; the weights are those of the best epoch.
        callbacks: one or several for `mg.train.fit`; each fit gets copies.
        warm_start: `fit` goes on from the weights of the last one.
        random_state: a seed, a `RandomState` or None, of initial weights, dropout, batches and the split; the same seed
            gives the same bits on the same kind of device, with any number of threads. `mg.manual_seed` plays no part. Set it
            where several processes train together.
        device: where to train and predict, "cpu", "cuda", "reference" or "auto".
        verbose: show progress, a line for each epoch.

    After fit there are `classes_`, `n_features_in_`, `feature_names_in_` (where the columns have names), `model_` (the
    network), `optimizer_`, `history_` (of the latest fit or partial_fit) and `n_iter_` (epochs in all).
    """

    _metrics = ("accuracy",)

    def _targets(self, y: np.ndarray, begins: bool, classes: Rows) -> np.ndarray:
        """The labels as places in `classes_`, int64 (n,)."""
        check_classification_targets(y)
        if begins:
            self.classes_ = np.unique(y if classes is None else classes)
            if len(self.classes_) < 2:
                raise ValueError(
                    f"a classifier needs at least two classes, and there is one class: {self.classes_.tolist()}"
                )
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y has classes that training did not begin with: {unknown[:5]}; it knows {self.classes_}")
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _outputs(self) -> int:
        """One logit for each class."""
        return len(self.classes_)

    def _own_loss(self) -> Loss:
        """The mean cross entropy."""
        return cross_entropy

    def partial_fit(self, X: Rows, y: Rows, classes: Rows = None) -> Self:
        """Train one epoch on a part of the data, where the last call left off; after it, statistics are running averages.

        The first call needs all `classes` there will be. Of the parameters set since then, lr, batch_size, callbacks and
        verbose count. Raises ValueError for a class that training did not begin with.
        """
        if not hasattr(self, "model_"):
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit: all that there will be")
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes {classes!r} are not those of the first call to partial_fit, {self.classes_}")
        return self._train_on(X, y, classes)

    def predict(self, X: Rows) -> np.ndarray:
        """The likeliest class of each row, (n,)."""
        places = self._predicted(X).argmax(axis=1)
        return self.classes_[places]

    def predict_proba(self, X: Rows) -> np.ndarray:
        """The probabilities of the classes, in the order of `classes_`: the softmax of the logits, float64 (n, classes)."""
        return softmax(self._predicted(X), axis=1)

    def predict_log_proba(self, X: Rows) -> np.ndarray:
        """Their logarithms, float64 (n, classes)."""
        return log_softmax(self._predicted(X), axis=1)


class MinigradRegressor(RegressorMixin, NetworkEstimator):
    """A network for numbers, one or several a row, trained by `mg.train.fit` on the mean squared error.

    Targets are taken as they are, as float32: where they are far from 0 or spread wide, train on standardized ones, by
    scikit-learn's `TransformedTargetRegressor(MinigradRegressor(), transformer=StandardScaler())`.

    Args:
        model: widths of the hidden layers; or a function of the numbers of features and targets that makes a
            `mg.nn.Module` from (rows, features) to (rows, targets), which are two axes for one target too.
        loss: a function of (outputs, targets), both float32 (rows, targets), to the mean over the batch; None is
            `mg.mse_loss`.

    All other arguments and attributes are those of `MinigradClassifier`, but for `classes_`.
    """

    _y_options: ClassVar[dict[str, bool]] = {"multi_output": True, "y_numeric": True}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _targets(self, y: np.ndarray, begins: bool, classes: Rows) -> np.ndarray:
        """The numbers, float32 (n, targets)."""
        columns = y.shape[1:]
        if begins:
            self._columns = columns  # () for targets that came as a vector, as which predictions then come
        elif columns != self._columns:
            raise ValueError(f"y has the shape {y.shape}, and training began with {('n', *self._columns)}")
        with np.errstate(over="ignore", invalid="ignore"):
            targets = y.reshape(len(y), -1).astype(np.float32)
            assert_all_finite(targets, input_name="y")
        return targets

    def _outputs(self) -> int:
        """A number for each target."""
        return self._columns[0] if self._columns else 1

    def _own_loss(self) -> Loss:
        """The mean squared error."""
        return mse_loss

    def partial_fit(self, X: Rows, y: Rows) -> Self:
        """Train one epoch on a part of the data, where the last call left off; after it, statistics are running averages.

        Of the parameters set since then, lr, batch_size, callbacks and verbose count.
        """
        return self._train_on(X, y)

    def predict(self, X: Rows) -> np.ndarray:
        """The targets of each row: float64, (n,) or (n, targets), as they came to fit."""
        outputs = self._predicted(X)
        return outputs.reshape(-1, *self._columns)
