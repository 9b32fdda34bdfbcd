"""The processor: decoded pictures and texts → the tensors that the classifier takes."""

from collections.abc import Sequence

from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin, ViTImageProcessor

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


class ImageTextProcessor(ProcessorMixin):
    """Preprocessing of a saved classifier; training, evaluation and prediction all go through it.

    A text of ``None`` (or of nothing but spaces) becomes a row without real tokens, for which the classifier uses
    its learned "no text" token.

    Args:
        image_processor: resizes to the model's square and normalises with ImageNet's mean and deviation, or with those
            of the pretrained image encoder.
        tokenizer: cuts texts at its ``model_max_length``.
    """

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer)

    def __call__(
        self, images: Sequence[Image.Image] | None = None, text: Sequence[str | None] | None = None, **kwargs
    ) -> BatchFeature:
        """Make one batch.

        Shape:
            - images: I decoded RGB pictures; returns ``pixel_values`` ``(I, 3, image_size, image_size)``
            - text: B texts; returns ``input_ids`` and ``attention_mask`` ``(B, L)``

        Raises:
            TypeError: something other than a ``PIL.Image`` (this processor opens no file and no address).
        """
        data = {}
        if images is not None:
            for image in images:
                if not isinstance(image, Image.Image):
                    raise TypeError(f"Images must be decoded PIL images (data.images.decode_image), got {type(image)}.")
            data["pixel_values"] = self.image_processor(list(images), return_tensors="pt")["pixel_values"]
        if text is not None:
            present = [t is not None and not t.isspace() and t != "" for t in text]
            tokens = self.tokenizer(
                [t if ok else self.tokenizer.pad_token for t, ok in zip(text, present, strict=True)],
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            data["input_ids"], data["attention_mask"] = tokens["input_ids"], tokens["attention_mask"]
            for row, ok in enumerate(present):
                if not ok:
                    data["attention_mask"][row] = 0
        return BatchFeature(data)


def build_processor(
    tokenizer: PreTrainedTokenizerBase,
    image_size: int,
    max_text_length: int,
    image_mean: Sequence[float] = IMAGENET_MEAN,
    image_std: Sequence[float] = IMAGENET_STD,
) -> ImageTextProcessor:
    """The processor for a new classifier; texts are cut at ``max_text_length``, or where the tokenizer says."""
    tokenizer.model_max_length = min(tokenizer.model_max_length, max_text_length)
    image_processor = ViTImageProcessor(
        size={"height": image_size, "width": image_size}, image_mean=list(image_mean), image_std=list(image_std)
    )
    return ImageTextProcessor(image_processor, tokenizer)
