"""A run's directory -> one self-contained HTML report: `report.html` of a run, `study.html` of a scaling study.

In: a store, from which only committed data is read (`facts.py`). Out: one file that needs no network, with charts as
SVG, a bounded number of examples, and every text of a model escaped (`html.py`). The file is a view: it is replaced
atomically, can be rebuilt at any time, and is the same for the same data.

    rft-ray report runs/demo
"""

from __future__ import annotations

from collections.abc import Callable

from rft_ray.evaluation.model_index import write_index
from rft_ray.evaluation.summary import read_summary
from rft_ray.report.facts import gather
from rft_ray.report.page import run_page
from rft_ray.report.study_page import study_page
from rft_ray.store import Store
from rft_ray.study.result import read_study

REPORT, STUDY = "report.html", "study.html"


def write_report(store: Store) -> str:
    """Write a run's report and its index of models. Returns the report's URL.

    Raises StoreError when the run has no summary yet.
    """
    store.replace(REPORT, run_page(gather(store)).encode())
    if summary := read_summary(store):
        write_index(store, summary)
    return f"{store.url}/{REPORT}"


def try_report(store: Store) -> str:
    """Write the report at the end of a run. Returns a line with its URL or a warning; never raises."""
    return _tried("report", write_report, store)


def try_study_report(store: Store) -> str:
    """The same as `try_report`, for a study."""
    return _tried("page", write_study_report, store)


def _tried(what: str, write: Callable[[Store], str], store: Store) -> str:
    try:
        return f"{what}: {write(store)}"
    except Exception as error:  # a view that cannot be written is no failure of the run
        why = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        return (
            f"warning: the {what} could not be written ({why}); everything else is done and committed. To write it: "
            f"rft-ray report {store.url}"
        )


def write_study_report(store: Store) -> str:
    """Write a study's page and return its URL. Raises what `read_study` raises."""
    store.replace(STUDY, study_page(read_study(store)).encode())
    return f"{store.url}/{STUDY}"
