# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of docs/tour.md from the pages of finished runs.

  python -m benchmarks.tour runs/a [runs/b ...] --output=docs/images

Needs Chromium. Every picture is of the first run that has such a page; what no
run has is left out, with a word. A picture has at most 200 kB.
"""

from collections.abc import Iterator, Sequence
import pathlib
import tempfile
from typing import Any

from meta_cot.runtime import files
from meta_cot.settings import command_line
from meta_cot.settings import config as config_lib
from meta_cot.view import page as page_lib
from meta_cot.view import run as run_lib
from tests import browser

_MAX_BYTES = 200_000
_SIZE = (1180, 700)


def main(argv: Sequence[str]) -> None:
  """Writes the pictures.

  Raises:
    UserError: there is no browser, or no run is named.
  """
  workdirs = [word for word in argv if not word.startswith('--')]
  flags, _ = command_line.split(
      [word for word in argv if word.startswith('--')], ('output',))
  if not workdirs or browser.find() is None:
    raise config_lib.UserError(
        'name the workdirs of finished runs, and install Chromium.')
  output = pathlib.Path(command_line.required(flags, 'output'))
  output.mkdir(parents=True, exist_ok=True)
  made = set()
  with tempfile.TemporaryDirectory() as folder:
    for workdir in workdirs:
      values = run_lib.read(
          files.path(workdir), max_rollouts=1000, max_problems=40)
      path = pathlib.Path(folder, 'run.html')
      path.write_text(page_lib.render(values))
      for name, where, actions in _pictures(values):
        if name not in made:
          _draw(path, where, actions, output / f'{name}.png')
          made.add(name)
  print('made:', ', '.join(sorted(made)))


def _draw(path, where, actions, target) -> None:
  with browser.opened(_SIZE) as page:
    page.open(path, where)
    for method, *arguments in actions:
      getattr(page, method)(*arguments)
    page.screenshot(target)
  size = target.stat().st_size
  print(f'{target}: {size / 1000:.0f} kB')
  if size > _MAX_BYTES:
    raise config_lib.UserError(f'{target}: {size} bytes; at most {_MAX_BYTES}.')


def _pictures(values: dict[str, Any]) -> Iterator[tuple[str, str, list]]:
  """(name, address, what is done there) of the pages of a run."""
  yield 'overview', '#overview', []
  for stage in values['stages']:
    name = stage['name']
    if stage['kind'] == 'train' and stage['curves']:
      yield 'curves', f'#curves/{name}', []
    for run in stage.get('rl', ()):
      yield from _of_rl(f'#rl/{name}/{run["run"]}', run['rows'])
    if stage.get('evaluation'):
      yield 'evaluation', f'#evaluate/{name}', []
      yield 'flops', f'#evaluate/{name}/flops', [('click', '#theme')]
    if any(len(p['searches']) > 1 for p in stage.get('searches', ())):
      yield from _of_searches(f'#search/{name}', stage['searches'])
    if 'quality' in stage:
      yield 'values', f'#values/{name}', []


def _of_rl(where, rows):
  """A group in which some samples are right; one that is."""
  yield 'rollouts', where, []
  right = [r for r in rows if r['rewards'][-1] and any(r['advantages'])]
  row = (right or rows)[-1]
  group = f'{where}/it{row["step"]}/q{row["question"]}'
  yield 'group', group, []
  tokens = '[aria-label="Colour by"] button'
  yield 'tokens', f'{group}/s{row["sample"]}', [
      ('click', tokens, 4), ('click', '.tok.trained', 2)]


def _of_searches(where, problems):
  """The largest of the small trees that solve their problem, half-way."""
  def size(place):
    searches = problems[place]['searches']
    largest = max(len(s['parent']) for s in searches)
    is_solved = all(s['is_solved'] for s in searches[:2])
    return (is_solved and largest <= 40, largest)

  place = max(range(len(problems)), key=size)
  last = max(max(s['order']) for s in problems[place]['searches']) + 1
  yield 'search', f'{where}/p{place}/t{last}', [('click', '.node circle', 4)]
  yield 'search_halfway', f'{where}/p{place}/t{last // 2}', []


if __name__ == '__main__':
  command_line.run(main, __doc__)
