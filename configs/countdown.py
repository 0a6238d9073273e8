# SPDX-License-Identifier: Apache-2.0
"""Countdown: can a transformer learn to search, from searches written out?

  python -m meta_cot.main --config=configs/countdown.py:tiny --workdir=runs/tiny

Variants:
  tiny    3 numbers of 1..20, a token a digit, 0.5M parameters: five minutes on
          two CPU cores. Traces solve 89% of unseen numbers and 88% of unseen
          targets, solutions only 55% and 44%.
  laptop  3 numbers of 1..30, 0.8M parameters. An hour on two CPU cores (33
          minutes for two of its three arms). Of unseen numbers `traces` solves
          97.5%, `solution_only` 73.9%; of unseen targets 2.9% and 51.5%.
  gpu     4 numbers of 1..30, traces of all 12 strategies, 25M parameters. Meant
          for ten minutes on one accelerator; not yet run.
  pod     Stream of Search (arXiv 2404.03683): 4 numbers of 1..99, 500,000
          traces of up to 4,096 tokens, 250M parameters, 10 billion tokens. A
          TPU v5e-8; not yet run, compiled for it.
"""

import ml_collections

from configs import base
from configs import kinds
from configs import models
from configs import tasks

ARMS = ('traces', 'solution_only', 'solution_only_permuted')


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  config = pipeline()
  change(config)
  return config


def pipeline() -> ml_collections.ConfigDict:
  """Makes problems, traces, tokenizer, training and evaluation, all small."""
  c = base.get_config()
  c.task = tasks.countdown()
  c.problems = kinds.problems()
  c.traces = kinds.traces()
  c.tokenizer = kinds.tokenizer()
  c.sft = kinds.train(arms=('traces', 'solution_only'))
  c.evaluate = kinds.evaluate(
      reference='sft/traces', teacher='compact')
  c.evaluate.budget.sample_tokens = 512
  c.stages = ('problems', 'traces', 'tokenizer', 'sft', 'evaluate')
  return c


def _tiny(c: ml_collections.ConfigDict) -> None:
  c.style = 'compact_digits'
  c.task.max_value = 60
  c.traces.num_processes = 1  # quicker than starting workers
  c.sft.update(dict(
      num_tokens=3_000_000, batch_size=4, save_every_steps=500))
  c.sft.data.sequence_length = 256
  c.evaluate.num_curve_problems = 128
  c.evaluate.samples.update(dict(num_samples=32, max_new_tokens=256))


def _laptop(c: ml_collections.ConfigDict) -> None:
  c.model.update(dict(embed_dim=128, head_dim=32, mlp_dim=344))
  c.task.update(dict(max_number=30, max_target=99, max_value=99))
  c.tokenizer.vocabulary.update(dict(number_tokens=99, vocab_size=128))
  c.sft.update(dict(
      arms=ARMS, num_tokens=8_000_000, save_every_steps=1_000))
  c.sft.data.update(dict(
      sequence_length=256, max_attempts=3))  # attempts: for configs/erl2.py
  c.sft.optimizer.learning_rate = 2e-3


def _gpu(c: ml_collections.ConfigDict) -> None:
  c.model.update_from_flattened_dict(models.get('small') | {
      'num_layers': 8, 'embed_dim': 512, 'num_heads': 8, 'num_kv_heads': 8,
      'head_dim': 64, 'mlp_dim': 1408, 'max_length': 4096, 'embed_scale': True,
      'execution.layer_loop': 'scan', 'execution.remat': 'full'})
  c.task.update(dict(
      num_numbers=4, max_number=30, max_target=99, enumerate_all=False,
      num_train=50_000, heldout_numbers_fraction=0.1))
  stream_of_search(c)
  c.sft.update(dict(
      num_tokens=100_000_000, batch_size=32, num_accumulation=2,
      eval_every_steps=500, save_every_steps=250))
  c.sft.data.sequence_length = 2048
  c.sft.optimizer.update(dict(learning_rate=1e-3, warmup_steps=200))
  c.evaluate.samples.update(dict(
      batch_size=512, max_new_tokens=2048, num_samples=32))


def _pod(c: ml_collections.ConfigDict) -> None:
  # Eight v5e chips hold weights and moments whole; docs/pods.md has the memory.
  # A fifth of the original's parameters are a vocabulary of 50,257 pieces; here
  # 1,024 suffice, and four more layers take their place.
  c.model.update_from_flattened_dict(models.get('sos_250m') | {
      'vocab_size': 1024, 'num_layers': 20, 'execution.remat': 'dots'})
  c.task.update(dict(
      num_numbers=4, max_number=99, max_target=100, enumerate_all=False,
      num_train=500_000, heldout_numbers_fraction=0.02))
  stream_of_search(c)
  c.problems.update(dict(num_shards=16, num_processes=16))
  c.traces.update(dict(num_shards=64, num_processes=16))
  c.sft.update(dict(
      num_tokens=10_000_000_000, batch_size=128, num_accumulation=4,
      log_every_steps=20, eval_every_steps=500, save_every_steps=500,
      max_to_keep=20))
  c.sft.data.update(dict(
      sequence_length=4096, packing_bins=64, num_streams=32, num_workers=1))
  c.sft.optimizer.update(dict(
      learning_rate=3e-4, warmup_steps=1_000, b2=0.95, weight_decay=0.1))
  c.evaluate.samples.update(dict(
      batch_size=64, max_new_tokens=3968, num_samples=32))


def stream_of_search(c: ml_collections.ConfigDict) -> None:
  """Takes traces of all strategies in the original text, digits split."""
  c.style = c.traces.strategies = c.evaluate.teacher = 'stream_of_search'
  c.tokenizer.vocabulary.vocab_size = c.model.vocab_size


VARIANTS = {'tiny': _tiny, 'laptop': _laptop, 'gpu': _gpu, 'pod': _pod}
