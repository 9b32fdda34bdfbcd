"""How much of the rows reaches the model: truncated texts, unknown words, missing inputs."""

from __future__ import annotations

from app.evaluation.figures import InputCoverage
from data import Rows
from models import ImageTextProcessor


def input_coverage(processor: ImageTextProcessor, rows: Rows) -> InputCoverage:
    """Count truncated texts, unknown words, missing inputs and the value ranges of images of more than 8 bits."""
    limit, unknown_id = processor.tokenizer.model_max_length, processor.tokenizer.unk_token_id
    texts = set(rows.texts.present())
    cut = unknown = 0
    for text in texts:
        tokens = processor.token_ids(text)
        cut += len(tokens) > limit
        unknown += unknown_id is not None and unknown_id in tokens
    return InputCoverage(
        texts=len(texts),
        limit=limit,
        cut=cut,
        unknown=unknown,
        no_text=sum(text is None for text in rows.texts),
        no_image=sum(key is None for key in rows.image_keys),
        values=rows.value_range_reports(),
    )
