"""Documents from many processes, packed into rows of equal length.

A row holds whole documents one after the other. Its parts: tokens, the document each belongs to, and whether the token
that comes next is to be learnt.
"""

import multiprocessing as mp
import os

import numpy as np

ROWS_A_SHARD = 32
DOCUMENTS_A_DRAUGHT = 256


def documents(tokenizer, seed):
    from data.case import rng_of
    from data.mixture import document

    rng = rng_of("training", seed)
    while True:
        drawn = [document(rng) for _ in range(DOCUMENTS_A_DRAUGHT)]
        flat = tokenizer.encode_batch_fast([text for pieces in drawn for text, _ in pieces], add_special_tokens=False)
        at = 0
        for pieces in drawn:
            ids, learnt = [], []
            for _, wanted in pieces:
                part = flat[at].ids
                at += 1
                ids += part
                learnt += [wanted] * len(part)
            yield ids, learnt


def rows(tokenizer, seed, length, pad):
    """A document that does not fit waits for the next row."""
    waiting, source = [], documents(tokenizer, seed)
    while True:
        tokens = np.full(length, pad, np.uint16)
        owner = np.zeros(length, np.uint16)
        learnt = np.zeros(length, np.uint8)
        at, number, misses = 0, 1, 0
        while at < length - 16 and misses < 6:
            fitting = next((i for i, (ids, _) in enumerate(waiting) if len(ids) <= length - at), None)
            if fitting is None:
                ids, wanted = next(source)
                if len(ids) > length:
                    continue
                if len(ids) > length - at:
                    waiting.append((ids, wanted))
                    misses += 1
                    continue
            else:
                ids, wanted = waiting.pop(fitting)
            end = at + len(ids)
            tokens[at:end] = ids
            owner[at:end] = number
            learnt[at : end - 1] = wanted[1:]
            at, number = end, number + 1
        yield tokens, owner, learnt


def work(queue, path, seed, length, pad):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer

    source = rows(Tokenizer.from_file(path), seed, length, pad)
    while True:
        drawn = [next(source) for _ in range(ROWS_A_SHARD)]
        queue.put(tuple(np.stack(part) for part in zip(*drawn)))


def start(path, workers, length, pad, seed=0):
    """Processes that fill a queue of shards; they end with this one."""
    context = mp.get_context("spawn")
    queue = context.Queue(maxsize=64)
    for number in range(workers):
        context.Process(target=work, args=(queue, path, (seed, number), length, pad), daemon=True).start()
    return queue
