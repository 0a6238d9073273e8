# SPDX-License-Identifier: Apache-2.0
"""Figures of a run: training curves and what attempts buy, as image files.

Every function writes one image, all of it or nothing; the suffix of `path`
names the format (png, svg, pdf). Figures are built without pyplot, so that
nothing global changes and threads do not meet. Lines differ in markers and in
colours: those of Okabe and Ito, which people with any colour vision tell apart.
"""

from collections.abc import Mapping, Sequence
import io
import itertools
import pathlib

import matplotlib
from matplotlib import axes as axes_lib
from matplotlib import figure as figure_lib
from matplotlib import ticker
import numpy as np

from meta_cot.runtime import files

BLUE, RED, GREEN = '#0072B2', '#D55E00', '#009E73'
_COLORS = (BLUE, RED, GREEN, '#CC79A7', '#E69F00', '#56B4E9', '#000000')
_STYLES = tuple(  # of the first line, the second, ...
    dict(color=color, marker=m, linestyle=line)
    for line, markers in (('-', 'osD^vPX'), ('--', 'v^PXDso'))
    for color, m in zip(_COLORS, markers))

_PANELS = 3  # in a row
_MOST_TICKS = 8  # one for every point, where there are no more

Point = tuple[float, float, float, float]  # tokens, success, low, high


def loss_curves(
    path: files.Path, curves: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
  """Draws losses of at least one arm, points (tokens seen, loss)."""
  axes = _new('training tokens', 'loss (nats per token)')
  for (arm, points), style in _styled(curves):
    if len(points) > 2:  # a marker where a line would be too short to see
      style = style | dict(marker=None)
    axes.plot(*zip(*points), label=arm, **style)
  _save(path, axes)


def success_curves(
    path: files.Path, curves: Mapping[str, Sequence[Point]]) -> None:
  """Draws the success rate of at least one arm as it trains."""
  axes = _new('training tokens', 'problems solved')
  for (arm, points), style in _styled(curves):
    x, success, low, high = zip(*sorted(points))
    axes.fill_between(
        x, low, high, color=style['color'], alpha=0.15, linewidth=0)
    axes.plot(x, success, markersize=5, label=arm, **style)
  _rate_axis(axes)
  _save(path, axes)


def success_against_tokens(
    path: files.Path, curves: Mapping[str, Sequence[Point]], *,
    reference: Mapping[str, Point] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None, title: str = '',
) -> None:
  """Draws success against the tokens spent, such as best-of-N over N.

  Args:
    path: image to write.
    curves: method -> points, joined by a line; x is logarithmic.
    reference: method -> its one point, such as one greedy trace; a dashed line
      carries its success across the figure.
    labels: method -> a short text for each of its points, such as 'N=4'.
    title: above the figure.
  """
  axes = _new('generated tokens per problem', 'problems solved', title)
  stars = {k: [point] for k, point in (reference or {}).items()}
  for (method, points), style in _styled({**curves, **stars}):
    x, success, low, high = np.array(sorted(points)).T
    look = dict(markersize=5, **style)
    if method in stars:
      look |= dict(markersize=12, marker='*', linestyle='none')
      axes.axhline(
          success[0], color=style['color'], linestyle='--', linewidth=1)
    axes.errorbar(
        x, success, yerr=np.maximum([success - low, high - success], 0),
        capsize=3, label=method, zorder=3, **look)
    for *place, text in zip(x, success, (labels or {}).get(method, ())):
      axes.annotate(
          text, place, xytext=(5, -11), textcoords='offset points',
          fontsize=8, color=style['color'])
  axes.set_xscale('log')
  axes.margins(x=0.08)
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  _rate_axis(axes)
  _save(path, axes)


def calibration(
    path: files.Path, curves: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
  """Draws mean targets over mean values of bins, and where both are equal."""
  axes = _new('value', 'mean target')
  axes.plot([0, 1], [0, 1], color='#999999', linestyle='--', linewidth=1)
  for (name, points), style in _styled(curves):
    axes.plot(*zip(*points), markersize=5, label=name, **style)
  _save(path, axes, ticker.PercentFormatter(xmax=1, decimals=0))


def by_depth(
    path: files.Path, curves: Mapping[str, Sequence[Point]], ylabel: str
) -> None:
  """Draws estimates over the number of steps: (steps, mean, low, high)."""
  axes = _new('steps', ylabel)
  for (name, points), style in _styled(curves):
    x, mean, low, high = np.array(sorted(points)).T
    axes.errorbar(
        x, mean, yerr=np.maximum([mean - low, high - mean], 0), capsize=3,
        markersize=5, label=name, **style)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  _save(path, axes)


def lines(
    path: files.Path, curves: Mapping[str, Sequence[Point]], *, x_label: str,
    y_label: str, title: str = '', is_log: bool = False, is_rate: bool = False,
) -> None:
  """Draws lines of points (x, y, low, high), with what the axes are."""
  axes = _new(x_label, y_label, title)
  for (name, points), style in _styled(curves):
    x, y, low, high = np.array(sorted(points)).T
    axes.errorbar(
        x, y, yerr=np.maximum([y - low, high - y], 0), capsize=3, markersize=5,
        label=name, **style)
  if is_log:
    axes.set_xscale('log')
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    places = sorted({x for points in curves.values() for x, *_ in points})
    if len(places) <= _MOST_TICKS:
      axes.set_xticks(places, minor=False)
  if is_rate:
    _rate_axis(axes)
  _save(path, axes)


def panels(
    path: files.Path,
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    x_label: str,
) -> None:
  """Draws panel -> line -> points (x, y), three panels in a row."""
  num_rows = -(-len(curves) // _PANELS)
  figure = figure_lib.Figure((9.6, 3.0 * num_rows), layout='constrained')
  grid = figure.subplots(num_rows, _PANELS, squeeze=False).flat
  for axes, (title, some) in zip(grid, curves.items()):
    for (name, points), style in _styled(some):
      axes.plot(*zip(*points), markersize=5, label=name, **style)
    axes.set_title(title, fontsize=11, loc='left')
    axes.set(xlabel=x_label, axisbelow=True)
    axes.set_ylim(bottom=0)
    axes.grid(color='#dddddd', linewidth=0.6)
    axes.spines[['top', 'right']].set_visible(False)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  for axes in grid:  # that have no panel
    axes.set_visible(False)
  figure.legend(
      *figure.axes[0].get_legend_handles_labels(), loc='outside lower center',
      ncols=_PANELS, frameon=False, fontsize=9)
  save(path, figure)


def save(path: files.Path, figure: figure_lib.Figure) -> None:
  """Writes the figure to `path`; a ValueError lists the known suffixes."""
  image, suffix = io.BytesIO(), pathlib.Path(path).suffix.removeprefix('.')
  metadata = dict(Date=None) if suffix == 'svg' else None
  with matplotlib.rc_context({'svg.hashsalt': 'meta_cot'}):  # the same bits
    figure.savefig(image, format=suffix, dpi=150, metadata=metadata)
  files.write_atomic(path, image.getvalue())


def _new(xlabel: str, ylabel: str, title: str = '') -> axes_lib.Axes:
  axes = figure_lib.Figure((6.4, 4.0), layout='constrained').add_subplot()
  axes.set_title(title, fontsize=11, loc='left')
  axes.set(xlabel=xlabel, ylabel=ylabel, axisbelow=True)
  axes.grid(color='#dddddd', linewidth=0.6)
  axes.spines[['top', 'right']].set_visible(False)
  return axes


def _styled(curves: Mapping[str, Sequence]):
  """Every curve with its name, and the style of its line."""
  return zip(curves.items(), itertools.cycle(_STYLES))


def _rate_axis(axes: axes_lib.Axes) -> None:
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(xmax=1, decimals=0))
  low, high = axes.get_ylim()
  axes.set_ylim(max(low, -0.02), min(high, 1.02))


def _save(
    path: files.Path, axes: axes_lib.Axes,
    x_format: ticker.Formatter | None = None,
) -> None:
  axes.xaxis.set_major_formatter(x_format or ticker.EngFormatter(sep=''))
  axes.legend(frameon=True, framealpha=0.9, edgecolor='none', fontsize=9)
  save(path, axes.figure)
