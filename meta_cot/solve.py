# SPDX-License-Identifier: Apache-2.0
"""Solves questions with a policy, and shows how.

  python -m meta_cot.solve --policy=runs/a/sft/traces "4,9,3>24"
  python -m meta_cot.solve --workdir=runs/a --stage=sft/traces --solver=beam \
      --html=solved.html < questions.txt

A question is an argument, or a line of the standard input where there is none.
`--solver` names a procedure (greedy by default; docs/evaluation.md has them
all) with the settings of a stage of kind evaluate of the workdir: that of
`--settings=STAGE`, else the last one that uses it, else the last one. The tree
is drawn with colours on a terminal, without with `--no-color`; `--json` prints
an object a question instead, `--html=FILE` also writes a page of all of them.
Exit code 2: a question cannot be read, which one line on stderr says.
"""

from collections.abc import Sequence
import dataclasses
import functools
import json
import os
import sys
from typing import Any

from etils import epath
import jax

from meta_cot import sharding
from meta_cot import traces
from meta_cot.evaluation import bench
from meta_cot.evaluation import rows as rows_lib
from meta_cot.runtime import files
from meta_cot.settings import command_line
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import table
from meta_cot.solvers import trees
from meta_cot.stages import base
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import solving
from meta_cot.tasks import base as tasks
from meta_cot.training import compilation
from meta_cot.view import page
from meta_cot.view import searches
from meta_cot.view import terminal

_FLAGS = ('policy', 'workdir', 'stage', 'solver', 'settings', 'html')
_SWITCHES = ('json', 'no-color')
_NUMBERS = ('num_tokens', 'seconds')


@dataclasses.dataclass(frozen=True)
class _Asked:
  """A policy of a workdir, and how it is asked."""

  context: base.Context
  there: solving.Asked
  solver: str

  @functools.cached_property
  def policy(self) -> solvers_base.Policy:
    """As it was at the end of its training; read once."""
    steps = self.there.folder.steps()
    if not steps:
      self.there.folder.params(self.context.mesh)  # says what is missing
    return self.there.at(steps[-1])

  @functools.cached_property
  def procedure(self) -> bench.Procedure:
    """The solver; compiles its programs once."""
    return self.there.procedure(self.solver)

  def solve(self, question: str, number: int) -> dict[str, Any]:
    """Answers a question: what `searches.tree` has, and the verdict.

    Raises:
      UserError: the task cannot read it, or the policy cannot be asked.
    """
    task = self.context.task
    problem = tasks.ask(task, question)
    self.context.check_prompts(self.there.folder, [problem])
    rng = jax.random.key(self.context.seed)
    try:
      outcomes = self.procedure.solver(
          self.policy, [problem], rng, first=number)
    except ValueError as e:  # such as a question that the model has no room for
      raise config_lib.UserError(f'question: {e}') from e
    rows = rows_lib.of(self.policy, self.solver, 'asked', [problem], outcomes)
    record = None if outcomes.records is None else outcomes.records[0, 0]
    best = next((row for row in rows if row['is_correct']), rows[0])
    tree = searches.search(rows[0], record) or _chains(task, problem, rows)
    return tree | dict(
        problem=problem.id, question=problem.question,
        policy=self.policy.label, solver=self.solver, answer=best['answer'],
        is_solved=best['is_correct'], seconds=float(outcomes.seconds),
        num_tokens=sum(row['num_tokens'] or 0 for row in rows))


def main(argv: Sequence[str]) -> None:
  """Solves all questions.

  Raises:
    UserError: wrong usage, no such policy, or the only question cannot be read.
    SystemExit: one of several questions cannot be read.
  """
  switches = {a.lstrip('-') for a in argv if a.lstrip('-') in _SWITCHES}
  questions = [a for a in argv if not a.startswith('-')]
  flags, _ = command_line.split(
      [a for a in argv if a.startswith('-')
       and a.lstrip('-') not in _SWITCHES], _FLAGS)
  with files.named_errors():
    asked = _asked(flags)
    lines = questions or (line.rstrip('\n') for line in sys.stdin)
    found, num_wrong = [], 0
    with sharding.use_mesh(asked.context.mesh):
      for number, line in enumerate(filter(str.strip, lines)):
        try:
          made = asked.solve(line.strip(), number)
        except config_lib.UserError as e:
          if len(questions) == 1:
            raise
          print('error:', *str(e).split(), file=sys.stderr)
          num_wrong += 1
          continue
        found.append(made)
        _print(made, switches)
    if 'html' in flags:
      files.write_atomic(files.path(flags['html']), page.render(_page(found)))
  if num_wrong:
    raise SystemExit(2)


def _asked(flags) -> _Asked:
  """Reads the policy and the settings of its workdir."""
  folder, reference = _places(flags)
  experiment = experiment_lib.parse(
      files.read_json(folder / 'config.json', stages=list))
  context = base.Context(
      experiment.shared, experiment.groups,
      sharding.make_mesh(experiment.shared.mesh), folder)
  solver = flags.get('solver', 'greedy')
  if solver not in table.SOLVERS:
    raise config_lib.UserError(
        f'--solver: got {solver!r}; '
        f'{config_lib.nearest(solver, tuple(table.SOLVERS))}.')
  cache = folder / 'compilation_cache'
  if cache.exists():
    compilation.use_cache(str(cache))
  reference = context.parts((reference,))[0]
  asked = solving.Asked(
      context, _settings(experiment, solver, flags.get('settings')), reference)
  if not asked.is_asked(solver):
    raise config_lib.UserError(
        f'--solver: got {solver!r}; a policy of RL plays its episodes: '
        '--solver=revisions.')
  return _Asked(context, asked, solver)


def _places(flags) -> tuple[epath.Path, str]:
  """The workdir, and the reference of the policy in it."""
  if 'policy' not in flags:
    if not {'workdir', 'stage'} <= flags.keys():
      raise config_lib.UserError(
          '--policy: missing; give one, such as --policy=runs/a/sft/traces, or '
          '--workdir=runs/a --stage=sft/traces.')
    return files.path(flags['workdir']), flags['stage']
  policy = files.path(flags['policy'])
  if not (policy / 'policy.json').exists():
    raise config_lib.UserError(
        f'--policy: got {policy}; there is no policy.json in it: name the '
        'folder of a policy.')
  folder = files.path(flags['workdir']) if 'workdir' in flags else next(
      (p for p in policy.parents if (p / 'config.json').exists()), None)
  if folder is None:
    raise config_lib.UserError(
        f'--workdir: missing; {policy} is in no workdir, whose config.json '
        'names the task: give one of the same task.')
  inside = policy.parts[:len(folder.parts)] == folder.parts
  return folder, (
      '/'.join(policy.parts[len(folder.parts):]) if inside else str(policy))


def _settings(experiment, solver: str, name: str | None) -> Any:
  """Those of a stage that asks questions."""
  groups = {
      g.name: g.settings for g in experiment.groups.values()
      if hasattr(g.settings, 'curve_solvers')}
  if not groups:
    raise config_lib.UserError(
        'config.json: no stage is of kind evaluate, whose settings say how '
        'questions are answered; use the workdir of an experiment with one.')
  if name is not None and name not in groups:
    raise config_lib.UserError(
        f'--settings: got {name!r}; '
        f'{config_lib.nearest(name, tuple(groups))}.')
  using = [n for n, settings in groups.items() if solver in settings.solvers]
  return groups[name or (using or list(groups))[-1]]


def _chains(task, problem, rows) -> dict[str, Any]:
  """The answers as chains of steps; their texts alone where there are none."""
  text = rows[0]['details'].get('text') or ''
  if task.states is None:
    nodes = (traces.Node(-1, '', ''), traces.Node(
        0, rows[0]['answer'] or '', '', is_terminal=True,
        is_correct=rows[0]['is_correct']))
    return searches.tree(nodes, (), text)
  record = trees.of_answers(
      task, problem, [row['answer'] for row in rows],
      [row['is_correct'] for row in rows], strategy=rows[0]['solver'],
      arguments={}, seed=0, model=rows[0]['policy'])
  return searches.tree(record.nodes, record.solution, text)


def _print(made, switches) -> None:
  """One question, as an object or as a tree."""
  if 'json' in switches:
    print(json.dumps(made), flush=True)
    return
  has_color = sys.stdout.isatty() and 'no-color' not in switches and (
      'NO_COLOR' not in os.environ)
  answer = made['answer'] and ', '.join(made['answer'].split('\n'))
  print(
      f'{terminal.visible(made["question"])}: '
      f'{"right" if made["is_solved"] else "wrong"}, {made["solver"]} of '
      f'{made["policy"]}, {terminal.summary(made, _NUMBERS)}')
  print(*terminal.draw(made, has_color=has_color), sep='\n')
  print(f'answer: {terminal.visible(answer or "none")}\n', flush=True)


def _page(found) -> dict[str, Any]:
  """What `page.render` takes, with the questions as one stage."""
  problems = [dict(
      problem=made['problem'], question=made['question'], split='asked',
      searches=[made]) for made in found]
  return dict(name='solved', shared=[], stages=[dict(
      name='solve', kind='solve', state='done', machines=[], settings=[],
      head='', searches=problems)])


if __name__ == '__main__':
  command_line.run(main, __doc__)
