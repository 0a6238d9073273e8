# SPDX-License-Identifier: Apache-2.0
"""Stage `figure`: a picture of what other stages left, and its numbers.

Leaves figure.png, figure.svg and figure.json, the points of every line; and
table.md where the figure is a table.
"""

import dataclasses

from meta_cot.evaluation import figures
from meta_cot.evaluation import plots
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import summary as summary_lib
from meta_cot.evaluation.figures import base as figures_base
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import base

_NAMES = ('figure.png', 'figure.svg', 'figure.json')
_TABLE = 'table.md'  # of a figure with columns


@dataclasses.dataclass(frozen=True)
class Settings:
  """Which figure, of which stages."""

  figure: str = config_lib.setting(choices=tuple(figures.FIGURES))
  stages: tuple[str, ...] = config_lib.setting(min_items=1, is_unique=True)
  labels: tuple[str, ...] = config_lib.setting()
  title: str = config_lib.setting()

  def __post_init__(self):
    if self.labels and len(self.labels) != len(self.stages):
      raise config_lib.ConfigError(
          f'labels: got {len(self.labels)} for {len(self.stages)} stages; must '
          'be one for each, or none.')


def _run(context, settings, directory) -> None:
  """Draws the figure; on the first host."""
  if distributed.is_primary():
    labels = settings.labels or settings.stages
    figure = figures.FIGURES[settings.figure](figures_base.grouped([
        (name, label, _runs(context.folder(name)))
        for name, label in zip(settings.stages, labels, strict=True)]))
    lines = {
        name: points for name, points in figure.lines.items() if points}
    if not lines:
      raise config_lib.UserError(
          f'{directory}: none of {", ".join(settings.stages)} has what figure '
          f'{settings.figure!r} shows (docs/evaluation.md).')
    for name in _NAMES[:2]:
      plots.lines(
          directory / name, {k: [p[:4] for p in v] for k, v in lines.items()},
          x_label=figure.x_label, y_label=figure.y_label, title=settings.title,
          is_log=figure.is_log, is_rate=figure.is_rate)
    if figure.columns:
      files.write_atomic(directory / _TABLE, figures_base.markdown(figure))
    files.write_json(directory / _NAMES[2], dict(
        figure=settings.figure, title=settings.title, x=figure.x_label,
        y=figure.y_label, lines={
            name: [point._asdict() for point in points]
            for name, points in lines.items()}))
  distributed.wait(f'{directory.name}: figure')


def _runs(folder) -> list[figures_base.Run]:
  """Reads what a stage left: rows that its summary is of, or that alone."""
  summary = files.read_json(folder / 'summary.json')
  numbers = {
      (e['policy'], e['solver'], e['split']): e['num_problems']
      for e in summary.get('success', ())}
  played = (summary.get('episodes') or dict(num_problems=0))['num_problems']
  rows = [
      row for row in rows_lib.read_tree(folder / 'rows')
      if row['place'] < numbers.get(
          (row['policy'], row['solver'], row['split']),
          played * (row['solver'] == summary_lib.REVISIONS))]
  return figures_base.runs_of(rows, summary) or [
      figures_base.Run({}, {}, summary)]


STAGE = base.Stage(
    Settings=Settings, run=_run, reads=lambda settings: settings.stages,
    is_whole=lambda context, settings, directory: all(
        (directory / name).exists() for name in _NAMES))
