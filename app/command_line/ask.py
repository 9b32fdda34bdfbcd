"""The commands that ask a trained model: ``predict`` and ``explain``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse.typing import NonNegativeInt, PositiveInt

from app.command_line.commands import positional
from app.command_line.loading import load_predictor
from app.command_line.reading import AnsweredRows, reading_options
from app.explanation.options import Method
from app.output_paths import ready_file
from app.quick_start import first_imports
from data.errors import UserError
from data.messages import percents
from data.paths import expand_home, user_path

if TYPE_CHECKING:
    from app.inference.predictor import Predictor

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")
"""File formats that ``explain`` writes."""


@dataclass
class Predict:
    """The most probable labels of an image and a text, or of many.

    python -m app predict runs/quickstart --image picture.png --text "what color is the circle?"
    python -m app predict runs/quickstart --data.test rows.csv --output answers.parquet
    python -m app predict runs/mine --data.test rows.csv --data.pool case --output answers.csv
    python -m app predict runs/mine --rows 'shards/part-*.parquet' --output answers
    """

    model: str = positional()
    """A run folder, a model folder or a Hub id."""
    image: str = ""
    """Image file; without it the question has no image."""
    text: str = ""
    """Text; without it the question has no text."""
    context: dict[str, str] = field(default_factory=dict)
    """Further contexts of the model by name: --context.prior old.png --context.patient '{age: 61, sex: F}'."""
    top_k: PositiveInt = 3
    """Number of labels."""
    rows: str = ""
    """Pattern of many tables, in quotes: each is answered into its own file in the folder --output, unless that file
    exists or another process is answering it. See docs/serving.md."""
    output: str = "answers.parquet"
    """File for the answers to many pairs, .parquet or .csv, with --top_k labels a row; with --rows a folder."""
    data: AnsweredRows = field(default_factory=AnsweredRows)
    trust_custom_encoder: bool = False
    """Run the text encoder file that is saved with the model."""

    def __post_init__(self) -> None:
        self.model, self.image, self.rows = map(expand_home, (self.model, self.image, self.rows))


@dataclass
class Explain:
    """A picture of the evidence for an answer: which places and which words it rests on.

    python -m app explain runs/quickstart --image picture.png --text "what color is the circle?"
    """

    model: str = positional()
    """A run folder, a model folder or a Hub id."""
    image: str = ""
    """Image file."""
    text: str = ""
    """Text."""
    context: dict[str, str] = field(default_factory=dict)
    """Further contexts of the model by name: --context.prior old.png --context.patient '{age: 61, sex: F}'."""
    output: str = "where_it_looked.png"
    """File to write: .png, .jpg, .jpeg, .webp, .svg or .pdf."""
    answer: str = ""
    """Label to explain; by default the most probable one."""
    method: Method | None = None
    """Attribution method: integrated_gradients (default), gradient, occlusion (default for ONNX models) or readout."""
    depth: PositiveInt | None = None
    """Block of the image encoder for the method gradient; by default the first."""
    matrices: bool = False
    """Draw all maps as matrices with colour bars, also the attention to each word."""
    head: NonNegativeInt | None = None
    """With --matrices true: one head of the attention, counted from 0; by default the mean of all."""
    level: PositiveInt | None = None
    """With --matrices true: block of the image encoder; by default the last with attention."""
    trust_custom_encoder: bool = False
    """Run the text encoder file that is saved with the model."""

    def __post_init__(self) -> None:
        self.model, self.image = expand_home(self.model), expand_home(self.image)


def run_predict(options: Predict) -> None:
    """Print the answers to one pair, or write those to many."""
    check_question(options)
    if options.rows or options.data.test:
        with first_imports():
            from app.command_line.ask_rows import answer_many
        answer_many(options)
        return
    limit = {} if options.data.max_pixels is None else {"max_pixels": options.data.max_pixels}
    predictor = load_predictor(options.model, options.trust_custom_encoder, **limit)
    prediction = predictor.predict(
        [(options.image or None, options.text or None, given_contexts(predictor, options.context))], options.top_k
    )[0]
    for answer in prediction.answers:
        applies = "  ✓" if predictor.label_format.type == "multi" and answer["label"] in prediction.labels else ""
        print(f"{answer['probability']:7.1%}  {answer['label']}{applies}")
    if not prediction.is_sure:
        threshold = predictor.model.config.threshold
        reason = " is below the threshold of ".join(percents(prediction.confidence, threshold))
        if threshold > 1:
            reason = "no answer of this model was reliable enough on its validation rows"
        print(f"not sure: {reason}")


def check_question(options: Predict) -> None:
    """Check the options before the model is loaded.

    Raises:
        UserError: an option is missing, or two exclude each other.
    """
    many = "--rows" if options.rows else "--data.test"
    if not options.rows and not options.data.test:
        given = [option for option in reading_options(options.data) if option != "--data.max_pixels"]
        given += ["--data.pool"] if options.data.pool else []
        if options.output != Predict.output:
            given.insert(0, "--output")
        if given:
            raise UserError(f"{given[0]} is for many pairs: add --data.test SOURCE.")
        if not options.image and not options.text.strip() and not options.context:
            raise UserError("Give --image FILE, --text TEXT or both; or many pairs: --data.test SOURCE.")
        check_image(options.model, options.image, "ask about all its images with --data.test FOLDER")
    elif options.context:
        raise UserError(f"The contexts of {many} are columns of its rows: leave out --context.")
    elif options.image:
        raise UserError(f"--image asks about one picture, {many} about all of a source: give one of them.")
    elif options.rows and options.data.test:
        raise UserError("--data.test names one source, --rows a pattern of many: give one of them.")
    elif options.rows and options.output == Predict.output:
        raise UserError("--rows needs a folder for the answers: add --output FOLDER.")


def given_contexts(predictor: "Predictor", values: dict[str, str]) -> dict[str, Any]:
    """The contexts of the command line by name: features are written as YAML, all others as they are.

    Raises:
        UserError: features that are no YAML.
    """
    kinds = {context.name: context.kind for context in predictor.contexts}
    given: dict[str, Any] = {name: expand_home(value) for name, value in values.items()}
    for name in given:
        if kinds.get(name) == "features":
            try:
                given[name] = yaml.load(given[name], Loader=yaml.BaseLoader)
            except yaml.YAMLError as error:
                raise UserError(f"--context.{name} is no value, list or {{column: value}}: {error}") from error
    return given


def check_image(model: str, image: str, instead: str) -> None:
    """Refuse a folder in place of an image, unless the model sees videos, which may be folders of frames."""
    if image and Path(image).is_dir() and not sees_videos(model):
        raise UserError(f"--image {image} is a folder, not an image file; {instead}.")


def sees_videos(model: str) -> bool:
    """Whether the configuration of a model says that it sees videos; a model that is not there is named later."""
    with first_imports():
        from app.inference.load import find_model
        from models import ImageTextConfig

    try:
        return ImageTextConfig.from_pretrained(find_model(model)).frames > 1
    except (UserError, OSError):
        return False


def run_explain(options: Explain) -> None:
    """Write the explanation of one answer, and print the checked sentence."""
    if not options.image and not options.text.strip() and not options.context:
        raise UserError("Give --image FILE, --text TEXT or both.")
    if not options.matrices and (options.head is not None or options.level is not None):
        raise UserError("--head and --level choose a matrix of attention: add --matrices true.")
    check_image(options.model, options.image, "explain shows one image")
    output = ready_file(user_path(options.output), PICTURES)
    predictor = load_predictor(options.model, options.trust_custom_encoder)
    found = predictor.explain(
        options.image or None,
        options.text or None,
        options.answer or None,
        options.method,
        options.depth,
        contexts=given_contexts(predictor, options.context),
    )
    from app.explanation.drawn_explanations import explanation_figure, matrices_figure  # slow to import

    figure = matrices_figure(found, "", options.head, options.level) if options.matrices else explanation_figure(found)
    try:
        figure.savefig(output)
    except OSError as error:
        raise UserError(f"Cannot write {output}: {error.strerror or error}.") from error
    if found.sentence:
        print(found.sentence)
    print(f"wrote {output}")
