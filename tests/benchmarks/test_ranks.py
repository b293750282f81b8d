"""The model of benchmarks/ranks.py against what was measured, the page that shows both, and what measures."""

import contextlib
import importlib.util
import json
import math
import os
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from small_steps import step_of

import minigrad as mg

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "distributed" / "ranks.json"

pytest.importorskip("mpi4py")
pytestmark = pytest.mark.skipif(not RESULTS.exists(), reason="not run from the sources")

if RESULTS.exists():
    from benchmarks.tools import links, overlap, relay

    PLACES = links.PLACES
else:
    PLACES = {}


@pytest.fixture(scope="module")
def ranks():
    specification = importlib.util.spec_from_file_location("ranks_script", ROOT / "benchmarks" / "ranks.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured():
    return json.loads(RESULTS.read_text())


@pytest.mark.parametrize("delay", [1, 5, 20])
def test_the_model_is_right_over_links_with_a_delay(measured, delay):
    place = links.place_of(2, 100, delay)
    for size, seconds in measured["hosts"][place]["averages"].items():
        slack = 0.2 if (delay, size) == (20, "500000") else 0.08  # where TCP's window has to grow
        assert links.said_of(measured, place, int(size)) == pytest.approx(seconds, rel=slack), size


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_model_is_right_where_the_rate_decides(measured, hosts):
    place = links.place_of(hosts, 100)
    for size in (8_000, 64_000, 500_000, 2_500_000):
        said = links.said_of(measured, place, size)
        assert said == pytest.approx(measured["hosts"][place]["averages"][str(size)], rel=0.08), size


@pytest.mark.parametrize("place", [place for place, (*_, loss, _) in PLACES.items() if loss])
def test_the_model_knows_what_lost_packets_cost(measured, place):
    """To two fifths of the mean; what it leaves out makes an average longer, never shorter by more than a tenth."""
    for size, mean in measured["hosts"][place]["their mean"].items():
        assert 0.6 * mean < links.said_of(measured, place, int(size)) < 1.1 * mean, size


def test_a_window_that_halves_bounds_what_is_sent():
    """Reno's window is sqrt(3 / 2p) packets on average: 12 of them at a loss in a hundred."""
    reno = links.Losses(0.01, 0.01, 12e6, "reno")
    assert reno.bound() == pytest.approx(12.25 * links.PAYLOAD / 0.01, rel=1e-3)
    assert reno._replace(control="bbr").bound() == 12e6
    assert reno._replace(share=1e-6).bound() == 12e6
    slower = links.lost_seconds(2, 2e6, reno) - links.lost_seconds(2, 2e6, reno._replace(control="bbr"))
    assert slower == pytest.approx(2 * 1e6 * (1 / reno.bound() - 1 / 12e6), rel=0.02)


def test_a_lost_packet_delays_a_message_to_each_process():
    losses = links.Losses(0.01, 0.01, 12e6, "bbr")
    assert losses.late(100) == [(0.01, 0.015), (0.0, 0.01)]
    (_, last), (before, again) = losses.late(6 * links.PAYLOAD)
    assert (last, again, before) == pytest.approx((0.015, 0.01, 1 - 0.99**5))
    assert losses.late(1e9)[1][0] == pytest.approx(1 - 0.99 ** (12e6 * 0.01 / links.PAYLOAD))  # a round trip's
    assert losses.mean_delay(2, 100) == pytest.approx((1 - 0.99**2) * 0.015)


def test_the_model_gives_back_the_averages_it_was_fitted_to(measured):
    here, link = links.fitted(measured), links.fitted_link(measured["link"])
    for size in (4, 64_000, 25_000_000):
        said = links.ours_seconds(2, size, link, here)
        assert said == pytest.approx(measured["averages"][str(size)], rel=0.05)


def test_messages_that_go_two_ways_are_fitted_as_such():
    sizes = [8, 1_000, 4_000, 8_000, 16_000, 64_000, 1_000_000]
    times = {str(n): 2e-6 + n / 10e9 if n <= 8_000 else 9e-6 + n / 5e9 for n in sizes}
    short, long = links.fitted_link(times).ways
    assert short == pytest.approx((8_192, 2e-6, 10e9), rel=1e-6)
    assert long == pytest.approx((math.inf, 9e-6, 5e9), rel=1e-6)
    assert len(links.fitted_link({str(n): 1e-6 + n / 1e9 for n in sizes}).ways) in (1, 2)


def test_a_link_with_a_rate_and_a_delay_adds_both():
    link = links.as_set(links.plain(1e-5, 1e9), 100, 5)
    assert link.message(links.PAYLOAD) == pytest.approx(5e-3 + 1e-5 + links.PAYLOAD / 1e9 + links.FULL / 12.5e6)


def test_a_tree_needs_fewer_messages_than_a_ring():
    here = links.Machine(0.0, [(1e5, 1e-9), (1e8, 1e-9)])
    for seconds, messages in (
        (links.ring_seconds, 2 * 63),
        (links.tree_seconds, 2 * 6),
        (links.ours_seconds, 3 * 63),  # of which 63 bring the header that is compared first
    ):
        assert seconds(64, 1e6, links.plain(1.0, 1e30), here) == pytest.approx(messages)


def test_a_tree_sends_the_bytes_of_a_ring():
    here = links.Machine(0.0, [(1e5, 1e-9), (1e8, 1e-9)])
    for seconds in (links.ring_seconds, links.tree_seconds):
        assert seconds(64, 1e6, links.plain(0.0, 1e6), here) == pytest.approx(2 * 63 / 64)


def test_the_page_shows_what_the_model_prints(ranks, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    ranks.model(Path(shutil.copy(RESULTS, tmp_path)))
    printed = capsys.readouterr().out.splitlines()
    page = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    section = page.partition("## What it costs")[2].partition("## What is not there")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 20
    assert not [row for row in rows if row not in printed]


@contextlib.contextmanager
def two_ends(rate, delay, loss):
    """(what is sent into, the direction, what it comes out of); sockets that keep packets apart, as a TUN does."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    (into, source), (target, out) = pairs
    try:
        for end in (into, source, target, out):
            end.setblocking(False)
        way = relay.Direction(source.fileno(), target.fileno(), rate, delay, loss)
        way.random.seed(0)
        yield into, way, out
    finally:
        for end in (into, source, target, out):
            end.close()


@pytest.mark.skipif(os.name == "nt" or not hasattr(socket, "SOCK_SEQPACKET"), reason="needs sockets of Linux")
def test_the_relay_sends_at_its_rate_and_hands_over_a_delay_later():
    with two_ends(1e6, 0.05, 0.0) as (into, way, out):
        began = time.perf_counter()
        for _ in range(10):
            into.send(bytes(1_000))  # a millisecond each
        way.take()
        read = time.perf_counter()
        came = []
        while len(came) < 10:
            assert time.perf_counter() < began + 20
            way.give()
            with contextlib.suppress(BlockingIOError):
                while True:
                    came.append((len(out.recv(2_000)), time.perf_counter()))
        assert way.give() is None
    assert [n for n, _ in came] == [1_000] * 10
    assert began + 0.01 <= way.free <= read + 0.01
    assert came[0][1] >= began + 0.051
    assert came[-1][1] >= began + 0.06


@pytest.mark.skipif(os.name == "nt" or not hasattr(socket, "SOCK_SEQPACKET"), reason="needs sockets of Linux")
def test_the_relay_loses_the_share_that_it_is_told_and_what_comes_to_a_full_queue():
    with two_ends(1e12, 1e9, 0.25) as (into, way, _):
        for _ in range(400):
            into.send(bytes(10))
            way.take()
        assert 60 <= 400 - len(way.waiting) <= 140
        way.loss = 0.0
        for _ in range(relay.QUEUE):
            into.send(bytes(10))
            way.take()
        assert len(way.waiting) == relay.QUEUE


def test_buckets_are_complete_behind_the_launch_that_writes_their_last_gradient(rng):
    mg.manual_seed(0)
    model = mg.nn.Sequential(mg.nn.Linear(8, 8), mg.nn.ReLU(), mg.nn.Linear(8, 8), mg.nn.ReLU(), mg.nn.Linear(8, 3))
    optimizer = mg.optim.SGD(model.parameters(), 0.0)

    step = mg.capture(step_of(model, optimizer))
    given = rng.standard_normal((4, 8)).astype(np.float32), rng.integers(0, 3, 4)
    for _ in range(2):
        step(*given)
    gradients, update = overlap.completed(step.plan.launches)
    assert len(gradients) == 6
    assert step.plan.launches[update].kernel == "optim.sgd"
    before = [g.copy() for _, g in gradients]
    for i, launch in enumerate(step.plan.launches[:update]):
        for last, g in gradients:
            if i == last:
                g.fill(np.nan)
        launch.function(*launch.arguments)
        for (last, g), expected in zip(gradients, before, strict=True):
            if i == last:
                np.testing.assert_array_equal(g, expected)  # written whole by this very launch
    buckets = overlap.cut(gradients, 2)
    assert len(buckets) == 2
    assert [g.shape for _, arrays in buckets for g in arrays] == [g.shape for _, g in gradients]
    assert [i for i, _ in buckets] == [
        max(i for i, g in gradients if any(g is a for a in arrays)) for _, arrays in buckets
    ]
