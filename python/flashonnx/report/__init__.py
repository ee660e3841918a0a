"""Self-contained HTML pages: templates filled by Jinja, figures drawn by Matplotlib as inline SVG."""

from flashonnx.report.figures import Series, error_histogram, line_plot, ratio_bars
from flashonnx.report.page import render_page

__all__ = ["Series", "error_histogram", "line_plot", "ratio_bars", "render_page"]
