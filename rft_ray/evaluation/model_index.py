"""`models/README.md` of a run: which folder of `models/` holds which model, for people.

In: the summary, and the manifests of the committed models. Out: a view, which can be rebuilt at any time.
"""

from __future__ import annotations

from rft_ray.evaluation.metrics import Metric
from rft_ray.evaluation.summary_records import ModelEntry, Summary
from rft_ray.store import Store
from rft_ray.store.models.committed import committed_model
from rft_ray.store.models.folder import ModelError

INDEX = "models/README.md"
_HEAD = """\
# Models of the run {run}

Each folder holds one model as transformers and vLLM load it. `rft-ray export` copies one out, with a model card and the
corpus that it was trained on.

| model | stage | folder | base | greedy accuracy on the test problems |
|-|-|-|-|-|
"""


def write_index(store: Store, summary: Summary) -> None:
    """Write or replace the index, unless no model is committed yet."""
    rows = [row for entry in summary.models if (row := _row(store, summary, entry))]
    if rows:
        store.replace(INDEX, (_HEAD.format(run=summary.run) + "".join(rows)).encode())


def _row(store: Store, summary: Summary, entry: ModelEntry) -> str:
    """The line of one model; empty while it is not committed."""
    try:
        manifest = committed_model(store, entry.fingerprint)
    except ModelError:
        where = f"`{entry.fingerprint}/`: damaged, see `rft-ray store verify`"
    else:
        if manifest is None:
            return ""
        where = f"[{manifest.folder.removeprefix('models/')}]({manifest.folder.removeprefix('models/')}/)"
    metric = summary.evaluation.get(entry.model, {}).get(entry.stage, {}).get("maj1@1")
    accuracy = percent(metric) if metric else "not evaluated"
    return f"| {entry.model} | {entry.stage} | {where} | `{entry.base}` | {accuracy} |\n"


def percent(metric: Metric) -> str:
    """An accuracy with its 95 % interval. Example: `41.2 % [38.2, 44.3]`."""
    return f"{100 * metric.value:.1f} % [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"
