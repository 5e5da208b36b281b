"""A picture of one start: source and target over the histogram of the site, and their difference below."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actswap.activations.plain import evaluate
from actswap.conversion.passes.replace import build
from actswap.errors import UsageError
from actswap.fit.histogram import Histogram
from actswap.fit.points import Array
from actswap.io.atomic import replacing
from actswap.plan import Choice

_POINTS, _MARGIN = 801, 0.1


@dataclass(frozen=True)
class Curves:
    """What is drawn: the source and the target on a grid, and the distribution of the inputs."""

    title: str
    x: Array
    source: Array
    target: Array
    histogram: Histogram


def curves(choice: Choice) -> Curves:
    """Compute source and target of a choice over its calibrated range and a tenth beyond it on either side.

    Per-channel constants are drawn at their mean; an activation that pools its input sees the grid as one sample.
    """
    histogram = choice.histogram if choice.histogram is not None else Histogram.uniform(-5.0, 5.0)
    lo, hi = (histogram.lo, histogram.hi) if histogram.lo < histogram.hi else (-5.0, 5.0)
    margin = _MARGIN * (hi - lo)
    x = np.linspace(lo - margin, hi + margin, _POINTS)
    means = {k: sum(v) / len(v) if isinstance(v, tuple) else v for k, v in choice.site.source.params}
    source = evaluate(replace(choice.site.source, params=tuple(means.items())), torch.from_numpy(x)).numpy()
    placed = build(choice).double().eval()
    channels = choice.site.channels or 1
    grid = torch.from_numpy(x)[None, :, None].expand(1, _POINTS, channels)
    with torch.no_grad():
        shaped = grid if choice.site.channel_dim == -1 else grid.transpose(1, 2)
        out = placed(shaped)
    target = (out if choice.site.channel_dim == -1 else out.transpose(1, 2))[0].mean(1).numpy()
    title = f"{choice.site.name}: {choice.site.source.kind} to {choice.target}, {choice.start.kind}"
    return Curves(title, x, source, target, histogram)


def draw(picture: Curves, path: Path) -> None:
    """Write the picture; the format follows the suffix (.png, .svg, .pdf).

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError("pictures need matplotlib", why=str(error), fix="pip install 'actswap[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(6.4, 5.2), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    _bars(above.twinx(), picture.histogram)
    above.plot(picture.x, picture.source, color="0.35", linestyle="--", label="source")
    above.plot(picture.x, picture.target, color="C3", label="target")
    above.legend(loc="upper left")
    above.set_title(picture.title, fontsize=10)
    below.plot(picture.x, picture.target - picture.source, color="C3")
    below.axhline(0.0, color="0.7", linewidth=0.8)
    below.set_ylabel("error")
    for edge in (picture.histogram.lo, picture.histogram.hi):
        below.axvline(edge, color="0.7", linestyle=":")
    with replacing(path) as beside:
        figure.savefig(beside, format=path.suffix.lstrip(".") or "png")
    pyplot.close(figure)


def _bars(axes: Any, histogram: Histogram) -> None:
    """The distribution of the inputs, behind the curves."""
    counts, edges = np.histogram(histogram.centroids, bins=32, weights=histogram.weights)
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color="C0", alpha=0.25)
    axes.set_yticks([])
