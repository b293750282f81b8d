"""MinigradClassifier and MinigradRegressor as scikit-learn's users meet them."""

import functools
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from targets import first_only

import minigrad as mg

pytest.importorskip("sklearn")

import joblib
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from minigrad.sklearn import MinigradClassifier, MinigradRegressor

Classifier = functools.partial(MinigradClassifier, model=(8,), epochs=3, batch_size=16, random_state=0)
Regressor = functools.partial(MinigradRegressor, model=(8,), epochs=3, batch_size=16, random_state=0)


@pytest.fixture
def flowers(rng):
    """90 rows of 4 features in three classes that are nearly apart."""
    y = np.array(["iris", "lily", "rose"])[np.arange(90) % 3]
    return rng.standard_normal((90, 4)) + 2 * (np.arange(90) % 3)[:, None], y


@pytest.fixture
def numbers(rng):
    """80 rows of 4 features, and a smooth function of them."""
    x = rng.standard_normal((80, 4))
    return x, np.sin(x[:, 0]) + x[:, 1]


def weights(estimator):
    return {name: t.numpy() for name, t in estimator.model_.state_dict().items()}


def assert_same_bits(one, other):
    for name, array in weights(one).items():
        assert array.tobytes() == weights(other)[name].tobytes(), name


CHECKS = """
import sys
from sklearn.utils.estimator_checks import check_estimator
import minigrad as mg
kind = getattr(mg.sklearn, sys.argv[1])
results = check_estimator(kind(batch_norm=sys.argv[2] == "True"), on_skip=None, on_fail=None)
for r in results:
    if r["status"] != "passed":
        print(r["check_name"], r["status"], repr(r["exception"]))
print(len(results))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MinigradClassifier", "MinigradRegressor"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_scikit_learns_checks_pass_and_none_is_skipped(kind, batch_norm):
    """In a process of its own, since one of them wants a setting that SciPy reads when it is imported."""
    setting = {**os.environ, "SCIPY_ARRAY_API": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", CHECKS, kind, str(batch_norm)]
    result = subprocess.run(command, capture_output=True, text=True, env=setting, timeout=250)
    assert result.returncode == 0, result.stderr[-3000:]
    *failed, count = result.stdout.splitlines()
    assert failed == []
    assert int(count) > 50


def test_without_scikit_learn_an_error_says_what_to_install():
    code = """
import sys
sys.modules["sklearn"] = None
import minigrad as mg
print(dir(mg.sklearn)[:2])
try:
    mg.sklearn.MinigradRegressor
except ImportError as error:
    print(error)
"""
    came = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    names, error = came.stdout.splitlines()
    assert names == "['MinigradClassifier', 'MinigradRegressor']"
    assert error.startswith("MinigradRegressor needs scikit-learn 1.6 or newer")
    assert error.endswith("pip install 'minigrad-bn[sklearn]'")


# What comes out


def test_classes_are_told_apart(flowers):
    x, y = flowers
    model = Classifier(epochs=20, lr=0.02).fit(x, y)
    assert model.score(x, y) > 0.9
    assert model.classes_.tolist() == ["iris", "lily", "rose"]
    p = model.predict_proba(x)
    assert p.shape == (90, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(model.classes_[p.argmax(axis=1)], model.predict(x))
    np.testing.assert_allclose(np.exp(model.predict_log_proba(x)), p)


def test_probabilities_are_the_softmax_of_the_networks_logits(flowers):
    x, y = flowers
    model = Classifier().fit(x, y)
    expected = mg.softmax(model.model_(x.astype(np.float32))).numpy()
    np.testing.assert_allclose(model.predict_proba(x), expected, rtol=1e-5)


@pytest.mark.parametrize("columns", [(), (1,), (2,)], ids=["vector", "column", "two"])
def test_predictions_have_the_shape_of_the_targets(numbers, columns):
    x, y = numbers
    targets = y if columns == () else np.stack([y] * columns[0], axis=1)
    model = Regressor(epochs=60, lr=0.02).fit(x, targets)
    assert model.predict(x).shape == (80, *columns)
    assert model.score(x, targets) > 0.5


def test_fit_is_the_training_that_mg_train_does(flowers):
    x, y = flowers
    model = Classifier(batch_norm=False).fit(x, y)
    seed = model._seed
    with mg.random.seeded(seed):
        net = mg.nn.Sequential(mg.nn.Linear(4, 8), mg.nn.ReLU(), mg.nn.Linear(8, 3))
    loader = mg.data.Loader(x.astype(np.float32), np.arange(90) % 3, batch_size=16, seed=seed)
    optimizer = mg.optim.Adam(net.parameters(), lr=1e-3)
    history = mg.train.fit(net, optimizer, loader, epochs=3)
    for name, t in net.state_dict().items():
        assert t.numpy().tobytes() == weights(model)[name].tobytes(), name
    assert model.history_.column("loss") == history.column("loss")
    assert model.history_.column("accuracy") == history.column("accuracy")


def test_statistics_are_those_of_the_training_data(numbers):
    x, y = numbers
    model = Regressor(batch_size=80).fit(x, y)
    hidden = mg.nn.Sequential(*model.model_[:1])(x.astype(np.float32)).numpy()
    np.testing.assert_allclose(model.model_[1].running_mean.numpy(), hidden.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(model.model_[1].running_var.numpy(), hidden.var(axis=0, ddof=1), rtol=1e-4)


# Seeds


@pytest.mark.parametrize("make", [Classifier, Regressor])
def test_same_seed_same_bits_with_any_number_of_threads(flowers, make, set_threads):
    x, y = flowers
    y = y if make is Classifier else x[:, 0]
    one = make().fit(x, y)
    set_threads(1)
    assert_same_bits(one, make().fit(x, y))
    with pytest.raises(AssertionError):
        assert_same_bits(one, make(random_state=1).fit(x, y))


def test_random_numbers_of_others_are_left_alone(flowers):
    mg.manual_seed(5)
    expected = mg.nn.Linear(3, 3).weight.numpy()
    mg.manual_seed(5)
    Classifier().fit(*flowers)
    assert mg.nn.Linear(3, 3).weight.numpy().tobytes() == expected.tobytes()


def test_generator_is_drawn_from(flowers):
    state = np.random.RandomState(0)
    one, two = Classifier(random_state=state).fit(*flowers), Classifier(random_state=state).fit(*flowers)
    with pytest.raises(AssertionError):
        assert_same_bits(one, two)


def test_seeds_do_not_mix_among_threads(flowers):
    expected = [Classifier(random_state=seed).fit(*flowers) for seed in range(4)]
    came = [Classifier(random_state=seed) for seed in range(4)]
    threads = [threading.Thread(target=estimator.fit, args=flowers) for estimator in came]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(expected, came, strict=True):
        assert_same_bits(one, other)


# Going on


def test_partial_fit_goes_on_with_weights_and_optimizer(flowers):
    x, y = flowers
    model = Classifier()
    for _ in range(3):
        model.partial_fit(x, y, classes=np.unique(y))
    assert model.n_iter_ == 3
    whole = Classifier(batch_norm=False).fit(x, y)
    parts = Classifier(batch_norm=False)
    for _ in range(3):
        parts.partial_fit(x, y, classes=np.unique(y))
    assert_same_bits(whole, parts)


def test_partial_fit_of_the_regressor(numbers):
    x, y = numbers
    model = Regressor(batch_norm=False)
    for _ in range(3):
        model.partial_fit(x, y)
    assert_same_bits(model, Regressor(batch_norm=False).fit(x, y))
    with pytest.raises(ValueError, match=r"y has the shape \(80, 1\), and training began with \('n',\)"):
        model.partial_fit(x, y[:, None])


def test_partial_fit_takes_a_new_learning_rate(flowers):
    x, y = flowers
    model = Classifier().partial_fit(x, y, classes=np.unique(y))
    before = weights(model)
    model.set_params(lr=0.0).partial_fit(x, y)
    np.testing.assert_array_equal(before["0.weight"], weights(model)["0.weight"])


def test_partial_fit_needs_the_classes_first(flowers):
    x, y = flowers
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        Classifier().partial_fit(x, y)
    model = Classifier().partial_fit(x, y, classes=["iris", "lily", "rose"])
    with pytest.raises(ValueError, match="are not those of the first call"):
        model.partial_fit(x, y, classes=["iris", "lily"])
    with pytest.raises(ValueError, match=r"classes that training did not begin with: \['oak'\]"):
        model.partial_fit(x[:2], ["iris", "oak"])
    with pytest.raises(ValueError, match="early_stopping=False"):
        Classifier(early_stopping=True).partial_fit(x, y, classes=np.unique(y))


def test_warm_start_goes_on_from_the_weights(flowers):
    x, y = flowers
    model = Classifier(warm_start=True, batch_norm=False, optimizer="sgd").fit(x, y)
    before = weights(model)
    model.set_params(lr=0.0, epochs=2).fit(x, y)
    np.testing.assert_array_equal(before["0.weight"], weights(model)["0.weight"])
    assert model.n_iter_ == 5
    with pytest.raises(ValueError, match="features"):
        model.fit(x[:, :2], y)


def test_fit_begins_anew_without_warm_start(flowers):
    x, y = flowers
    assert_same_bits(Classifier().fit(x, y), Classifier().fit(x[:50, :2], y[:50]).fit(x, y))


def test_early_stop_gives_the_best_epoch(flowers, rng):
    x, _ = flowers
    y = rng.integers(0, 2, 90)  # nothing to be learnt
    model = Classifier(epochs=200, lr=0.05, early_stopping=True, validation_fraction=0.3, n_iter_no_change=3).fit(x, y)
    losses = model.history_.column("validation_loss")
    assert model.n_iter_ == len(losses) < 200
    assert len(losses) - 1 - int(np.argmin(losses)) == 3
    assert "has not improved" in model.history_.stopped
    shorter = Classifier(
        epochs=int(np.argmin(losses)) + 1, lr=0.05, early_stopping=True, validation_fraction=0.3, n_iter_no_change=999
    ).fit(x, y)
    assert_same_bits(model, shorter)


def test_validation_rows_have_all_classes(flowers):
    x, y = flowers
    seen = []

    def note(run, row):
        seen.append(run.validation.arrays[1])

    Classifier(early_stopping=True, callbacks=note).fit(x, y)
    assert np.bincount(seen[0]).tolist() == [3, 3, 3]


# Networks and optimizers of one's own


def squares(features, outputs):
    """A network for pictures of 2 x 2."""

    class Net(mg.nn.Module):
        def __init__(self):
            self.conv = mg.nn.Conv2d(1, 4, 2)
            self.norm = mg.nn.BatchNorm(4)
            self.out = mg.nn.Linear(4, outputs)

        def forward(self, x):
            x = mg.relu(self.norm(self.conv(x.reshape(-1, 2, 2, 1))))
            return self.out(x.reshape(-1, 4))

    assert features == 4
    return Net()


def test_network_from_a_function(flowers):
    x, y = flowers
    model = Classifier(model=squares, epochs=30, lr=0.02).fit(x, y)
    assert model.score(x, y) > 0.9
    assert_same_bits(model, Classifier(model=squares, epochs=30, lr=0.02).fit(x, y))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": mg.nn.Linear(4, 3)}, TypeError, "not a network, which a second fit would find trained"),
        ({"model": "100"}, TypeError, "widths of hidden layers"),
        ({"model": 100}, TypeError, r"such as \(100,\)"),
        ({"model": (0,)}, ValueError, r"model\[0\] must be at least 1"),
        ({"model": lambda i, o: None}, TypeError, "it made a NoneType"),
        (
            {"model": lambda i, o: mg.nn.Linear(i, o + 1)},
            ValueError,
            r"must give 3 numbers a row, \(16, 3\), not \(16, 4\)",
        ),
        ({"activation": "gelus"}, ValueError, "activation must be one of"),
        ({"optimizer": "adamant"}, ValueError, "optimizer must be 'adam'"),
        ({"optimizer": lambda p, lr, weight_decay: None}, TypeError, "it made a NoneType"),
        ({"lr": -1.0}, ValueError, "lr must be at least 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer"),
        ({"device": "gpu"}, ValueError, "unknown device 'gpu'"),
        ({"callbacks": "print"}, TypeError, "has none of the methods"),
    ],
)
def test_arguments_that_make_no_sense(flowers, options, error, message):
    options = {"model": (8,), "epochs": 3, "batch_size": 16, "random_state": 0} | options
    with pytest.raises(error, match=message):
        MinigradClassifier(**options).fit(*flowers)


@pytest.mark.parametrize(
    "optimizer",
    [
        "adam",
        "adamw",
        "sgd",
        "rmsprop",
        "adagrad",
        mg.optim.Adam,
        functools.partial(mg.optim.SGD, momentum=0.5, nesterov=True),
    ],
)
def test_optimizers(flowers, optimizer):
    model = Classifier(optimizer=optimizer, lr=0.02, weight_decay=1e-3).fit(*flowers)
    assert (model.optimizer_.lr, model.optimizer_.weight_decay) == (0.02, 1e-3)


def test_loss_of_ones_own(numbers):
    x, y = numbers
    twice = Regressor(loss=lambda outputs, targets: mg.mse_loss(outputs, targets) * 2.0, lr=0.0).fit(x, y)
    once = Regressor(lr=0.0).fit(x, y)
    np.testing.assert_allclose(twice.history_.column("loss"), 2 * np.array(once.history_.column("loss")), rtol=1e-6)


def test_callbacks_are_called_and_stay_as_given(flowers):
    stop = mg.train.EarlyStop(1, monitor="loss", min_delta=100.0)
    model = Classifier(callbacks=stop, epochs=9).fit(*flowers)
    assert model.n_iter_ == 2
    assert stop.best.value is None


def test_verbose_writes_a_line_for_each_epoch(flowers, capsys):
    Classifier().fit(*flowers)
    assert capsys.readouterr().err == ""
    Classifier(verbose=True).fit(*flowers)
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["1", "2", "3"]


@pytest.mark.parametrize("device", ["reference"])
def test_device_is_where_the_network_is(flowers, device):
    model = Classifier(device=device).fit(*flowers)
    assert model.model_[0].weight.device == device
    np.testing.assert_allclose(
        model.predict_proba(flowers[0]), Classifier().fit(*flowers).predict_proba(flowers[0]), atol=1e-4
    )


# Data


def test_last_batch_of_one_row_is_left_out_with_batch_norm(flowers):
    x, y = flowers[0][:33], flowers[1][:33]
    steps = []

    def note(run, row):
        steps.append((run.per_epoch, run.epoch))

    Classifier(callbacks=note).fit(x, y)
    assert steps == [(2, 1), (2, 2), (2, 3)]
    steps.clear()
    Classifier(batch_norm=False, callbacks=note).fit(x, y)
    assert steps == [(3, 1), (3, 2), (3, 3)]


def test_one_row_is_refused_with_batch_norm(numbers):
    x, y = numbers
    with pytest.raises(ValueError, match="n_samples=1, whose variance is 0"):
        Regressor().fit(x[:1], y[:1])
    assert Regressor(batch_norm=False).fit(x[:1], y[:1]).predict(x[:1]).shape == (1,)


def test_one_class_is_refused(flowers):
    with pytest.raises(ValueError, match="at least two classes, and there is one class: .'iris'."):
        Classifier().fit(flowers[0], ["iris"] * 90)


def test_numbers_too_large_for_float32_are_refused(flowers):
    x, y = flowers
    with pytest.raises(ValueError, match="too large for dtype"):
        Classifier().fit(np.where(x > 1, 1e300, x), y)
    model = Classifier().fit(x, y)
    with pytest.raises(ValueError, match="too large for dtype"):
        model.predict(x * 1e300)
    with pytest.raises(ValueError, match="y contains infinity or a value too large for dtype"):
        Regressor().fit(x, x[:, 0] * 1e300)


def test_not_fitted(flowers):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        Classifier().predict_proba(flowers[0])


def test_names_of_columns(flowers):
    pandas = pytest.importorskip("pandas")
    x, y = flowers
    frame = pandas.DataFrame(x, columns=["a", "b", "c", "d"])
    model = Classifier().fit(frame, pandas.Series(y))
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    assert_same_bits(model, Classifier().fit(x, y))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"a": "z"}))


# Among scikit-learn's tools


def test_clone_and_parameters(flowers):
    model = Classifier(model=squares, lr=0.5).fit(*flowers)
    twin = clone(model)
    assert not hasattr(twin, "model_")
    assert twin.get_params() == model.get_params()
    assert repr(MinigradClassifier(lr=0.5)) == "MinigradClassifier(lr=0.5)"


@pytest.mark.parametrize("make", [Classifier, Regressor])
def test_pickle_goes_on_with_the_same_bits(flowers, make):
    x, y = flowers
    y = y if make is Classifier else x[:, 0]
    model = make().fit(x, y)
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model.predict(x), twin.predict(x))
    assert_same_bits(model.partial_fit(x, y), twin.partial_fit(x, y))


@pytest.mark.parametrize("mode", ["r", "c", "r+", None])
def test_joblibs_files_go_on_with_the_same_bits(flowers, tmp_path, mode):
    x, y = flowers
    model = Classifier().fit(x, y)
    joblib.dump(model, tmp_path / "model")
    before = (tmp_path / "model").read_bytes()
    twin = joblib.load(tmp_path / "model", mmap_mode=mode)
    assert_same_bits(model.partial_fit(x, y), twin.partial_fit(x, y))
    assert (tmp_path / "model").read_bytes() == before


def test_pipeline_and_cross_validation(flowers):
    x, y = flowers
    scores = cross_val_score(make_pipeline(StandardScaler(), Classifier(epochs=30, lr=0.02)), x * [1, 1e3, 1e-3, 1], y)
    assert scores.mean() > 0.9


def test_targets_far_from_zero_by_a_transformed_regressor(numbers):
    x, y = numbers
    model = TransformedTargetRegressor(Regressor(epochs=60, lr=0.02), transformer=StandardScaler())
    assert model.fit(x, 1e4 + 1e3 * y).score(x, 1e4 + 1e3 * y) > 0.5


@pytest.mark.parametrize("backend", first_only("threading", "loky"))
def test_grid_search_in_two_processes_or_threads(flowers, backend):
    x, y = flowers
    grid = {"batch_norm": [True, False], "lr": [1e-3, 1e-2]}
    alone = GridSearchCV(Classifier(), grid, cv=3).fit(x, y)
    with joblib.parallel_config(backend):
        shared = GridSearchCV(Classifier(), grid, cv=3, n_jobs=2).fit(x, y)
    np.testing.assert_array_equal(alone.cv_results_["mean_test_score"], shared.cv_results_["mean_test_score"])
    assert_same_bits(alone.best_estimator_, shared.best_estimator_)


@pytest.mark.slow
def test_fitted_network_in_processes_that_map_it_into_memory(flowers):
    """joblib gives processes arrays above a size as read-only files; prediction there is the same."""
    x, y = flowers
    model = Classifier().fit(x, y)
    alone = permutation_importance(model, x, y, n_repeats=2, random_state=0)
    with joblib.parallel_config("loky", max_nbytes=1):
        shared = permutation_importance(model, x, y, n_repeats=2, random_state=0, n_jobs=2)
    np.testing.assert_array_equal(alone.importances, shared.importances)


def test_calibration(flowers):
    x, y = flowers
    model = CalibratedClassifierCV(Classifier(epochs=20, lr=0.02), cv=2).fit(x, y)
    assert model.score(x, y) > 0.9
