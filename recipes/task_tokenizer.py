"""A byte-level BPE tokenizer of 512 tokens for passkey and needle prompts, so that both fit 256 tokens.

With bytes a needle prompt takes about 500 tokens before any haystack, so none fits T = 256. The merges are learned from
prompts of the tasks themselves, made with seed 1 (training uses seed 0). Digits are never merged: a key of five digits
is five tokens.

    python recipes/task_tokenizer.py recipes/tasks-512.json
"""

from __future__ import annotations

import sys

from lengthwise.data.tokenizers import ByteTokenizer
from lengthwise.tasks.registry import make_tasks

TASKS = ("passkey", "niah_single_1", "niah_single_2")
VOCAB_SIZE = 512


def build(path: str) -> None:
    """Learn the merges and write the tokenizer to `path`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = [s.prompt for task in make_tasks(TASKS) for s in task.samples(range(200), 4096, ByteTokenizer(), seed=1)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(path)


if __name__ == "__main__":
    build(sys.argv[1])
