"""One epoch of training, and which epoch is kept, with a model that can be computed by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from tiny import arguments
from torch import nn

import train
from app.settings import LearningRateScales, Settings, TrainSettings
from app.training.best_epoch import is_better
from app.training.checkpoint import Checkpoints, Progress
from app.training.fit import fit
from app.training.loss import RowLoss, build_loss
from app.training.run_folder import RunDir
from app.training.schedule import is_enough
from app.training.step import penalty, train_epoch
from app.training.trainer import Training, learning_rate_scales
from data import Batch, Targets
from data.errors import UserError
from data.label_format import SINGLE
from models import ImageTextClassifier, ImageTextOutput
from models.gate import GatedFusion
from models.settings import ModelSettings


class Scores(nn.Module):
    """A model whose parameters are its logits; the input only scales them."""

    def __init__(self, classes: int = 2):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(classes))
        self.text_encoder, self.image_encoder = None, nn.Identity()

    def forward(self, number, output_attentions=False):
        return SimpleNamespace(logits=self.scores * number[:, None], work=None)


def training(numbers: list[float]) -> Training:
    """Plain gradient descent with rate 1 on batches of one row, all of class 0."""
    model = Scores()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    loader = [
        Batch({"number": torch.tensor([number])}, Targets(torch.tensor([0]), torch.ones(1), torch.tensor([0])))
        for number in numbers
    ]
    return Training(model, optimizer, schedule, RowLoss(), None, None, None, loader, len(loader))


def run(numbers: list[float], **options) -> torch.Tensor:
    made = training(numbers)
    list(train_epoch(made, Accelerator(cpu=True), TrainSettings(**options), Progress()))
    return made.model.scores.detach()


@pytest.mark.parametrize(("epochs", "first"), [(1, 0), (2, 1), (3, 2), (5, 3), (10, 5)])
def test_gates_are_held_open_for_the_first_half_and_the_best_epoch_is_one_in_which_they_learn(epochs, first):
    made = training([1.0])
    made.sampler = SimpleNamespace(set_epoch=lambda epoch, start: None)
    made.model.gate = GatedFusion(nn.Identity(), 8, 8)
    held, progress, options = [], Progress(), TrainSettings(epochs=epochs, early_stopping=1)
    for epoch in range(epochs):
        assert not is_enough(options, progress) or epoch > first, "no plateau ends it before gates learn"
        made.start_epoch(progress, options)
        held.append(made.model.gate.held_open)
        figure = 0.9 if epoch < first else 0.8
        progress.end_epoch(figure, is_better(figure, progress.best, "accuracy"))
        assert progress.since_best == max(0, epoch - first)
        assert progress.best == (0.9 if epoch < first else 0.8)
    assert held == [True] * first + [False] * (epochs - first)
    made.start_epoch(Progress(epoch=epochs - 1), TrainSettings(epochs=epochs, gate_warmup=1))
    assert not made.model.gate.held_open, "gates learn in at least one epoch"
    del made.model.gate
    progress = Progress(epoch=first, best=0.9)
    made.start_epoch(progress, TrainSettings(epochs=epochs))
    assert progress.best == 0.9, "without gates no epoch is passed over"


def test_accumulated_batches_are_averaged_and_a_short_last_group_has_the_same_weight():
    # At scores of 0 the gradient of a row is (-n/2, n/2).
    torch.testing.assert_close(
        run([1.0, 3.0], gradient_accumulation_steps=2, max_grad_norm=1e9), torch.tensor([1.0, -1.0])
    )
    torch.testing.assert_close(run([2.0], gradient_accumulation_steps=4, max_grad_norm=1e9), torch.tensor([1.0, -1.0]))


def test_every_row_of_accumulated_batches_has_the_same_weight_whatever_the_batch_sizes():
    def learnt(*batches: list[float]) -> torch.Tensor:
        made = training([])
        made.loader = [
            Batch({"number": torch.tensor(numbers)}, Targets(rows % 2, torch.ones(len(numbers)), rows))
            for numbers in batches
            for rows in [torch.arange(len(numbers))]
        ]
        made.loss_function = build_loss(
            TrainSettings(class_weights="balanced"), {"a": 0, "b": 1}, ["a", "a", "b"], SINGLE
        )
        options = TrainSettings(gradient_accumulation_steps=2, max_grad_norm=1e9)
        records = list(train_epoch(replace(made, steps_per_epoch=1), Accelerator(cpu=True), options, Progress()))
        return torch.cat([made.model.scores.detach(), torch.tensor([records[-1]["loss"]])])

    together = learnt([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    torch.testing.assert_close(learnt([1.0, 2.0], [3.0, 4.0, 5.0, 6.0]), together)
    torch.testing.assert_close(learnt([1.0, 2.0, 3.0, 4.0], [5.0, 6.0]), together)


def test_a_gradient_that_is_not_finite_names_step_rate_and_rows():
    made = training([float("nan")] * 4)
    made.loader[2] = made.loader[2]._replace(targets=Targets(torch.tensor([0]), torch.ones(1), torch.tensor([17])))
    for place in (0, 1, 3):
        made.loader[place].inputs["number"] = torch.tensor([1.0])
    with pytest.raises(UserError, match=r"at step 3 .*learning rate 1\).*with row 17;"):
        list(train_epoch(made, Accelerator(cpu=True), TrainSettings(), Progress()))
    assert made.model.scores.isfinite().all(), "the step was not made"


def test_training_images_are_augmented_and_validation_images_are_not(shapes_folder, tmp_path, monkeypatch):
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    forward = ImageTextClassifier.forward

    def watched(self, *args, **kwargs):
        seen[self.training].append(kwargs["pixel_values"])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(ImageTextClassifier, "forward", watched)
    monkeypatch.setattr("app.training.trainer.Augmentation.__call__", lambda self, images: torch.full_like(images, 7.0))
    monkeypatch.setattr("app.training.run.finish", lambda *args: None)
    train.main([*arguments(shapes_folder, tmp_path / "run"), "--train.augment", "true", "--train.epochs", "1"])
    assert all((images == 7).all() for images in seen[True])
    assert seen[False]
    assert not any((images == 7).any() for images in seen[False])


def test_gradients_are_clipped_to_the_norm():
    assert run([100.0], max_grad_norm=0.5).norm() == pytest.approx(0.5, rel=1e-4)


def test_balanced_class_weights_give_rare_classes_the_weight_of_common_ones():
    loss = build_loss(TrainSettings(class_weights="balanced"), {"a": 0, "b": 1}, ["a", "a", "a", "b"], SINGLE)
    torch.testing.assert_close(loss.class_weight, torch.tensor([4 / (2 * 3), 4 / (2 * 1)]))
    assert build_loss(TrainSettings(), {"a": 0, "b": 1}, ["a", "b"], SINGLE).class_weight is None


def test_label_smoothing_spreads_its_share_over_all_classes():
    loss = build_loss(TrainSettings(label_smoothing=0.2), {"a": 0, "b": 1}, ["a", "b"], SINGLE)
    log_p = torch.tensor([[0.9, 0.1]]).log()
    torch.testing.assert_close(loss(log_p, torch.tensor([0]), torch.ones(1)), -(0.9 * log_p[0, 0] + 0.1 * log_p[0, 1]))


@pytest.mark.parametrize(("patience", "epochs"), [(0, 5), (2, 4)])
def test_the_best_epoch_is_kept_and_too_many_without_a_better_one_stop_the_run(tmp_path, monkeypatch, patience, epochs):
    accuracies = iter([0.1, 0.8, 0.5, 0.6, 0.7])
    kept = []
    made = training([1.0])
    made.sampler = SimpleNamespace(set_epoch=lambda epoch, start: None)

    def predict(*args, **more):
        accuracy = next(accuracies)
        targets = SimpleNamespace(label_type="single")
        return SimpleNamespace(accuracy=lambda: accuracy, loss=lambda: 1.0, targets=targets)

    monkeypatch.setattr("app.training.validation.predict", predict)
    monkeypatch.setattr(Checkpoints, "save", lambda *a: None)
    monkeypatch.setattr(RunDir, "save_model", lambda self, model, processor: kept.append(model.scores[0].item()))
    run_dir = RunDir(tmp_path)
    settings = Settings(train=TrainSettings(epochs=5, early_stopping=patience, trackers=[]))
    fit(settings, SimpleNamespace(splits={"validation": None}), made, Accelerator(cpu=True), run_dir)
    assert len(kept) == 2, "epochs 1 and 2 were the best so far"
    assert kept[1] < made.model.scores[0].item(), "the model of epoch 2, not of the last"
    assert sum("epoch" in json.loads(line) for line in run_dir.metrics.read_text().splitlines()) == epochs


def test_the_penalties_for_sharp_attention_and_open_gates_follow_the_settings():
    sharp, even = torch.eye(4).expand(2, 8, 4, 4), torch.full((2, 8, 4, 4), 0.25)
    output = ImageTextOutput(attentions=(sharp, even), work=torch.tensor([0.75, 0.25]))
    assert penalty(output, TrainSettings()) == 0
    assert penalty(output, TrainSettings(attention_penalty=2.0)).item() == pytest.approx(2 * (1 + 0.25) / 2)
    assert penalty(output, TrainSettings(gate_cost=0.1)).item() == pytest.approx(0.1 * 0.5)


def test_pretrained_parts_learn_more_slowly_than_new_ones_by_default():
    scratch = ModelSettings(text_encoder="scratch", audio_encoder="scratch", image_weights="none")
    new = learning_rate_scales(TrainSettings(), scratch)
    others = dict.fromkeys(["text_encoder", "fusion", "classifier", "probe"], 1.0)
    assert new == others | {"image_encoder": 0.3, "audio_encoder": 0.1}
    pretrained = ModelSettings(text_encoder="bert-base-uncased", image_weights="imagenet")
    slow = learning_rate_scales(TrainSettings(), pretrained)
    assert slow["image_encoder"] == slow["text_encoder"] == slow["audio_encoder"] == 0.1
    assert (
        learning_rate_scales(TrainSettings(scales=LearningRateScales(text_encoder=0.0)), pretrained)["text_encoder"]
        == 0.0
    )
    for encoder, scale in (("resnet", 0.3), ("microsoft/resnet-50", 0.1)):
        assert learning_rate_scales(TrainSettings(), ModelSettings(image_encoder=encoder))["image_encoder"] == scale
