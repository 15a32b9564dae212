"""One self-contained page about runs: curves, tables, and what they answered."""

from fmjax.report.page import build

__all__ = ["build"]
