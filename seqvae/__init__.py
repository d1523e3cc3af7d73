__version__ = "0.1.0"

from . import plot as _plot  # noqa: E402, F401  gives `Forecast` its pictures
