"""The command ``predict --rows``: every shard that no process has answered or is answering."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence

import pandas as pd

from app.inference.batch_predict import write_answers
from app.inference.predictor import Predictor
from app.inference.shards import Shard
from app.processes import place_among_processes, use_own_gpu
from data.errors import UserError

ANSWERED, DONE, BUSY, FAILED = "answered", "done before", "being answered by other processes", "not answered"
"""What has become of a shard."""


def answer_shards(
    shards: Sequence[Shard], load: Callable[[], Predictor], answer: Callable[[Predictor, str], pd.DataFrame]
) -> None:
    """Answer the shards of this process and print how many there are; exit with code 1 if one cannot be answered.

    Args:
        shards: of all processes; each takes every n-th.
        load: loads the model, once, when the first shard needs it.
        answer: returns the answers to a source, or raises `UserError`; the other shards are then answered all the same.
    """
    use_own_gpu()
    place, number = place_among_processes()
    own, states, predictor = shards[place::number], Counter[str](), None
    for shard in own:
        with shard.claim() as is_free:
            if not is_free:
                states[BUSY] += 1
            elif shard.is_done():
                states[DONE] += 1
            else:
                predictor = predictor or load()
                states[answer_shard(shard, predictor, answer)] += 1
    of_process = f"process {place + 1} of {number}: " if number > 1 else ""
    counts = ", ".join(f"{states[state]:,} {state}" for state in (ANSWERED, DONE, BUSY, FAILED))
    print(f"{of_process}{len(own):,} shards: {counts}")
    if states[FAILED]:
        sys.exit(1)


def answer_shard(shard: Shard, predictor: Predictor, answer: Callable[[Predictor, str], pd.DataFrame]) -> str:
    """Answer one shard and write the answers; print why if that is not possible."""
    try:
        write_answers(answer(predictor, shard.source), shard.output)
    except UserError as error:
        print(f"{shard.source} is not answered: {error}", file=sys.stderr)
        return FAILED
    print(f"wrote {shard.output}")
    return ANSWERED
