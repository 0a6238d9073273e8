# SPDX-License-Identifier: Apache-2.0
"""Released models on word problems: tuning, searches, reinforcement learning.

  python -m meta_cot.compile --config=configs/pretrained.py:llama31_8b
      --topology=v5p:2x2x1
  python -m meta_cot.main --config=configs/pretrained.py:llama31_8b
      --workdir=gs://BUCKET/RUN --config.sft.start=gs://BUCKET/llama31_8b

Variants are names of `configs/models.py` with their own vocabularies:
llama31_8b, llama31_70b, gemma3_27b. None has run yet; docs/pods.md says which
programs were compiled, and for which TPUs. `sft.start` is a policy folder that
`python -m meta_cot.convert import` has made; without it parameters start at
random. A mesh is set where it is launched: `--config.mesh.model=4`.

Solutions are prose. Judges read them on the host: no table of the vocabulary is
in a program.
"""

import ml_collections

from configs import base
from configs import kinds
from configs import models
from configs import tasks


def get_config(variant: str = 'llama31_8b') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  num_accumulation = base.choose(VARIANTS, variant)()
  c = base.get_config()
  c.model.update_from_flattened_dict(models.get(variant) | {
      'max_length': 2048, 'execution.remat': 'full'})
  c.mesh.update(dict(data=1, fsdp=-1))
  c.style = 'prose'
  c.task = tasks.word_problems()
  c.problems = kinds.problems()
  c.traces = kinds.traces(strategies='solution')
  c.tokenizer = kinds.tokenizer()
  c.tokenizer.vocabulary.vocab_size = 1024
  _train(c, num_accumulation)
  _ask(c)
  c.stages = ('problems', 'traces', 'tokenizer', 'sft', 'search', 'rl')
  return c


def _train(c: ml_collections.ConfigDict, num_accumulation: int) -> None:
  c.sft = kinds.train(
      arms=('solution_only',), batch_size=32, num_loss_chunks=8,
      num_accumulation=num_accumulation, num_tokens=20_000_000, max_to_keep=2)
  c.sft.data.update(dict(sequence_length=2048, num_streams=4))
  c.sft.optimizer.update(dict(
      learning_rate=1e-5, final_fraction=0.1, b2=0.95, weight_decay=0.1))
  c.rl = kinds.rl(
      start='sft/solution_only', objectives=('erl2',), max_to_keep=2)
  c.rl.questions.update(dict(num_questions=32, num_samples=8, num_slots=128))
  c.rl.episodes.update(dict(num_episodes=2, episode_length=128))
  c.rl.updates.update(dict(
      num_minibatches=2, num_accumulation=max(2, num_accumulation),
      num_loss_chunks=8))
  c.rl.optimizer.learning_rate = 1e-6


def _ask(c: ml_collections.ConfigDict) -> None:
  c.search = kinds.evaluate(
      policies=('sft/solution_only',), num_curve_problems=0,
      solvers=('greedy', 'samples', 'beam', 'best_first', 'mcts'))
  c.search.samples.update(dict(batch_size=64, max_new_tokens=256))
  c.search.search.update(dict(num_slots=32, step_length=64))


VARIANTS = {
    'llama31_8b': lambda: 1, 'llama31_70b': lambda: 4, 'gemma3_27b': lambda: 2}
