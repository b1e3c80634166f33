"""Rows of two features and the boundary between their classes, as an animation."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from scipy.sparse import issparse

from torchlogreg._data.array_api import numpy_of
from torchlogreg._data.targets import as_column
from torchlogreg._displays.shared import COLOURS

MARKERS = "o^sDvP*"
MOST_POINTS = 2000
BOUNDARY_GRID = 200  # points along each side of the picture at which the model is evaluated


class MovingBoundary:
    """A figure that shows a model, given by its attributes, and the animation that is made of it."""

    def __init__(
        self, X: Any, y: Any, attributes: dict[str, Any], *, ax: Any = None, path: Any = None, fps: float = 10
    ):
        import matplotlib.pyplot as plt
        from matplotlib.animation import PillowWriter

        writer: Any = None if path is None else PillowWriter(fps=fps)  # pyright: ignore[reportArgumentType]
        self.is_own = ax is None
        self.ax: Any = plt.subplots()[1] if self.is_own else ax
        self.figure: Any = self.ax.figure
        if self.is_own:
            self.figure.subplots_adjust(top=0.86, right=0.85)  # a layout that moves with the title would tremble
        self.writer = None
        try:
            self._prepare(X, y, attributes)
            if writer is not None:
                writer.setup(self.figure, path, dpi=100)
        except BaseException:
            self.close()
            raise
        self.writer = writer

    def _prepare(self, X, y, attributes: dict[str, Any]) -> None:
        """Draw what does not change from picture to picture."""
        self.classes = numpy_of(attributes["classes_"])
        self._scatter(X.toarray() if issparse(X) else np.asarray(numpy_of(X), dtype=np.float64), as_column(y))
        self.ax.set(xlabel="x0", ylabel="x1")
        if attributes.get("feature_names_in_") is not None:
            self.ax.set(**dict(zip(("xlabel", "ylabel"), attributes["feature_names_in_"], strict=True)))
        self.artists, self.shown = [], None

    def _scatter(self, X: np.ndarray, y: np.ndarray) -> None:
        """Draw the points; make a grid of places around them."""
        low, high = X.min(axis=0), X.max(axis=0)
        margin = 0.05 * np.where(high > low, high - low, 1.0)
        (left, bottom), (right, top) = low - margin, high + margin
        self.extent = left, right, bottom, top
        self.ax.set(xlim=(left, right), ylim=(bottom, top))
        self.grid = np.stack(
            np.meshgrid(np.linspace(left, right, BOUNDARY_GRID), np.linspace(bottom, top, BOUNDARY_GRID)), axis=-1
        )
        some = slice(None, None, -(-len(X) // MOST_POINTS))
        X, y = X[some], y[some]
        for k, label in enumerate(self.classes):
            colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
            own = y == label
            self.ax.scatter(*X[own].T, s=16, c=colour, marker=marker, alpha=0.6, linewidth=0, label=str(label))
        self.ax.legend(title="class", loc="upper left", bbox_to_anchor=(1, 1), frameon=False)

    def draw(self, attributes: dict[str, Any], title: str) -> None:
        """Show this model."""
        for artist in self.artists:
            artist.remove()
        coef, intercept = (np.asarray(numpy_of(attributes[name]), np.float64) for name in ("coef_", "intercept_"))
        logits = self.grid @ coef.T + intercept  # (grid, grid, K)
        if len(coef) == 1:
            best, margins = (logits[..., 0] > 0).astype(int), logits
        else:
            best = logits.argmax(axis=-1)
            first, second = np.partition(logits, -2, axis=-1)[..., [-1, -2]].transpose(2, 0, 1)[..., None]
            margins = logits - np.where(logits == first, second, first)
        from matplotlib.colors import to_rgb

        tints = np.array([to_rgb(COLOURS[k % len(COLOURS)]) for k in range(len(self.classes))])
        options = {"extent": self.extent, "origin": "lower", "aspect": "auto"}
        self.artists = [self.ax.imshow(tints[best], alpha=0.15, zorder=0, **options)]
        for margin in margins.transpose(2, 0, 1):
            if margin.min() < 0 < margin.max():
                x, y = self.grid[..., 0], self.grid[..., 1]
                self.artists.append(self.ax.contour(x, y, margin, levels=[0.0], colors="k", linewidths=1.5))
        self.ax.set_title(title, fontsize="medium")
        self._show()
        if self.writer is not None:
            self.writer.grab_frame()

    @property
    def has_window(self) -> bool:
        """Whether the figure is one that changes on a screen by itself."""
        return getattr(self.figure.canvas, "required_interactive_framework", None) is not None

    def _show(self):
        if self.has_window:
            if self.shown is None:
                self.figure.show()
            self.shown = self.figure
            self.figure.canvas.draw_idle()
            self.figure.canvas.flush_events()
            return
        import matplotlib

        if "inline" not in matplotlib.get_backend() or "IPython" not in sys.modules:
            return
        if self.shown is None:
            from IPython.display import display  # pyright: ignore[reportMissingImports]

            self.shown = display(self.figure, display_id=True)
        else:
            self.shown.update(self.figure)

    def close(self) -> None:
        """Write the animation, and close the figure if it is ours and has no window."""
        import matplotlib.pyplot as plt

        try:
            if self.writer is not None:
                self.writer.finish()
        finally:
            if self.is_own and not self.has_window:
                plt.close(self.figure)


def boundary_title(task_name: str, n_iter: int, history: dict[str, list], attributes: dict[str, Any]) -> str:
    """The title of a picture: loss, accuracy and, for two classes, the model."""
    title = f"{task_name} {n_iter}: loss {history['train_loss'][-1]:.5f}, accuracy {history['train_accuracy'][-1]:.3f}"
    coef, intercept = (np.asarray(numpy_of(attributes[name])) for name in ("coef_", "intercept_"))
    if len(coef) > 1:
        return title
    (w0, w1), (b,) = coef[0].tolist(), intercept.tolist()
    return f"{title}\nw = ({w0:.4f}, {w1:.4f}), b = {b:.4f}"
