# SPDX-License-Identifier: Apache-2.0
"""Kept rollouts in the Agent Trajectory Interchange Format, ATIF v1.7.

The format is that of the Harbor project: a JSON object for every trajectory.
The question is a step of the user, an episode one of the agent, and what the
environment wrote behind it is the observation of that step.
"""

from collections.abc import Callable, Sequence
from typing import Any

from meta_cot import version

SCHEMA = 'ATIF-v1.7'
# Columns of a row that hold something of every token, beside its id.
_COLUMNS = ('trainer', 'entropy', 'advantages', 'kl', 'values', 'is_trained')


def trajectory(
    rows: Sequence[dict[str, Any]], decode: Callable[[Sequence[int]], str], *,
    model: str,
) -> dict[str, Any]:
  """Makes the object of one trajectory.

  Args:
    rows: all of it, as in `kept.FIELDS`; at least one.
    decode: tokens to text.
    model: name of the policy.
  """
  first = rows[0]
  start = _drawn(first)[0]
  steps = [dict(
      step_id=1, source='user', message=decode(first['tokens'][:start]),
      extra=dict(problem=first['problem'], question=first['text']))]
  for row in rows:
    for episode in sorted(set(row['episode']) - {-1}):
      steps.append(
          dict(step_id=len(steps) + 1) | _attempt(row, episode, decode, model))
  metrics = [step['metrics'] for step in steps[1:]]
  total = lambda name: sum(m[name] for m in metrics)
  name = f'{model}/it{first["step"]}/q{first["question"]}/s{first["sample"]}'
  return dict(
      schema_version=SCHEMA, session_id=model, trajectory_id=name,
      agent=dict(
          name='meta_cot', version=version.__version__, model_name=model),
      steps=steps,
      final_metrics=dict(
          total_prompt_tokens=total('prompt_tokens'),
          total_completion_tokens=total('completion_tokens'),
          total_steps=len(steps), extra=dict(rewards=first['rewards'])),
      extra={k: first[k] for k in ('step', 'question', 'sample')})


def _drawn(row) -> list[int]:
  """Where the tokens stand that were drawn."""
  return [t for t, episode in enumerate(row['episode']) if episode >= 0]


def _attempt(row, episode, decode, model) -> dict[str, Any]:
  """A step of the agent."""
  tokens = row['tokens']
  at = [t for t in _drawn(row) if row['episode'][t] == episode]
  behind = [t for t in _drawn(row) if t > at[-1]][:1]
  forced = tokens[at[-1] + 1:behind[0]] if behind else []
  columns = {
      name: [row[name][t] for t in at] for name in _COLUMNS
      if row.get(name) is not None}
  step = dict(
      source='agent', model_name=model, message=decode([tokens[t] for t in at]),
      metrics=dict(
          prompt_tokens=at[0], completion_tokens=len(at),
          prompt_token_ids=tokens[:at[0]],
          completion_token_ids=[tokens[t] for t in at],
          logprobs=[row['behaviour'][t] for t in at], extra=columns),
      extra=dict(
          episode=episode, reward=row['rewards'][episode],
          is_finished=row['is_finished'][episode],
          answer=row['answers'][episode]))
  if forced:
    step['observation'] = dict(results=[dict(content=decode(forced))])
  return step
