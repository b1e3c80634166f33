"""The rows of two features and the boundary between their classes, drawn again and again."""

import sys

import numpy as np
from scipy.sparse import issparse

from torchlogreg._data.array_api import numpy_of
from torchlogreg._data.targets import as_column
from torchlogreg._displays.shared import COLOURS

MARKERS = "o^sDvP*"
MOST_POINTS = 2000
GRID = 200  # points along each side of the picture at which the model is asked


class MovingBoundary:
    """A figure that follows a model, given by its attributes, and the animation that is made of it."""

    def __init__(self, X, y, attributes, *, ax=None, path=None, fps=10):
        import matplotlib.pyplot as plt
        from matplotlib.animation import PillowWriter

        writer = None if path is None else PillowWriter(fps=fps)
        self.is_own = ax is None
        self.ax = plt.subplots()[1] if self.is_own else ax
        self.figure = self.ax.figure
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

    def _prepare(self, X, y, attributes):
        """What does not change from picture to picture."""
        self.classes = numpy_of(attributes["classes_"])
        self._scatter(X.toarray() if issparse(X) else np.asarray(numpy_of(X), dtype=np.float64), as_column(y))
        self.ax.set(xlabel="x0", ylabel="x1")
        if attributes.get("feature_names_in_") is not None:
            self.ax.set(**dict(zip(("xlabel", "ylabel"), attributes["feature_names_in_"], strict=True)))
        self.artists, self.shown = [], None

    def _scatter(self, X, y):
        """The points, and a grid of places around them."""
        low, high = X.min(axis=0), X.max(axis=0)
        margin = 0.05 * np.where(high > low, high - low, 1.0)
        (left, bottom), (right, top) = low - margin, high + margin
        self.extent = left, right, bottom, top
        self.ax.set(xlim=(left, right), ylim=(bottom, top))
        self.grid = np.stack(np.meshgrid(np.linspace(left, right, GRID), np.linspace(bottom, top, GRID)), axis=-1)
        some = slice(None, None, -(-len(X) // MOST_POINTS))
        X, y = X[some], y[some]
        for k, label in enumerate(self.classes):
            colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
            own = y == label
            self.ax.scatter(*X[own].T, s=16, c=colour, marker=marker, alpha=0.6, linewidth=0, label=str(label))
        self.ax.legend(title="class", loc="upper left", bbox_to_anchor=(1, 1), frameon=False)

    def draw(self, attributes, title):
        """Show this model."""
        for artist in self.artists:
            artist.remove()
        coef, intercept = (np.asarray(numpy_of(attributes[name]), np.float64) for name in ("coef_", "intercept_"))
        logits = self.grid @ coef.T + intercept  # (GRID, GRID, K)
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
    def has_window(self):
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
            from IPython.display import display

            self.shown = display(self.figure, display_id=True)
        else:
            self.shown.update(self.figure)

    def close(self):
        """Write the animation; close what nobody sees any more."""
        import matplotlib.pyplot as plt

        try:
            if self.writer is not None:
                self.writer.finish()
        finally:
            if self.is_own and not self.has_window:
                plt.close(self.figure)
