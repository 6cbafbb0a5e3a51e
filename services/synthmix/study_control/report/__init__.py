"""Reports of studies: the data they hold, and their HTML, JSON and CSV."""

from synthmix.study_control.report.data import ReportData
from synthmix.study_control.report.render import (
    render_csv,
    render_html,
    render_json,
    render_run_json,
    render_search_json,
)

__all__ = ["ReportData", "render_csv", "render_html", "render_json", "render_run_json", "render_search_json"]
