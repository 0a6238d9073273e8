# SPDX-License-Identifier: Apache-2.0
"""What guides a search over a model's steps: its sources of values by name."""

from collections.abc import Callable, Collection, Mapping
import dataclasses
import functools
import types
from typing import Any

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import reasoning
from meta_cot.model import config as model_config
from meta_cot.reasoning import node as node_lib
from meta_cot.reasoning import sources as sources_lib
from meta_cot.search import base as search_base
from meta_cot.search import values
from meta_cot.settings import config as config_lib
from meta_cot.solvers import vocabulary as vocabulary_lib
from meta_cot.tasks import base as base_task

# Makes the source called so, of `Parts`.
SOURCES: Mapping[str, Callable[..., values.Source]] = (
    types.MappingProxyType({
        'likelihood': lambda parts: values.Likelihood(),
        'head': lambda parts: values.Own(),
        'model': lambda parts: sources_lib.OfModel(
            parts.judge.model, parts.step.step_length),
        'verdicts': lambda parts: sources_lib.OfVerdicts(
            _writer(parts), parts.step.step_length, parts.judge.ask_id,
            parts.is_merged),
        'rollouts': lambda parts: sources_lib.OfCompletions(
            parts.step, parts.settings.num_rollouts,
            parts.settings.rollout_length, parts.verdict, parts.is_merged),
        'oracle': lambda parts: sources_lib.OfTexts(
            parts.oracle, parts.step.pad_id),
    }))
NAMES = (*SOURCES, 'mixture')
JUDGED = ('model', 'verdicts')  # by another policy


@dataclasses.dataclass(frozen=True)
class Settings:
  """Of sources that have some; `search.value` says which one it is."""

  model: str | None = config_lib.setting()
  num_rollouts: int = config_lib.setting(low=1)
  rollout_length: int = config_lib.setting(low=1)
  sources: tuple[str, ...] = config_lib.setting(
      choices=tuple(SOURCES), is_unique=True)
  weights: tuple[float, ...] = config_lib.setting(above=0.0)
  mixing: str = config_lib.setting(choices=tuple(values.MIXINGS))

  def named(self, value: str) -> tuple[str, ...]:
    """Lists the sources of `search.value`."""
    return self.sources if value == 'mixture' else (value,)


@dataclasses.dataclass(frozen=True)
class Judge:
  """Another policy that values steps, with its head or in words."""

  model: model_config.ModelConfig
  ask_id: int | None = None  # tokens of its verdicts; None: it says none
  right_id: int | None = None


def judge_of(there: Any, words: Mapping[str, Any] | None) -> Judge:
  """Describes a judge.

  Args:
    there: a policy that has `model` and `tokenizer`, trained or not.
    words: of its verdicts, by the fields of `examples.VerdictConfig`, if any.
  """
  return Judge(there.model, *(
      tokenizers.of_setting(there.tokenizer, words[name])[0]
      for name in ('ask', 'right') if words))


@dataclasses.dataclass(frozen=True)
class Parts:
  """What sources are made of."""

  step: reasoning.LanguageStep
  settings: Settings
  judge: Judge | None
  verdict: node_lib.OfText | None
  oracle: node_lib.OfText | None
  is_merged: bool  # equal steps of a leaf are


def own_value(sources: Collection[str]) -> node_lib.OfText | None:
  """Makes the `value` of a `LanguageStep`: of its head only where it is asked.
  """
  return None if 'head' in sources else sources_lib.nothing


def valued(
    value: str, parts: Parts, *, is_reward: bool
) -> tuple[search_base.StepFn, Callable[..., tuple[Any, search_base.Root]]]:
  """Values the steps as `search.value` says, and makes their beginning.

  Returns:
    As `searching.make_steps`; with `is_reward` rewards are the values too.
  """
  step = parts.step
  own = functools.partial(
      reasoning.start, step.config, step_length=step.step_length,
      value=step.value)

  def start(params, inputs):
    (_, rows), root = own(
        params, inputs['prompt'], inputs['length'], problems=inputs['problem'])
    return rows, root

  if value == 'head':
    return step, start
  source = _source(value, parts)
  step_fn = values.valued(step, source, is_reward=is_reward)
  pair = lambda params: params if parts.judge else (params, None)

  def step_of_rows(params, rng, path):
    params, (prompts, rows) = params
    params, judge = pair(params)
    return step_fn(((params, prompts), (judge, rows)), rng, path)

  def start_of_rows(params, inputs):
    params, judge = pair(params)
    prompts, root = start(params, inputs)
    beginning = source.begin(judge, inputs, root)
    return (prompts, beginning.rows), values.begin(root, beginning)

  return step_of_rows, start_of_rows


def _writer(parts: Parts) -> reasoning.LanguageStep:
  """Makes the step that writes verdicts."""
  return dataclasses.replace(
      parts.step, config=parts.judge.model,
      branching=parts.settings.num_rollouts,
      step_length=parts.settings.rollout_length, delimiter_ids=(),
      sampling=decode.Sampling(1.0, None, None),
      outcome=node_lib.ends_with(parts.judge.right_id),
      value=sources_lib.nothing, state_key=None, is_legal=None,
      siblings='independent', has_attempts=False)


def _source(value: str, parts: Parts) -> values.Source:
  if value != 'mixture':
    return SOURCES[value](parts)
  settings = parts.settings
  return values.Mixture(
      tuple(SOURCES[name](parts) for name in settings.sources),
      settings.weights, settings.mixing)


def check(
    settings: Settings, value: str, step: str, task: base_task.Task,
    model: model_config.ModelConfig,
) -> None:
  """Raises a ConfigError where a policy's steps cannot be valued so."""
  names = settings.named(value)
  if value == 'mixture' and not (
      0 < len(settings.sources) == len(settings.weights)):
    raise config_lib.ConfigError(
        f'search.valuing.weights: got {settings.weights} for sources '
        f'{settings.sources}; must be one for each, of at least one.')
  if set(JUDGED) & set(names) and settings.model is None:
    raise config_lib.ConfigError(
        'search.valuing.model: got None; must be the policy that judges where '
        f'search.value is {value!r}.')
  if 'head' in names:
    check_head(value, model)
  if 'oracle' in names and (
      None in (task.oracle, task.states)
      or step not in vocabulary_lib.SOLUTIONS):
    raise config_lib.ConfigError(
        f'search.value: got {value!r}; must be without an oracle: this task '
        f'does not say which states of steps {step!r} lead to a solution '
        '(task.oracle, of solutions).')


def check_head(value: str, model: model_config.ModelConfig) -> None:
  """Raises a ConfigError where a policy has no value head to ask."""
  if model.value_head == 'none':
    raise config_lib.ConfigError(
        f"search.value: got {value!r}; the model has no value head: set "
        "config.model.value_head to 'shared'.")


def check_judge(
    settings: Settings, value: str, style: str, judge: Judge, judge_style: str
) -> None:
  """Raises a ConfigError where a policy cannot judge texts of a style."""
  path = f'search.valuing.model: got {settings.model!r}, '
  names = settings.named(value)
  if 'model' in names and judge.model.value_head == 'none':
    raise config_lib.ConfigError(
        f'{path}a model without a value head; must be one that has one.')
  if 'verdicts' in names and judge.ask_id is None:
    raise config_lib.ConfigError(
        f'{path}a policy that says no verdicts; must be one of objective '
        "'verdict'.")
  if style != judge_style:
    raise config_lib.ConfigError(
        f'{path}of style {judge_style!r}; must be of {style!r}, as the policy.')


def check_tokens(settings: Settings, fingerprint: str, other: str) -> None:
  """Raises a ConfigError where the judge's tokenizer is another one."""
  if fingerprint != other:
    raise config_lib.ConfigError(
        f'search.valuing.model: got {settings.model!r}, of tokenizer '
        f'{other[:12]}; must have that of the policy, {fingerprint[:12]}.')
