"""Attribution methods compared where the truth is known: does the evidence lie on the thing that was asked about?

python -m benchmarks.explanation shapes RUN              # fresh pictures with two or three shapes
python -m benchmarks.explanation easy_vqa RUN FOLDER     # test pictures of easy-VQA, of one shape
python -m benchmarks.explanation path RUN                # points of integrated gradients, on shapes
python -m benchmarks.explanation deletion RUN            # held-out rows of the run: does hiding the evidence matter?
python -m benchmarks.explanation cost                    # seconds and memory of one explanation at 224 px
"""

import argparse
import random
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from torchvision.transforms.functional import gaussian_blur
from tqdm.auto import tqdm
from transformers import set_seed

from app import Predictor
from app.command_line.score_run import held_out_rows, run_settings
from app.command_line.scoring import Score
from app.evaluation.bootstrap import Resampler, mean_interval
from app.evaluation.deletion import areas_beyond_random, curves_of_row
from app.explanation.attribution import pair_indices
from app.explanation.drawing import resize
from app.explanation.evidence import evidence, integrated_gradients, occlusion
from app.reporting.example_grid import evenly_spaced_rows
from benchmarks.boxed_pictures import Case, easy_vqa_cases, find_foreground, grow, shapes_cases
from data import Rows
from data.shapes import SHAPES, draw_scene, paint
from models import ImageTextClassifier, ImageTextConfig
from models.processor import build_processor
from models.text_encoder import scratch_text_config, train_tokenizer

METHODS: dict[str, dict] = {
    "integrated gradients": {"method": "integrated_gradients"},
    "gradient × activation, block 1": {"method": "gradient", "depth": 1},
    "gradient × activation, block 3": {"method": "gradient", "depth": 3},
    "gradient × activation, block 5": {"method": "gradient", "depth": 5},
    "occlusion, 49 windows": {"method": "occlusion"},
    "read-out positions": {"method": "readout"},
}
PATHS = [(0.25,), (0.5,), (0.75,), (1.0,), (0.125, 0.375, 0.625, 0.875), (0.2, 0.4, 0.6, 0.8, 1.0), (0.4, 0.5, 0.6)]
PATHS += [(0.4, 0.5, 0.6, 0.7)]


def localize(evidence: np.ndarray, box: np.ndarray) -> tuple[bool, float]:
    """Whether the peak lies in the box, and the share of the positive evidence in the grown box."""
    heat = resize(evidence, box.shape[::-1])
    positive = np.clip(heat, 0, None)
    return bool(box.flat[heat.argmax()]), float(positive[grow(box)].sum() / max(positive.sum(), 1e-12))


def compare_methods(predictor: Predictor, cases: list[Case]) -> str:
    """Table of all methods on the cases that are answered rightly."""
    answered = [case for case in cases if predictor(case.image, case.text)[0]["label"] == case.answer]
    chance = np.mean([case.box.mean() for case in answered])
    lines = [
        f"{len(answered)} of {len(cases)} pictures are answered rightly; a box is {chance:.1%} of its picture.",
        "",
        "| method | peak in the box | evidence in the box + 2 px | seconds |",
        "| --- | --- | --- | --- |",
    ]
    resampler = Resampler(np.arange(len(answered)))
    for name, options in METHODS.items():
        found, seconds = [], []
        for case in answered:
            start = time.perf_counter()
            found_evidence = predictor.explain(case.image, case.text, max_maps=0, **options).evidence
            seconds.append(time.perf_counter() - start)
            found.append(localize(found_evidence, case.box))
        peak, share = (mean_interval(np.array(values, float), resampler) for values in zip(*found, strict=True))
        lines.append(f"| {name} | {told(peak)} | {told(share)} | {statistics.median(seconds):.2f} |")
    return "\n".join(lines)


def compare_paths(predictor: Predictor, cases: list[Case]) -> str:
    """Table of the points on the path of integrated gradients."""
    answered = [case for case in cases if predictor(case.image, case.text)[0]["label"] == case.answer]
    lines = ["| points on the path | peak in the box | evidence in the box + 2 px |", "| --- | --- | --- |"]
    resampler = Resampler(np.arange(len(answered)))
    for path in PATHS:
        found = []
        for case in answered:
            batch = dict(predictor.processor([case.image], [case.text]))
            answers = torch.tensor([predictor.labels.index(case.answer)])
            with predictor.autocast():
                heat = evidence(predictor.model, batch, answers, path=path)[0]
            found.append(localize(heat.numpy(), case.box))
        peak, share = (mean_interval(np.array(values, float), resampler) for values in zip(*found, strict=True))
        lines.append(f"| {', '.join(map(str, path))} | {told(peak)} | {told(share)} |")
    return "\n".join(lines)


def mean(pixels: torch.Tensor) -> torch.Tensor:
    """Pictures ``(I, 3, H, W)`` of one colour, the mean of each."""
    return pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)


def blur(pixels: torch.Tensor) -> torch.Tensor:
    """Pictures ``(I, 3, H, W)`` of which only large areas are left: blurred by an eighth of the side."""
    sigma = pixels.shape[-1] / 8
    return gaussian_blur(pixels, [2 * round(2 * sigma) + 1] * 2, [sigma, sigma])


BY_DELETION: dict[str, Callable[..., torch.Tensor]] = {
    "integrated gradients from the median colour": integrated_gradients,
    "integrated gradients from the mean colour": partial(integrated_gradients, no_information=mean),
    "integrated gradients from a blurred picture": partial(integrated_gradients, no_information=blur),
    "gradient × activation, block 1": partial(evidence, method="gradient", depth=1),
    "gradient × activation, block 5": partial(evidence, method="gradient", depth=5),
    "occlusion, 9 windows: as many passes": partial(occlusion, windows=3),
    "occlusion, 49 windows": occlusion,
    "read-out positions": partial(evidence, method="readout"),
}


def compare_by_deletion(predictor: Predictor, rows: Rows, number: int, names: list[str]) -> str:
    """Table of the deletion and insertion curves of methods on held-out rows, against a random order.

    Answers are those that the model gives. Areas are in points of probability, with intervals over images.
    """
    chosen = evenly_spaced_rows(rows, number, with_image=True)
    model, resampler = predictor.model, Resampler(np.array([rows.image_keys[i] for i in chosen]))
    lines = [
        f"{len(chosen)} rows of {resampler.num_groups} pictures.",
        "",
        "| method | deletion beyond random | insertion beyond random | seconds |",
        "| --- | --- | --- | --- |",
    ]
    for name in names:
        method, areas, seconds = BY_DELETION[name], [], []
        for i in tqdm(chosen, desc=name, leave=False):
            inputs = dict(predictor.processor([rows.decoded_image(i)], [rows.texts[i]] if rows.texts[i] else None))
            pair = inputs | pair_indices(True, bool(rows.texts[i]), torch.device("cpu"))
            with predictor.autocast():
                with torch.no_grad():
                    answer = model(**pair).logits.argmax(dim=1)
                start = time.perf_counter()
                heat = method(model, pair, answer)[0].numpy()
                seconds.append(time.perf_counter() - start)
                curves = curves_of_row(model, inputs, int(answer), heat, np.random.default_rng(i))
            areas.append(areas_beyond_random(curves))
        found = [mean_interval(area, resampler, least=-1) for area in np.stack(areas).T]
        lines.append(f"| {name} | {told(found[0])} | {told(found[1])} | {statistics.median(seconds):.2f} |")
    return "\n".join(lines)


def told(value) -> str:
    """An interval in percent."""
    return f"{100 * value.value:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def check_sanity(predictor: Predictor, cases: list[Case]) -> str:
    """Rank correlation of the map with that of a network with random weights (Adebayo et al. 2018): should be near 0.

    Parts are randomized from the output to the input, as they are in a new model of the same configuration.
    """
    trained = predictor.model
    assert isinstance(trained, ImageTextClassifier)
    set_seed(0)
    new = ImageTextClassifier(trained.config).state_dict()
    parts = {"the classifier": ("classifier.",), "and the fusion": ("fusions.",), "and the image encoder": ("image_",)}
    answers = [predictor(case.image, case.text)[0]["label"] for case in cases]
    before = [maps(predictor, case, answer) for case, answer in zip(cases, answers, strict=True)]
    lines = ["| randomized | rank correlation with the trained map, mean | largest |", "| --- | --- | --- |"]
    randomized = ImageTextClassifier(trained.config).eval()
    randomized.load_state_dict(trained.state_dict())
    other = Predictor(randomized, predictor.processor)
    for part, prefixes in parts.items():
        randomized.load_state_dict({name: new[name] for name in new if name.startswith(prefixes)}, strict=False)
        after = [maps(other, case, answer) for case, answer in zip(cases, answers, strict=True)]
        found = [spearmanr(a, b).statistic for a, b in zip(before, after, strict=True)]
        lines.append(f"| {part} | {np.nanmean(found):.2f} | {np.nanmax(found):.2f} |")
    return "\n".join(lines)


def maps(predictor: Predictor, case: Case, answer: str) -> np.ndarray:
    """Evidence of the default method at the pixels of the shapes; elsewhere it is zero for any weights."""
    evidence_of_answer = predictor.explain(case.image, case.text, answer, max_maps=0).evidence
    return resize(evidence_of_answer, case.image.size)[find_foreground(case.image)]


def check_sentences(predictor: Predictor, number: int) -> str:
    """How often the checked sentence names a region, for shapes that are there and, as a control, for absent ones."""
    rng, lines = random.Random(11), ["| question about | names a region | median loss, points |", "| --- | --- | --- |"]
    groups: dict[str, list] = {"a shape that is there": [], "a shape that is not there": []}
    for _ in range(number):
        scene = draw_scene(rng)
        image, there = paint(scene, rng), [shape for _, shape in scene.values()]
        absent = rng.choice([shape for shape in SHAPES if shape not in there])
        for group, shape in zip(groups, (rng.choice(there), absent), strict=True):
            groups[group].append(predictor.explain(image, f"what color is the {shape}?", max_maps=0).region)
    for group, regions in groups.items():
        loss = [0 if region is None else region.elsewhere - region.hidden for region in regions]
        named = np.mean([region is not None and region.matters for region in regions])
        lines.append(f"| {group} | {named:.0%} of {number} | {100 * statistics.median(loss):.0f} |")
    return "\n".join(lines)


def measure_cost(rounds: int = 7) -> str:
    """Seconds and memory of one explanation of an untrained VGG16 at 224 px: picture, six words, checked sentence."""
    set_seed(0)
    text = "what color is the large circle?"
    tokenizer = train_tokenizer([text])
    labels = {str(number): number for number in range(20)}
    config = ImageTextConfig(
        text_config=scratch_text_config(tokenizer, 128, 2),
        id2label={number: name for name, number in labels.items()},
        label2id=labels,
        image_size=224,
    )
    predictor = Predictor(ImageTextClassifier(config).eval(), build_processor(tokenizer, 224, 16))
    torch.nn.init.normal_(predictor.model.fusions["5"].attention.out_proj.weight, std=0.5)  # so that words matter
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8))
    steps = {
        "one answer": partial(predictor, image, text),
        "one explanation": partial(predictor.explain, image, text),
    }
    lines = ["| | seconds, median | peak memory beyond, MiB |", "| --- | --- | --- |"]
    for name, step in steps.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        lines.append(f"| {name} | {statistics.median(seconds):.2f} | {grown:.0f} |")
    return "\n".join([*lines, "", f"{len(predictor.explain(image, text).word_evidence)} words have a map."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("shapes", "easy_vqa", "path", "deletion", "cost"))
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--number", type=int, default=150, help="pictures or rows")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=BY_DELETION,
        metavar="METHOD",
        default=list(BY_DELETION),
        help="of deletion",
    )
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    if args.part == "cost":
        print(measure_cost())
        return
    predictor = Predictor.from_pretrained(args.run)
    if args.part == "path":
        print(compare_paths(predictor, list(shapes_cases(args.number, seed=21))))
        return
    if args.part == "deletion":
        rows, _ = held_out_rows(Score(str(args.run)), run_settings(str(args.run)), predictor.model.config)
        print(compare_by_deletion(predictor, rows, args.number, args.methods))
        return
    cases = list(shapes_cases(args.number) if args.part == "shapes" else easy_vqa_cases(args.data, args.number))
    print(compare_methods(predictor, cases) + "\n")
    print(check_sanity(predictor, cases[:20]) + "\n")
    if args.part == "shapes":
        print(check_sentences(predictor, args.number))


if __name__ == "__main__":
    main()
