# SPDX-License-Identifier: Apache-2.0
"""The search that explores in the stage `rl`, by `config.rl.exploration`.

Its other settings are those of `config.search`.
"""

from collections.abc import Callable

from data_pipelines import tokenizers
from meta_cot import tasks
from meta_cot.rl import exploration
from meta_cot.rollouts import player
from meta_cot.search import engine
from meta_cot.settings import config as config_lib
from meta_cot.solvers import searching
from meta_cot.solvers import vocabulary as vocabulary_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.tasks import base


def check(experiment: experiment_lib.Experiment) -> None:
  """Raises a ConfigError where no search may or can explore."""
  name, settings = experiment.rl.exploration, experiment.search
  if name == 'policy':
    return
  if settings.outcome != 'value':
    raise config_lib.ConfigError(
        f'config.search.outcome: got {settings.outcome!r} with '
        f"config.rl.exploration {name!r}; must be 'value', as no verifier "
        'guides an answer to a new question.')
  if settings.value == 'head' and experiment.model.value_head == 'none':
    raise config_lib.ConfigError(
        "config.search.value: got 'head'; the model has no value head: set "
        "config.model.value_head to 'shared'.")
  strategy(experiment)


def strategy(experiment: experiment_lib.Experiment) -> engine.Strategy:
  """That of the search.

  Raises:
    ConfigError: the settings allow no search.
  """
  settings = experiment.search
  return searching.make_strategy(
      settings, experiment.rl.exploration, settings.depth(
          tasks.make(experiment.task.kind),
          experiment_lib.first_problems(experiment.task, experiment.seed)))


def num_behind(
    experiment: experiment_lib.Experiment, objective: str,
    reset_ids: tuple[int, ...],
) -> int:
  """Tokens that a search puts behind a question, at most; 0 without one."""
  if not experiment.rl.searches(objective):
    return 0
  return exploration.num_behind(
      strategy(experiment), step_length=experiment.search.step_length,
      num_attempts=experiment.rl.num_episodes - 1, num_reset=len(reset_ids))


def vocabulary(
    experiment: experiment_lib.Experiment,
    tokenizer: tokenizers.Tokenizer,
) -> vocabulary_lib.Vocabulary:
  """What the search must know of a tokenizer.

  Raises:
    ConfigError: no token ends a step.
  """
  try:
    return vocabulary_lib.of(
        tokenizer, experiment.model.vocab_size, experiment.data.style,
        experiment.search.step)
  except ValueError as e:
    raise config_lib.ConfigError(f'config.rl.exploration: {e}') from e


def jit_explore(
    experiment: experiment_lib.Experiment, task: base.Task,
    vocabulary: vocabulary_lib.Vocabulary, reset_ids: tuple[int, ...],
) -> Callable[..., player.Asked]:
  """See `exploration.jit_explore`."""
  step_fn, start = searching.make_steps(
      task, experiment.model, experiment.search, vocabulary)
  return exploration.jit_explore(exploration.Search(
      experiment.model, strategy(experiment), step_fn, start,
      step_length=experiment.search.step_length,
      num_attempts=experiment.rl.num_episodes - 1, reset_ids=reset_ids,
      pad_id=vocabulary.pad_id))
