# SPDX-License-Identifier: Apache-2.0
"""What stands in for problems where none are stored yet."""

from data_pipelines import tokenizers
from meta_cot.problem import Problem
from meta_cot.stages import experiment as experiment_lib


def problem(experiment: experiment_lib.Experiment) -> Problem:
  """The longest of the first problems."""
  tokenizer = tokenizers.placeholder(experiment.tokenizer)
  return max(
      experiment_lib.first_problems(experiment.task, experiment.seed),
      key=lambda problem: len(tokenizer.encode(problem.question)))
