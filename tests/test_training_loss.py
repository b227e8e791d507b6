"""The loss against its formula in float64, and the schedules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from earmark.training.loss import AngularMargin  # noqa: E402
from earmark.training.schedule import learning_rate, ramp  # noqa: E402


def formula(embeddings: Any, centres: Any, labels: Any, margin: float, scale: float) -> Any:
    """The mean loss from angles, as the paper writes it, with float64 tensors."""
    directions = embeddings / embeddings.norm(dim=1, keepdim=True)
    angles = torch.acos(directions @ (centres / centres.norm(dim=1, keepdim=True)).T)
    losses = []
    for row, label in zip(angles, labels.tolist(), strict=True):
        theta = row[label]
        moved = torch.cos(theta + margin)
        if theta > np.pi - margin:
            moved = torch.cos(theta) - margin * np.sin(margin)
        logits = torch.cat([moved[None], torch.cos(row[:label]), torch.cos(row[label + 1 :])])
        losses.append(torch.logsumexp(scale * logits, dim=0) - scale * logits[0])
    return torch.stack(losses).mean()


@given(
    seed=st.integers(0, 10000),
    margin=st.sampled_from([0.0, 0.1, 0.2, 0.5]),
    scale=st.sampled_from([1.0, 30.0]),
    opposite=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_loss_and_gradients(seed: int, margin: float, scale: float, opposite: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    centres = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (6,), generator=generator)
    if opposite:  # beyond pi - margin, where the line begins
        embeddings[0] = -centres[labels[0]] + 0.02 * embeddings[0]
    head = AngularMargin(4, 5, scale)
    with torch.no_grad():
        head.weight.copy_(centres)
    given_embeddings = embeddings.float().requires_grad_()
    loss, correct = head(given_embeddings, labels, margin)
    loss.backward()
    embeddings.requires_grad_()
    centres.requires_grad_()
    expected = formula(embeddings, centres, labels, margin, scale)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    for found, wanted in (
        (given_embeddings.grad, embeddings.grad),
        (head.weight.grad, centres.grad),
    ):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=2e-4 * scale)
    cosines = torch.nn.functional.linear(embeddings, centres / centres.norm(dim=1, keepdim=True))
    assert correct == (cosines.argmax(dim=1) == labels).sum()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_extreme_angles_have_finite_gradients(sign: float, margin: float) -> None:
    """At the centre, and opposite to it, the angle itself has no derivative."""
    head = AngularMargin(3, 4, scale=30.0)
    embeddings = (sign * head.weight.detach()).clone().requires_grad_()
    loss, _ = head(embeddings, torch.arange(3), margin)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


def test_a_zero_embedding_is_no_accident() -> None:
    head = AngularMargin(3, 4, scale=30.0)
    embeddings = torch.zeros(2, 4, requires_grad=True)
    loss, _ = head(embeddings, torch.tensor([0, 2]), 0.2)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()


def test_the_loss_is_float32_under_autocast() -> None:
    head = AngularMargin(5, 8, scale=30.0)
    embeddings, labels = torch.randn(4, 8), torch.arange(4)
    plain, _ = head(embeddings, labels, 0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under, _ = head(embeddings, labels, 0.2)
    assert torch.equal(plain, under)


def test_placed_centres() -> None:
    head = AngularMargin(3, 4, scale=30.0)
    before = head.weight.detach().clone()
    head.place(torch.tensor([[3.0, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]]))
    assert torch.equal(head.weight[0], torch.tensor([0.6, 0.8, 0, 0]))
    assert torch.equal(head.weight[1], before[1])
    assert torch.equal(head.weight[2], torch.tensor([0.0, 0, 0, 1]))


@given(total=st.integers(1, 500), share=st.floats(0, 0.9))
@settings(max_examples=50, deadline=None)
def test_learning_rate_rises_then_falls(total: int, share: float) -> None:
    warmup = int(share * total)
    rates = [learning_rate(step, total, warmup, 2.0) for step in range(total)]
    assert all(0 < rate <= 2 for rate in rates)
    assert sorted(set(rates[:warmup])) == rates[:warmup]
    assert sorted(set(rates[warmup:]), reverse=True) == rates[warmup:]
    assert rates[-1] == pytest.approx(0.02)


def test_ramp() -> None:
    assert [ramp(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert ramp(0, 0) == 1
