"""Ask a trained model from the command line.

python -m app predict runs/quickstart --image picture.png --text "what color is the circle?"
python -m app explain runs/quickstart --image picture.png --text "what color is the circle?"
"""

import argparse
import sys
from pathlib import Path

from app.predictor import Predictor


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    predict = commands.add_parser("predict", help="the most probable labels of an image and a text")
    predict.add_argument("--top_k", type=int, default=3, help="how many labels (default: 3)")
    explain = commands.add_parser("explain", help="a picture of where the model looked for each word")
    explain.add_argument("--output", type=Path, default=Path("where_it_looked.png"), help="file to write")
    for command in (predict, explain):
        command.add_argument("model", help="a run folder, a model folder or a Hub id")
        command.add_argument("--image", help="image file; leave out to ask without an image")
        command.add_argument("--text", help="text; leave out to ask without a text")
        command.add_argument(
            "--trust_custom_encoder", action="store_true", help="run the model's own text encoder file"
        )
    args = parser.parse_args(argv)
    try:
        predictor = Predictor.from_pretrained(args.model, trust_custom_encoder=args.trust_custom_encoder)
        if args.command == "predict":
            for answer in predictor(args.image, args.text, args.top_k):
                print(f"{answer['probability']:7.1%}  {answer['label']}")
        elif args.image is None or args.text is None:
            raise ValueError("explain needs both --image and --text.")
        else:
            figure = predictor.explain(args.image, args.text).figure(args.text)
            try:
                figure.savefig(args.output)
            except OSError as error:
                raise ValueError(f"Cannot write {args.output}: {error.strerror or error}.") from error
            print(f"wrote {args.output}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
