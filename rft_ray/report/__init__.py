"""A run's directory -> one self-contained HTML report, `report.html`.

In: a store, of which only committed data is read (`facts.py`). Out: one file that needs no network, with charts drawn
beforehand as SVG, a bounded number of examples, and every text of a model escaped (`html.py`). It is a view: replaced
atomically, rebuilt at will, the same for the same data.

    python jobs/report.py --run runs/demo
"""

from __future__ import annotations

from rft_ray.report.facts import gather
from rft_ray.report.page import run_page
from rft_ray.store import Store

__all__ = ["write_report"]

REPORT = "report.html"


def write_report(store: Store) -> str:
    """Write a run's report and return where it is. Raises StoreError where the run has no summary yet."""
    store.replace(REPORT, run_page(gather(store)).encode())
    return f"{store.url}/{REPORT}"
