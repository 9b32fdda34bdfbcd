"""The end of a run: calibration, evaluation on the held-out rows, summary and model card."""

import time
from dataclasses import replace
from functools import partial

from accelerate import Accelerator

from app.evaluation.calibration import apply_temperature, choose_threshold, fit_share, fit_temperature
from app.evaluation.evaluate import groups_of, judging_metric
from app.evaluation.figures import Role
from app.evaluation.label_thresholds import fit_label_thresholds
from app.evaluation.predict import predict
from app.inference.load import load_model
from app.reporting.model_card import model_card
from app.reporting.text import score_table
from app.reporting.write import evaluate_to
from app.settings import Settings, TrainSettings
from app.training.linear_comparison import compare_linear
from app.training.run_folder import RunDir
from app.training.run_summary import next_commands
from app.training.shared_folder import check_shared
from app.training.trainer import is_linear_start
from data import Collate, DataSettings, InputCollate, LabelFormat, PreparedData, Rows
from models import ImageTextClassifier, ImageTextProcessor
from models.decisions import center, confidence

CONTENTS = (
    "model/, evaluation/{split}/ (report.html, metrics.json, predictions.parquet{pictures}), curves.png, metrics.jsonl"
)

NOTHING = 0.01
"""If the classifier is scaled by less than this, the summary contains `NOTHING_ADDED`."""
NOTHING_ADDED = (
    "On the validation rows, attention adds nothing to a linear classifier of the encoders' features: the model\n"
    "answers with that classifier (--train.linear_start)."
)


def finish(settings: Settings, data: PreparedData, accelerator: Accelerator, run: RunDir, started: float) -> None:
    """Calibrate the best model, score it on the held-out rows, and write summary and model card.

    Without held-out rows the validation rows are scored.
    """
    accelerator.wait_for_everyone()
    check_shared(run.model / "model.safetensors", accelerator)
    model, processor = load_model(run.model, trust_custom_encoder=True)
    split: Role = "test" if "test" in data.splits else "validation"
    rows = data.splits[split]
    model = model.to(accelerator.device)
    folder, options = run.path / "evaluation" / split, settings.train
    started_linear = is_linear_start(settings, data.splits["train"])
    calibrate(model, processor, data.splits["validation"], accelerator, settings.data, options, started_linear)
    if accelerator.is_main_process:
        run.save_model(model, processor)
    linear = None
    if options.baselines:
        linear = compare_linear(settings, data.splits, rows, model, processor, accelerator)
    sizes = (options.batch_size, options.pictures)
    images = {key for key in data.splits["train"].image_keys if key is not None}
    figures = evaluate_to(
        folder,
        model,
        processor,
        rows,
        accelerator,
        settings.data,
        *sizes,
        role=split,
        linear=linear,
        trained_images=images,
    )
    if figures is None:  # not the main process
        return
    summary = score_table(figures, f"{split}, {rows.source}")
    if split == "validation":
        summary += "\n\nThere were no held-out rows; name them with --data.test."
    pictures = ", where_it_looked.png" if options.pictures else ""
    minutes = (time.time() - started) / 60
    accuracy = figures.scores[figures.whole]["accuracy"].value
    card = model_card(run.path.name, model, settings, data, split, figures)
    card.save(run.model / "README.md")
    if model.config.classifier_scale < NOTHING:
        summary += f"\n\n{NOTHING_ADDED}"
    summary += f"\n\n{minutes:.1f} minutes. In {run.path}: {CONTENTS.format(split=split, pictures=pictures)}\n\n"
    summary += next_commands(run.path, rows, model.config)
    (run.path / "summary.txt").write_text(summary + "\n", encoding="utf-8")
    result = {"held_out": split, "accuracy": accuracy, "minutes": minutes, "parameters": model.num_parameters()}
    run.log({"step": run.records()[-1]["step"], **result})
    print(f"\n{summary}", flush=True)


def calibrate(
    model: ImageTextClassifier,
    processor: ImageTextProcessor,
    rows: Rows,
    accelerator: Accelerator,
    data: DataSettings,
    options: TrainSettings,
    started_linear: bool = False,
) -> None:
    """Fit the scale of the classifier, the temperature, and the thresholds of labels and of confidence.

    All are fitted on the validation rows and kept in the model's configuration.
    """
    config = model.config
    config.temperature, config.classifier_scale, config.label_thresholds = 1.0, 1.0, None
    form = LabelFormat.of(config)
    collate = Collate(InputCollate.of(processor, config, data.max_pixels), config.label2id, form)
    sizes, texts = (options.batch_size, data.num_workers), data.max_texts_per_image
    score = partial(predict, model, rows, collate, accelerator, *sizes, max_texts_per_image=texts)
    found = score()
    if started_linear:
        config.classifier_scale = 0.0
        start = score()
        config.classifier_scale, mixed = fit_share(start.whole, found.whole, found.targets)
        if form.type == "multi":  # a sigmoid of 1 does not tell the logit
            mixed = score().whole
        found = replace(found, probabilities={found.whole_name: mixed})
    probabilities, label_type = found.whole, found.targets.label_type
    model.config.temperature = fit_temperature(probabilities, found.targets)
    probabilities = apply_temperature(probabilities, model.config.temperature, label_type)
    weights, thresholds = found.targets.weights, None
    if label_type == "multi" and judging_metric(model.config) != "accuracy":
        thresholds = fit_label_thresholds(probabilities, found.targets.classes(), weights)
    sure, groups = confidence(probabilities, label_type, thresholds), groups_of(rows, data)[0]
    correctness = found.targets.correctness(center(probabilities, thresholds))
    model.config.label_thresholds = thresholds
    model.config.threshold = choose_threshold(sure, correctness, options.target_risk, groups, weights)
