"""Attributes of modules and optimizers that change after the recording: the captured step does as the eager one does."""

import numpy as np
import pytest

import minigrad as mg

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
Y = np.arange(8) % 2


class Scaled(mg.nn.Module):
    """A module of a user's own, with all kinds of attributes that it decides by."""

    def __init__(self):
        self.scale, self.signs, self.options = 2.0, [1.0, 1.0], {"shift": 0.5}
        self.norm = mg.nn.BatchNorm(4)

    def forward(self, x):
        return self.norm(x) * self.scale * self.signs[0] + self.options["shift"]


def network():
    mg.manual_seed(0)
    return mg.nn.Sequential(
        mg.nn.Linear(4, 4), mg.nn.BatchNorm(4), mg.nn.ReLU(), mg.nn.Dropout(0.5), Scaled(), mg.nn.Linear(4, 2)
    )


def losses(captured, change, optimizer=lambda params: mg.optim.SGD(params, 0.1, momentum=0.9), build=network):
    """Seven steps with a change after three and back after five; losses and parameters."""
    model = build()
    training = optimizer(model.parameters())

    def step(x, y):
        training.zero_grad()
        loss = mg.cross_entropy(model(x), y)
        loss.backward()
        training.step()
        return loss

    call = mg.capture(step) if captured else lambda x, y: step(mg.tensor(x), y)
    found = []
    for i in range(7):
        if i == 3:
            change(model, training)
        found.append(call(X, Y).item())
    return found + [t.numpy().tobytes() for t in model.state_dict().values()]


def replaced(name, value):
    return lambda model, optimizer: setattr(model[int(name[0])], name[2:], value())


CHANGES = {
    "p": replaced("3.p", lambda: 0.0),
    "eps": replaced("1.eps", lambda: 1.0),
    "decay": replaced("1.decay", lambda: 0.0),
    "gamma": replaced("1.gamma", lambda: None),
    "weight": replaced("0.weight", lambda: mg.nn.Parameter(np.ones((4, 4), np.float32))),
    "bias": replaced("5.bias", lambda: None),
    "counter": replaced("3.counter", lambda: mg.tensor(np.array([7, 0], np.uint64))),
    "running mean": replaced("1.running_mean", lambda: mg.tensor(np.full(4, 9, np.float32))),
    "forward": replaced("2.forward", lambda: mg.sigmoid),
    "a layer": lambda m, o: m.layers.__setitem__(2, mg.nn.Sigmoid()),
    "another layer": lambda m, o: m.layers.insert(2, mg.nn.Tanh()),
    "a layer less": lambda m, o: m.layers.pop(2),
    "all layers": lambda m, o: setattr(m, "layers", list(m.layers[:2]) + list(m.layers[3:])),
    "a number": replaced("4.scale", lambda: 3.0),
    "a sign": replaced("4.scale", lambda: -2.0),
    "in a list": lambda m, o: m[4].signs.__setitem__(0, -1.0),
    "in a dict": lambda m, o: m[4].options.update(shift=2.0),
    "below": lambda m, o: setattr(m[4].norm, "eps", 1.0),
    "deleted": lambda m, o: (setattr(type(m[4]), "scale", 5.0), delattr(m[4], "scale")),
    "hyper": lambda m, o: setattr(o, "hyper", np.array([[0.01, 0.5, 0, 0]])),
    "params": lambda m, o: (o.params.pop(0), o.state["velocity"].pop(0)),
    "velocity": lambda m, o: o.state["velocity"].__setitem__(0, np.ones((4, 4), np.float32)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_change_is_respected(change):
    try:
        expected = losses(False, change)
        came = losses(True, change)
    finally:
        if hasattr(Scaled, "scale"):
            del Scaled.scale
    assert came == expected
    assert expected != losses(False, lambda model, optimizer: None)


def test_momentum_of_an_sgd_made_without_is_the_error_of_the_eager_step():
    for captured in (False, True):
        with pytest.raises(ValueError, match="momentum was set on an SGD made without"):
            losses(captured, lambda m, o: setattr(o, "momentum", 0.9), lambda params: mg.optim.SGD(params, 0.1))


def test_branch_of_a_concat_is_respected():
    def build():
        mg.manual_seed(1)
        branches = [mg.nn.Sequential(mg.nn.Linear(4, 3), mg.nn.BatchNorm(3), mg.nn.ReLU()) for _ in range(2)]
        return mg.nn.Sequential(mg.nn.Concat(*branches), mg.nn.Linear(6, 2))

    def change(model, optimizer):
        model[0].branches[1].layers[2] = mg.nn.Sigmoid()
        model[0].branches[0][1].eps = 1.0

    assert losses(True, change, build=build) == losses(False, change, build=build)


def test_toggles_find_the_earlier_recordings():
    model = network()
    step = mg.capture(model)
    for _ in range(4):
        model.train()
        step(X)
        model.eval()
        step(X)
        model[3].p = 0.25
        model[3].p = 0.5
    assert sum(map(len, step.plans.values())) == 2


def test_value_set_back_finds_the_earlier_recording():
    layer = mg.nn.Dropout(0.5)
    step = mg.capture(layer)
    for p in (0.5, 0.25, 0.5, 0.25):
        layer.p = p
        step(X)
    assert sum(map(len, step.plans.values())) == 2


def test_equal_value_is_not_a_change():
    model = network()
    step = mg.capture(model)
    for _ in range(5):
        model[4].scale = float("2.0")
        step(X)
    assert sum(map(len, step.plans.values())) == 1


def test_changes_elsewhere_do_not_record_anew():
    model, other = network(), network()
    step = mg.capture(model)
    for i in range(5):
        step(X)
        other[3].p = i / 10
        other(mg.tensor(X))
    assert sum(map(len, step.plans.values())) == 1


def test_callback_of_fit_that_sets_dropout_has_effect():
    class Less:
        def on_epoch_end(self, run, row):
            run.model[3].p = 0.0

    def history(capture):
        model = network()
        optimizer = mg.optim.SGD(model.parameters(), 0.1)
        loader = mg.data.Loader(X, Y, batch_size=4, shuffle=False)
        found = mg.train.fit(model, optimizer, loader, epochs=3, callbacks=[Less()], capture=capture)
        return [row["loss"] for row in found.epochs]

    assert history(True) == history(False)


def test_activations_are_not_passed_over_by_a_replay():
    model = network()
    step = mg.capture(model)
    step(X)
    step(X)
    with mg.inspect.activations(model, ["0"]), pytest.raises(mg.CaptureError, match="activations inside"):
        step(X)
    step(X)
    assert sum(map(len, step.plans.values())) == 1


# What the step itself changes


class Counts(mg.nn.Module):
    def __init__(self):
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * float(self.calls)


def test_number_that_the_step_counts_is_refused():
    module = Counts()
    step = mg.capture(module)
    assert step(X[:1]).numpy()[0, 0] == X[0, 0]
    with pytest.raises(mg.CaptureError, match=r"changes Counts.calls itself at every call"):
        step(X[:1])


class Remembers(mg.nn.Module):
    def forward(self, x):
        self.last = x * 2.0
        return self.last + 1.0


def test_tensor_left_in_an_attribute_is_that_of_the_latest_call():
    module = Remembers()
    step = mg.capture(module)
    kept = []
    for i in range(6):
        step(np.full(3, float(i), np.float32))
        kept.append(module.last)
    assert [t.numpy()[0] for t in kept] == [0, 2, 4, 6, 8, 10]
    assert sum(map(len, step.plans.values())) <= 2


class Carries(mg.nn.Module):
    """Keeps its state by putting another tensor in its place."""

    def __init__(self):
        self.state = mg.tensor([1.0])

    def forward(self, x):
        self.state = (self.state * 2.0).detach()
        return x * self.state


def test_state_that_the_step_replaces_and_reads_is_refused():
    step = mg.capture(Carries())
    x = np.ones(1, np.float32)
    with mg.no_grad():
        assert step(x).item() == 2
        with pytest.raises(mg.CaptureError, match=r"changes Carries.state itself at every call"):
            step(x)


class Lazy(mg.nn.Module):
    def __init__(self):
        self.factor = None

    def forward(self, x):
        if self.factor is None:
            self.factor = 3.0
        return x * self.factor


def test_what_is_set_once_is_recorded_once_more():
    step = mg.capture(Lazy())
    assert [step(np.ones(1, np.float32)).item() for _ in range(4)] == [3] * 4
    assert sum(map(len, step.plans.values())) == 2


def test_precision_of_products_selects_the_recording():
    step = mg.capture(lambda x: x @ x.transpose())
    step(X)
    with mg.matmul_precision("tf32"):
        step(X)
        step(X)
    step(X)
    assert sum(map(len, step.plans.values())) == 2
