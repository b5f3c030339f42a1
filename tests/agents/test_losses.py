import math

import pytest
import torch
from torch import nn

from rlkit.agents import losses


def test_q_target_golden():  # by hand: 1 + .9 * 3; discount 0 cuts
    next_q = torch.tensor([[1.0, 3.0], [5.0, 2.0]])
    y = losses.q_target(torch.tensor([1.0, -1.0]), torch.tensor([0.9, 0.0]), next_q, next_q)
    torch.testing.assert_close(y, torch.tensor([3.7, -1.0]))


def test_double_target_golden():  # the online network picks action 1, the target network says 4
    reward, discount = torch.tensor([0.5]), torch.tensor([0.99])
    online, target = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[5.0, 4.0, 9.0]])
    assert losses.q_target(reward, discount, target, online).item() == pytest.approx(4.46)
    assert losses.q_target(reward, discount, target, target).item() == pytest.approx(9.41)


def test_targets_carry_no_gradient():
    next_q = torch.ones(1, 2, requires_grad=True)
    assert not losses.q_target(torch.ones(1), torch.ones(1), next_q, next_q).requires_grad
    assert not losses.sac_target(torch.ones(1), torch.ones(1), next_q.T, next_q[:, 0], torch.tensor(1.0)).requires_grad


@pytest.mark.parametrize(("threshold", "value", "slope"), [(1.0, 1.2, 1.0), (2.0, 1.445, 1.7), (math.inf, 1.445, 1.7)])
@pytest.mark.parametrize("sign", [1, -1])
def test_huber_golden(threshold, value, slope, sign):
    error = torch.tensor([sign * 1.7], requires_grad=True)
    loss = losses.huber(error, threshold)
    loss.sum().backward()
    assert loss.item() == pytest.approx(value)
    assert error.grad.item() == pytest.approx(sign * slope)


def test_huber_is_smooth_at_zero_and_at_the_threshold():
    for point in (0.0, 1.0, -1.0):
        error = torch.tensor([point], requires_grad=True)
        losses.huber(error, 1.0).sum().backward()
        assert error.grad.item() == pytest.approx(point)


def test_weighted_mean_divides_by_the_batch():
    loss = torch.tensor([1.0, 2.0])
    assert losses.weighted_mean(loss, None).item() == 1.5
    assert losses.weighted_mean(loss, torch.tensor([1.0, 0.25])).item() == 0.75


def test_sac_target_golden():
    y = losses.sac_target(
        torch.tensor([1.0]), torch.tensor([0.99]), torch.tensor([[5.0], [4.2]]), torch.tensor([-1.3]), torch.tensor(0.2)
    )
    assert y.item() == pytest.approx(5.4154)


def test_sac_critic_loss_sums_critics_without_a_half():  # ((1 + 9) / 2) + ((4 + 0) / 2)
    td_error = torch.tensor([[1.0, 3.0], [2.0, 0.0]])
    assert losses.sac_critic(td_error, None).item() == 7.0
    assert losses.sac_critic(td_error, torch.tensor([1.0, 0.0])).item() == 2.5


def test_sac_actor_loss_takes_the_smaller_critic():  # mean of .5 * -2 - 1 and .5 * 4 - 3
    q = torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    assert losses.sac_actor(torch.tensor([-2.0, 4.0]), q, torch.tensor(0.5)).item() == -1.5


def test_temperature_falls_when_entropy_is_above_its_target():
    log_temperature = torch.tensor(math.log(0.5), requires_grad=True)
    loss = losses.sac_temperature(log_temperature, torch.tensor([-4.0, -2.0]), target_entropy=-1.0)
    assert loss.item() == pytest.approx(2.0)  # -.5 * (-3 - 1)
    loss.backward()
    assert log_temperature.grad.item() == pytest.approx(2.0)  # a positive slope: descent lowers the temperature


def test_temperature_step_on_the_logarithm_golden():
    log_temperature = torch.tensor(math.log(0.5), requires_grad=True)
    loss = losses.sac_temperature(log_temperature, torch.tensor([-4.0, -2.0]), -1.0, factor="log_temperature")
    assert loss.item() == pytest.approx(4 * math.log(0.5))  # -ln(.5) * (-3 - 1)
    loss.backward()
    assert log_temperature.grad.item() == pytest.approx(4.0)  # whatever the temperature


def test_weighted_log_prob_golden():  # rows 2 and 3 of the specification's densities as one action
    log_prob = torch.tensor([[-0.384624, -1.093063]])
    assert losses.action_log_prob(log_prob, None).item() == pytest.approx(-1.477687)
    weight = torch.tensor([1.500520, 0.499480])
    assert losses.action_log_prob(log_prob, weight).item() == pytest.approx(-1.123099, abs=1e-6)
    torch.testing.assert_close(losses.action_log_prob(log_prob, torch.ones(2)), log_prob.sum(-1), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("effect", "weight"),
    [
        ([0.8, -0.3], [1.500520, 0.499480]),
        ([0.8, -0.3, 0.0], [1.683313, 0.560326, 0.756361]),
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
        ([-7.0], [1.0]),
        ([1e4, -1e4], [2.0, 0.0]),
    ],
)
def test_causal_weight_golden(effect, weight):
    found = losses.causal_weight(torch.tensor(effect), 1.0)
    torch.testing.assert_close(found, torch.tensor(weight), atol=2e-6, rtol=0)
    assert found.sum().item() == pytest.approx(len(effect))


def test_causal_weights_depend_on_the_units_of_the_reward():  # as the specification measured them
    effect = torch.tensor([1.5, 0.0, -0.5])
    for units, weight in ((0.01, [1.01, 1.00, 0.99]), (1.0, [2.21, 0.49, 0.30]), (10.0, [3.00, 0.00, 0.00])):
        torch.testing.assert_close(losses.causal_weight(units * effect, 1.0), torch.tensor(weight), atol=5e-3, rtol=0)
    torch.testing.assert_close(losses.causal_weight(10 * effect, 10.0), losses.causal_weight(effect, 1.0))


def test_polyak_golden():
    target, online = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        target.weight.fill_(1.0), online.weight.fill_(3.0)
    losses.polyak_update(target, online, 0.25)
    assert target.weight.item() == 1.5
    assert online.weight.item() == 3.0


COLUMN, ROW = torch.ones(4, 1), torch.ones(4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.q_target(COLUMN, ROW, torch.ones(4, 2), torch.ones(4, 2)),
        lambda: losses.q_target(ROW, COLUMN, torch.ones(4, 2), torch.ones(4, 2)),
        lambda: losses.weighted_mean(ROW, COLUMN),
        lambda: losses.weighted_mean(COLUMN, None),
        lambda: losses.sac_target(COLUMN, ROW, torch.ones(2, 4), ROW, torch.tensor(1.0)),
        lambda: losses.sac_target(ROW, ROW, torch.ones(2, 4), COLUMN, torch.tensor(1.0)),
        lambda: losses.sac_actor(COLUMN, torch.ones(2, 4), torch.tensor(1.0)),
        lambda: losses.sac_temperature(torch.tensor(0.0), COLUMN, 1.0),
        lambda: losses.action_log_prob(ROW, None),
        lambda: losses.action_log_prob(torch.ones(4, 2), torch.ones(4)),
        lambda: losses.causal_weight(COLUMN, 1.0),
    ],
)
def test_column_vectors_are_refused(call):
    with pytest.raises(ValueError, match="wanted"):
        call()
