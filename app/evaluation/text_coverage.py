"""How much of the texts the model reads."""

from __future__ import annotations

from functools import lru_cache

from data import Rows
from models import ImageTextProcessor


def what_it_saw(processor: ImageTextProcessor, rows: Rows) -> dict:
    """What the model gets of the rows.

    Returns:
        ``texts`` (how many different ones), of these ``cut`` (after ``limit`` tokens) and ``unknown`` (with words that
        the tokenizer does not know); ``no_text`` and ``no_image`` (rows that lack one); ``values`` (how images of more
        than 8 bits are read, see `data.value_range_report.ValueRangeReport.to_json`).
    """
    tokenizer, texts = processor.tokenizer, set(rows.texts.present())
    tokens = lru_cache(maxsize=None)(lambda text: tokenizer(text, verbose=False)["input_ids"])
    unknown = tokenizer.unk_token_id
    return {
        "texts": len(texts),
        "limit": tokenizer.model_max_length,
        "cut": sum(len(tokens(text)) > tokenizer.model_max_length for text in texts),
        "unknown": 0 if unknown is None else sum(unknown in tokens(text) for text in texts),
        "no_text": sum(text is None for text in rows.texts),
        "no_image": sum(key is None for key in rows.image_keys),
        "values": [found.to_json() for found in rows.value_range_reports()],
    }
