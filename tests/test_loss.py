"""The loss of a step: what it adds up, and what it divides by."""

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from app.settings import TrainSettings
from app.training.loss import RowLoss, build_loss
from app.training.step import train_step
from app.training.trainer import Training
from data.collate import Batch, Targets
from data.label_format import SINGLE
from models import ImageTextOutput


class Penalised(torch.nn.Module):
    """A model whose logits are 0 and whose gates have a cost that is its parameter."""

    def __init__(self):
        super().__init__()
        self.work = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, number, output_attentions=False):
        return ImageTextOutput(logits=0 * self.work * number[:, None].expand(-1, 2), work=self.work * number)


def targets(num_rows: int) -> Targets:
    return Targets(torch.zeros(num_rows, dtype=torch.long), torch.ones(num_rows), torch.arange(num_rows))


@pytest.mark.parametrize("num_batches", [1, 2, 4])
def test_a_penalty_has_the_same_weight_for_any_accumulation(num_batches):
    model = Penalised()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    training = Training(model, optimizer, schedule, RowLoss(), None, None, None, None, 1)
    group = [Batch({"number": torch.ones(3)}, targets(3)) for _ in range(num_batches)]
    options = TrainSettings(gate_cost=0.5, gradient_accumulation_steps=num_batches)
    train_step(training, Accelerator(cpu=True), options, group, 1)
    assert model.work.item() == pytest.approx(1 - 0.5)


def test_the_loss_is_divided_by_the_sum_of_the_class_weights():
    labels, logits = torch.tensor([0, 0, 0, 1]), torch.randn(4, 2)
    loss = build_loss(TrainSettings(class_weights="balanced"), {"a": 0, "b": 1}, ["a", "a", "a", "b"], SINGLE)
    mean = loss(logits, labels, torch.ones(4)) / loss.count(labels, torch.ones(4))
    torch.testing.assert_close(mean, F.cross_entropy(logits, labels, torch.tensor([4 / 6, 4 / 2])))
    assert loss.count(labels[:3], torch.ones(3)) == pytest.approx(3 * 4 / 6), "of common rows alone it is less"


def test_label_smoothing_of_sets_raises_the_target_of_classes_that_do_not_apply():
    labels = torch.tensor([[1.0, 0.0, 0.0]])
    logits = torch.logit(torch.tensor([[0.95, 0.05, 0.05]])).requires_grad_()
    RowLoss(multi_label=True, label_smoothing=0.1)(logits, labels, torch.ones(1)).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)
