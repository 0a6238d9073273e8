# SPDX-License-Identifier: Apache-2.0
"""What every figure shares: colours, an empty figure, and writing it.

Figures are built without pyplot, so that nothing global changes and threads do
not meet. Colours are those of Okabe and Ito, which people with any colour
vision tell apart.
"""

import io
import os
import pathlib

from matplotlib import axes as axes_lib
from matplotlib import figure as figure_lib
from matplotlib.backends import backend_agg

from meta_cot.runtime import files

BLUE, RED, GREEN = '#0072B2', '#D55E00', '#009E73'
COLORS = (BLUE, RED, GREEN, '#CC79A7', '#E69F00', '#56B4E9', '#000000')
GREY = '#666666'

Path = str | os.PathLike


def new_figure(
    width: float, height: float) -> tuple[figure_lib.Figure, axes_lib.Axes]:
  """A figure of width x height inches that belongs to no global state."""
  figure = figure_lib.Figure(figsize=(width, height), layout='constrained')
  backend_agg.FigureCanvasAgg(figure)
  return figure, figure.add_subplot()


def save(figure: figure_lib.Figure, path: Path) -> None:
  """Writes the figure to `path`, all of it or nothing."""
  suffix = pathlib.Path(path).suffix.lstrip('.')
  allowed = sorted(figure.canvas.get_supported_filetypes())
  if suffix not in allowed:
    raise ValueError(
        f'{path}: got suffix {suffix!r}; must be one of {", ".join(allowed)}.')
  image = io.BytesIO()
  figure.savefig(image, format=suffix, dpi=150)
  files.write_atomic(path, image.getvalue())
