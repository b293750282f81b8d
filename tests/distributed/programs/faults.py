"""Two processes or more of which one, the last, fails in some way."""

import os
import signal
import sys
import time

import numpy as np
import training

import minigrad as mg
from minigrad import distributed

case, folder, *rest = sys.argv[1:]
TIMEOUT = 60.0
SHORT = 2.0  # once all are at work: before, on a busy machine, one may well be late


def faulty():
    """Whether this is the process that fails."""
    return distributed.rank == distributed.world - 1


def at_step(number, act):
    """A callback of fit."""

    class Acts:
        def on_step(self, run):
            if run.step == number and act in (hang, stop):
                distributed.init(SHORT)
            if faulty() and run.step == number:
                act()

    return Acts()


def hang():
    while True:
        time.sleep(0.1)


def stop():
    """As a machine that hangs: no thread of the process runs."""
    os.kill(os.getpid(), signal.SIGSTOP)


def fail():
    raise ValueError("no such thing")


def train(**options):
    training.train(folder, epochs=1, validate=False, **options)


def case_version():
    import minigrad.distributed.processes as processes

    if os.environ["PMI_RANK"] == "1":
        processes.__version__ = "9.9"
    distributed.init(TIMEOUT)


def case_arguments():
    distributed.init(TIMEOUT)


def case_shapes():
    distributed.init(TIMEOUT)
    distributed.broadcast(mg.nn.Linear(3, 4 + faulty()))


def case_gradients():
    """One leaves out a part of its model."""
    distributed.init(TIMEOUT)
    model = mg.nn.Sequential(mg.nn.Linear(3, 4), mg.nn.Linear(4, 5))
    distributed.broadcast(model)
    x = mg.tensor(np.ones((2, 3), np.float32))
    y = model[0](x) if faulty() else model(x)
    y.sum().backward()
    distributed.average_gradients(model)


def case_other_code():
    """One makes another exchange."""
    session = distributed.init(TIMEOUT)
    session.gather("losses" if faulty() else "accuracies", np.zeros(3))


def case_lengths():
    """One makes another exchange, of more numbers: MPI's collective calls would end the run without a name."""
    session = distributed.init(TIMEOUT)
    session.gather("losses" if faulty() else "accuracies", np.zeros(300 if faulty() else 3))


def case_kinds():
    """One makes an exchange of another kind."""
    distributed.init(TIMEOUT)

    class Sends:
        def on_step(self, run):
            if faulty():
                distributed.broadcast(run.model)

    train(callbacks=[Sends()])


def case_own_folder():
    """Each has a folder of its own; rank 0 alone writes there."""
    distributed.init(TIMEOUT)
    training.train(os.path.join(folder, str(distributed.rank)), epochs=1, validate=False)


def case_absent():
    """One fails before it comes to `init`."""
    if os.environ["PMI_RANK"] == "0":
        raise ValueError("no such data")
    distributed.init(5.0)


def case_configuration():
    distributed.init(TIMEOUT)
    train(lr=0.2 if faulty() else 0.1)


def case_data():
    distributed.init(TIMEOUT)
    train(samples=600 if faulty() else 630)


def parts(momentum=0.9, **settings):
    """A small network with an optimizer, and data for it."""
    mg.manual_seed(0)
    model = mg.nn.Sequential(mg.nn.Linear(3, 4), mg.nn.Linear(4, 2))
    draws = np.random.default_rng(1)
    rows = draws.normal(size=(40, 3)).astype(np.float32), draws.integers(0, 2, 40)
    return model, mg.optim.SGD(model.parameters(), 0.1, momentum=momentum, **settings), rows


def before(model, optimizer, rows):
    """A step that was taken before the processes train together."""
    optimizer.zero_grad()
    mg.cross_entropy(model(mg.tensor(rows[0])), mg.tensor(rows[1])).backward()
    optimizer.step()


def together(model, optimizer, rows, **options):
    loader = mg.data.Loader(*rows, batch_size=8)
    mg.train.fit(model, optimizer, loader, epochs=1, progress=False, **options)


def case_momentum():
    """One has an optimizer that has taken a step before."""
    distributed.init(TIMEOUT)
    model, optimizer, rows = parts(ema=0.9)
    if faulty():
        before(model, optimizer, rows)
    together(model, optimizer, rows)


def case_momentum_of_a_loop():
    """All have taken steps before, one more of them than the others."""
    distributed.init(TIMEOUT)
    model, optimizer, rows = parts()
    for _ in range(2 if faulty() else 1):
        before(model, optimizer, rows)
    distributed.Averaging(optimizer, model)


def case_groups():
    """One has parameters in other groups, and leaves one out; the groups' settings are alike."""
    distributed.init(TIMEOUT)
    model, _, rows = parts()
    first, second = model[0].parameters(), model[1].parameters()
    groups = [first[:1], first[1:] + second[:1]] if faulty() else [first, second]
    together(model, mg.optim.SGD([{"params": group} for group in groups], 0.1), rows)


def case_schedule():
    """One has a schedule that has gone on before."""
    distributed.init(TIMEOUT)
    model, optimizer, rows = parts()
    schedule = mg.optim.PlateauSchedule(optimizer, "loss")
    if faulty():
        schedule.step(1.0)
    together(model, optimizer, rows, schedule=schedule)


def case_rows():
    """One has shuffled the data by itself."""
    distributed.init(TIMEOUT)
    model, optimizer, rows = parts()
    order = np.random.default_rng(distributed.rank).permutation(40)
    together(model, optimizer, tuple(part[order] for part in rows))


def case_validation_rows():
    """One has other data to validate on."""
    distributed.init(TIMEOUT)
    model, optimizer, rows = parts()
    together(model, optimizer, rows, validation=(rows[0][:20] + faulty(), rows[1][:20]))


def case_alike():
    """Nobody fails: all took a step before, data differ by rounding, are read by each, or are of a loader that was shared."""
    distributed.init(TIMEOUT)
    model, optimizer, (inputs, labels) = parts(ema=0.9)
    before(model, optimizer, (inputs, labels))
    rounded = inputs * np.float32(1 + 1e-6 * distributed.rank)
    together(model, optimizer, (rounded, labels), validation=(rounded[:20], labels[:20]))

    class Reads:
        def __len__(self):
            return 40

        def read_samples(self, rows):
            return inputs[rows] + distributed.rank

    together(model, optimizer, (Reads(), labels))
    own = mg.data.Loader(
        inputs + distributed.rank, labels, batch_size=8, rank=distributed.rank, world=distributed.world
    )
    mg.train.fit(model, optimizer, own, epochs=1, progress=False)


def case_estimator():
    """Nobody has set random_state."""
    distributed.init(TIMEOUT)
    _, _, rows = parts()
    from minigrad.sklearn import MinigradClassifier

    MinigradClassifier((4,), batch_size=8, epochs=1).fit(*rows)


def case_hang():
    distributed.init(TIMEOUT)
    train(callbacks=[at_step(3, hang)])


def case_stop():
    distributed.init(TIMEOUT)
    train(callbacks=[at_step(3, stop)])


def case_kill():
    distributed.init(TIMEOUT)
    train(callbacks=[at_step(3, lambda: os.kill(os.getpid(), signal.SIGKILL))])


def case_error():
    distributed.init(TIMEOUT)
    train(callbacks=[at_step(3, fail)])


def case_leave():
    """One ends its script, as if it were done."""
    distributed.init(TIMEOUT)
    train(callbacks=[at_step(3, lambda: sys.exit(0))])


def case_terminate():
    distributed.init(TIMEOUT)
    train(callbacks=[at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))])


def case_full_disk():
    """Rank 0 can write no more."""
    import resource

    distributed.init(TIMEOUT)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if distributed.rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    train()


def case_diverge():
    """A loss that is not finite in one of the parts."""
    distributed.init(TIMEOUT)
    own = mg.cross_entropy

    def loss(outputs, labels):
        return own(outputs, labels) * (1e38 if faulty() else 1.0) * 1e38

    train(loss=loss)


globals()[f"case_{case}"]()
