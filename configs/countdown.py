# SPDX-License-Identifier: Apache-2.0
"""Countdown: can a transformer learn to search, from searches written out?

  python -m meta_cot.main --config=configs/countdown.py:tiny --workdir=runs/tiny

Variants:
  tiny    3 numbers of 1..20, 0.5M parameters: under twelve minutes on two CPU
          cores.
  laptop  3 numbers of 1..30, 0.8M parameters: an hour on two CPU cores (33
          minutes for two of its three arms).
  gpu     4 numbers of 1..30, traces of all 12 strategies, 25M parameters: meant
          for ten minutes on one accelerator; not yet run.
  pod     Stream of Search (arXiv 2404.03683): 4 numbers of 1..99, 500,000
          traces of up to 4,096 tokens, 250M parameters, 10 billion tokens;
          not yet run.
"""

import ml_collections

from configs import base
from configs import models


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """The experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  config = base.get_config()
  change(config)
  return config


def _tiny(c: ml_collections.ConfigDict) -> None:
  c.arms = ('traces', 'solution_only', 'solution_only_permuted')
  c.task.max_value = 60
  c.traces.num_processes = 1  # quicker than starting workers
  c.tokenizer.number_tokens = 60  # 0..60 are one token each
  c.train.num_tokens = 2_000_000
  c.train.batch_size = 4
  c.checkpoint.save_every_steps = 350
  c.evaluation.num_curve_problems = 128
  c.evaluation.num_samples = 32


def _laptop(c: ml_collections.ConfigDict) -> None:
  c.arms = ('traces', 'solution_only', 'solution_only_permuted')
  c.model.update(dict(embed_dim=128, head_dim=32, mlp_dim=344))
  c.task.update(dict(max_number=30, max_target=99, max_value=99))
  c.tokenizer.number_tokens = 99
  c.tokenizer.vocab_size = 128
  c.data.update(dict(
      sequence_length=256, max_attempts=3))  # attempts: for configs/erl2.py
  c.optimizer.learning_rate = 2e-3
  c.train.num_tokens = 8_000_000
  c.checkpoint.save_every_steps = 1_000


def _gpu(c: ml_collections.ConfigDict) -> None:
  c.model.update_from_flattened_dict(models.get('small') | dict(
      num_layers=8, embed_dim=512, num_heads=8, num_kv_heads=8, head_dim=64,
      mlp_dim=1408, max_length=4096, embed_scale=True,
  ) | {'execution.layer_loop': 'scan', 'execution.remat': 'full'})
  c.task.update(dict(
      num_numbers=4, max_number=30, max_target=99, enumerate_all=False,
      num_train=50_000, heldout_numbers_fraction=0.1))
  _stream_of_search(c)
  c.data.sequence_length = 2048
  c.optimizer.update(dict(learning_rate=1e-3, warmup_steps=200))
  c.train.update(dict(
      num_tokens=100_000_000, batch_size=32, num_accumulation=2,
      eval_every_steps=500))
  c.checkpoint.save_every_steps = 250
  c.evaluation.update(dict(
      batch_size=512, max_new_tokens=2048, num_samples=32))


def _pod(c: ml_collections.ConfigDict) -> None:
  # Eight v5e chips hold weights and moments whole; docs/pods.md has the memory.
  # A fifth of the original's parameters are a vocabulary of 50,257 pieces; here
  # 1,024 suffice, and four more layers take their place.
  c.model.update_from_flattened_dict(
      models.get('sos_250m') | dict(vocab_size=1024, num_layers=20))
  c.task.update(dict(
      num_numbers=4, max_number=99, max_target=100, enumerate_all=False,
      num_train=500_000, heldout_numbers_fraction=0.02))
  _stream_of_search(c)
  c.problems.update(dict(num_shards=64, num_processes=16))
  c.traces.update(dict(num_shards=64, num_processes=16))
  c.data.update(dict(
      sequence_length=4096, packing_bins=64, num_streams=32, num_workers=1))
  c.optimizer.update(dict(
      learning_rate=3e-4, warmup_steps=1_000, b2=0.95, weight_decay=0.1))
  c.train.update(dict(
      num_tokens=10_000_000_000, batch_size=128, num_accumulation=4,
      log_every_steps=20, eval_every_steps=500))
  c.checkpoint.update(dict(save_every_steps=500, max_to_keep=20))
  c.evaluation.update(dict(
      batch_size=64, max_new_tokens=3968, num_samples=32))


def _stream_of_search(c: ml_collections.ConfigDict) -> None:
  """Traces of all strategies in the original text, digits split."""
  c.task.operands = 'listed'
  c.traces.strategies = 'stream_of_search'
  c.data.style = 'stream_of_search'
  c.tokenizer.vocab_size = c.model.vocab_size


VARIANTS = {'tiny': _tiny, 'laptop': _laptop, 'gpu': _gpu, 'pod': _pod}
