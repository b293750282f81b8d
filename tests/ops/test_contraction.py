import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import check_forward, check_grads

CASES = [
    ("ij,jk->ik", (3, 4), (4, 5)),
    ("ij,jk", (3, 4), (4, 5)),
    ("bik,bkj->bij", (2, 3, 4), (2, 4, 5)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("i,i->", (4,), (4,)),
    ("i,j->ij", (3,), (4,)),
    ("ij->ji", (3, 4)),
    ("ij->", (3, 4)),
    ("ij->i", (3, 4)),
    ("ijk,jil->kl", (2, 3, 4), (3, 2, 5)),
    ("ij,j->ij", (3, 4), (4,)),
    ("ij,k->ki", (3, 4), (5,)),
    ("ab,bc,cd->ad", (2, 3), (3, 4), (4, 5)),
    ("ai,bi,ci->abc", (2, 5), (3, 5), (4, 5)),
    ("a,ab,b,b->", (2,), (2, 3), (3,), (3,)),
    ("ii", (3, 3)),
    ("bii->bi", (2, 3, 3)),
    ("iji->ij", (3, 2, 3)),
    ("iii->i", (3, 3, 3)),
    ("ijij", (2, 3, 2, 3)),
    ("ii,i->i", (3, 3), (3,)),
    ("ii", (0, 0)),
    ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)),
    ("...ij,...jk", (5, 1, 2, 3), (4, 3, 2)),
    ("...,...", (2, 3), (3,)),
    ("i...->...i", (2, 3, 4)),
    ("b...a,a...->...b", (2, 3, 4, 5), (5, 4)),
    ("...ii->...i", (2, 3, 3)),
    ("ij->...ij", (2, 3)),
    ("i,i->", (1,), (3,)),
    ("...i,j,...k->j...", (2, 3), (2,), (1, 4)),
]


@pytest.mark.parametrize(("equation", "shapes"), [(e, s) for e, *s in CASES])
def test_einsum(equation, shapes, device, rng):
    arrays = [rng.standard_normal(shape) for shape in shapes]
    check_forward(
        lambda *t: mg.einsum(equation, *t), lambda *a: np.einsum(equation, *a), *arrays, device=device, rtol=1e-12
    )
    check_grads(lambda *t: mg.einsum(equation, *t), *arrays, device=device)


def test_einsum_without_opt_einsum(monkeypatch, rng):
    monkeypatch.setitem(__import__("sys").modules, "opt_einsum", None)
    a, b, c = (rng.standard_normal(shape) for shape in ((2, 3), (3, 4), (4, 5)))
    y = mg.einsum("ab,bc,cd->ad", *map(mg.tensor, (a, b, c)))
    np.testing.assert_allclose(y.numpy(), a @ b @ c)


def test_einsum_in_a_captured_step(rng):
    step = mg.capture(lambda a, b: mg.einsum("ij,kj->ik", a, b))
    for _ in range(3):
        a, b = rng.standard_normal((3, 4)).astype(np.float32), rng.standard_normal((5, 4)).astype(np.float32)
        np.testing.assert_allclose(step(a, b).numpy(), a @ b.T, rtol=1e-5, atol=1e-6)


def test_outer(device, rng):
    check_forward(mg.outer, np.outer, rng.standard_normal(3), rng.standard_normal(4), device=device)
    with pytest.raises(ValueError, match=r"outer needs two vectors, not shapes \(1, 1\) and \(2,\)"):
        mg.outer(mg.tensor([[1.0]]), mg.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("equation", "shapes", "message"),
    [
        ("ij,jk->ik", [(2, 3)], "is of 2 tensors, and 1 are given"),
        ("ij->ij", [(2, 3, 4)], "has 2 letters, its tensor the shape"),
        ("ij,jk->ik", [(2, 3), (4, 5)], "'j' of .* is 3 long in one tensor, 4 in another"),
        ("ii->i", [(2, 3)], r"'i' comes twice in 'ii' of .* the shape is \(2, 3\)"),
        ("i->ii", [(2,)], "must be letters of the tensors, each once"),
        ("ij->ik", [(2, 3)], "must be letters of the tensors, each once"),
        ("i...->i", [(2, 3)], "lacks ..., which stands for 1 axes of the tensors; .* need letters"),
        ("ij...->i", [(2,)], "has 2 letters, its tensor the shape"),
        ("i..->i", [(2, 3)], "has '.', where letters"),
        ("......", [(2, 3)], "has '.', where letters"),
        ("...,...", [(2, 3), (4,)], "an axis of ... of .* is 3 long in one tensor, 4 in another"),
    ],
)
def test_equations_that_do_not_fit_are_refused(equation, shapes, message):
    with pytest.raises(ValueError, match=message):
        mg.einsum(equation, *[mg.tensor(np.ones(s)) for s in shapes])


def test_what_is_no_equation_or_no_float_is_refused():
    x = mg.tensor([1.0])
    with pytest.raises(TypeError, match="the equation comes first, a string, not Tensor"):
        mg.einsum(x, "i->i")
    with pytest.raises(TypeError, match="einsum needs a float32 or float64 tensor, not int64"):
        mg.einsum("i->", mg.tensor([1]))
