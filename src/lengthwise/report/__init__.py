"""Run folders in, one self-contained HTML page, figures and tables out. Reads files only; never runs a model.

The names are imported on first use: the command line reads this package for its help, and Altair takes half a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lengthwise.report.evals.records import EvalGroup
    from lengthwise.report.faces import AnyGroup
    from lengthwise.report.figures import write_figures, write_picture
    from lengthwise.report.load import load_groups
    from lengthwise.report.page import build_page
    from lengthwise.report.records import Group
    from lengthwise.report.write import Written, write_report

__all__ = [
    "AnyGroup",
    "EvalGroup",
    "Group",
    "Written",
    "build_page",
    "load_groups",
    "write_figures",
    "write_picture",
    "write_report",
]

_HOME = {
    "AnyGroup": "faces",
    "EvalGroup": "evals.records",
    "Group": "records",
    "Written": "write",
    "build_page": "page",
    "load_groups": "load",
    "write_figures": "figures",
    "write_picture": "figures",
    "write_report": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
