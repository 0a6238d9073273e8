# SPDX-License-Identifier: Apache-2.0
"""What an addition costs: a throw-away style and a throw-away stage.

Each is written here and named in one dict; nothing else is touched. The others
of the table in docs/design.md: a task of one's own (tasks_test), a tokenizer
(tokenizer_kinds_test), an objective of training (objective_test) and of RL
(rl_objective_test), a solver (bench_test).
"""

import dataclasses
import re
import types

from etils import epath
import numpy as np
import pytest

from configs import base as base_config
from configs import tasks as tasks_config
from data_pipelines import arms
from data_pipelines import examples
from data_pipelines.tokenizers import sentencepiece
from meta_cot import main
from meta_cot import traces
from meta_cot.rollouts import judge as judge_lib
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import kinds
from meta_cot.tasks import countdown
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces.arithmetic import teacher

# A style: solutions only, `4,6>24 = 4*6=24.`
_TEXT = re.compile(r'([\d,]+>\d+) = ((?:[^.]*\.)?)')


def _spans(events):
  start, *rest = events
  spans = [events_lib.Span(f'{start.question} = ', 'prompt', False)]
  answers = [e for e in rest if isinstance(e, traces.Answer)]
  if len(answers) != len(rest):
    raise ValueError('this style writes solutions only.')
  return spans + [
      events_lib.Span(a.text.replace('\n', '; ') + '.', 'solution', True)
      for a in answers]


def _read(text):
  match = _TEXT.match(text)
  if match is None or match.end() < len(text):
    fault = events_lib.Fault(
        'format', match.end() if match else 0, 'a question and its solution')
    return events_lib.Reading((), (fault,), None)
  answer = match[2].removesuffix('.').replace('; ', '\n')
  events = (traces.Start(match[1]),) + (
      (traces.Answer(answer),) if answer else ())
  return events_lib.Reading(events, (), answer or None)


_PLAIN = types.SimpleNamespace(
    prompt=lambda question: f'{question} = ', spans=_spans, read=_read,
    OPENING='', STEP_END='; ', EVENT_ENDS=('. ',))


def test_a_style(monkeypatch):
  monkeypatch.setitem(format_lib.STYLES, 'plain', _PLAIN)
  problem = countdown.make_problem([4, 9, 3], 24)
  record = teacher.search(problem, teacher.COMPACT, 0)
  task = countdown.make(None, 0)
  events = arms.make('solution_only', task)(
      record, np.random.default_rng(0), 1)[0]
  text = traces.render(events, style='plain')
  assert traces.parse(text, style='plain') == events
  with pytest.raises(ValueError, match='position'):
    traces.parse(text + 'x', style='plain')
  tokenizer = sentencepiece.train([text], 64, 24)
  config = examples.DataConfig(
      64, 'procedure_cloning', None, 1, 0, 1, 0.0, 1, 'all', 0.0, 'none', (),
      examples.ValueConfig(1.0, 0.0, None),
      examples.VerdictConfig('?', '!', 'x', None),
      examples.PairsConfig(0.1, 0.25))
  example = examples.Texts(
      arms.make('solution_only', task), config, tokenizer, 'plain')(
          record, np.random.default_rng(0))
  tokens = example['targets'][example['weights'] > 0].tolist()
  assert judge_lib.Judge(task, tokenizer, 'plain').claim(
      problem, tokens).verdict.is_correct


@dataclasses.dataclass(frozen=True)
class Counting:
  """Settings of a stage that counts problems."""

  problems: str = config_lib.setting()
  power: int = config_lib.setting(low=1)


def _count(context, settings, directory):
  manifest = files.read_json(
      context.folder(settings.problems) / 'manifest.json')
  total = sum(s['num_records'] for s in manifest['splits'].values())
  files.write_json(directory / 'count.json', dict(
      total=total ** settings.power))


def test_a_stage(monkeypatch, tmp_path):
  monkeypatch.setattr(kinds, 'KINDS', dict(kinds.KINDS) | {
      'count': base.Stage(
          Settings=Counting, run=_count,
          reads=lambda settings: (settings.problems,))})
  c = base_config.get_config()
  c.task = tasks_config.countdown()
  c.task.update(dict(max_number=5, num_heldout=8))
  c.problems = dict(kind='problems', num_shards=1, num_processes=1)
  c.count = dict(kind='count', problems='problems', power=1)
  c.stages = ('problems', 'count')
  counted = [_run(c, tmp_path), _run(c, tmp_path)]
  assert counted[0] == counted[1] > 20
  c.count.power = 2
  assert _run(c, tmp_path) == counted[0] ** 2


def _run(config, workdir):
  """Runs all stages; what the new one left."""
  experiment = experiment_lib.parse(config)
  context = base.Context(
      experiment.shared, experiment.groups, workdir=epath.Path(workdir))
  for group in experiment.chosen():
    main.run(context, group)
  return files.read_json(
      epath.Path(workdir) / 'count' / 'count.json', total=int)['total']
