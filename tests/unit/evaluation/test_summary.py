"""`summary.json`: what is read is written with the same bytes, and older or foreign summaries are told apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rft_ray.config.endpoint import Endpoint, TokenPrice
from rft_ray.evaluation.metrics import Metric
from rft_ray.evaluation.summary import charged_for, job_of, made_same_corpus, read_summary, samplers_of, summarize
from rft_ray.evaluation.summary_records import (
    Account,
    BadPlace,
    Charged,
    Complementarity,
    Corpus,
    parse_summary,
    summary_json,
)
from rft_ray.report.export import choose
from rft_ray.report.write import write_report
from rft_ray.runtime.progress import StageTime
from rft_ray.sampling.engine_load import EngineLoad
from rft_ray.sampling.places import LoadFailure, Place, note
from rft_ray.store import StoreError, open_store
from tests.report_run import make_run

STORED = """{
  "run": "demo",
  "fingerprint": "9429783691c4d693",
  "problems": {
    "train": 500,
    "test": 1000
  },
  "samplers": {
    "tiny-s": "6c771de8196eea8f"
  },
  "models": [
    {
      "model": "tiny-s",
      "stage": "sft",
      "fingerprint": "65776c7a75e3fc25",
      "base": "tiny:tiny-s"
    },
    {
      "model": "tiny-s",
      "stage": "rft",
      "fingerprint": "f88a5489a646af5d",
      "base": "tiny:tiny-s"
    }
  ],
  "ledger": {
    "tiny-s": {
      "planned": 16000,
      "skipped": 0,
      "missing": 100,
      "quarantined": 100,
      "sampled": 15900,
      "accepted": 1829,
      "rejected": {
        "wrong_answer": 13749,
        "no_answer": 6,
        "bad_equation": 308,
        "truncated": 8,
        "undecided": 0
      },
      "ungraded": 0,
      "distinct_paths": 692,
      "tokens": 1151636,
      "tokens_per_s": 4737.3
    }
  },
  "quarantine": [
    {
      "model": "tiny-s (sft)",
      "shard": "completions/772e7e20bda99192/p000003/6c771de8196eea8f.s00001",
      "problems": [
        150,
        200
      ],
      "samples": 100,
      "failures": 3,
      "reason": "no answer for 1800 s while sampling – “engine”"
    }
  ],
  "corpus": {
    "gold": 500,
    "paths": 692,
    "by_model": {
      "tiny-s": 692
    },
    "file": "corpus/f47cf88399dec590.jsonl"
  },
  "own_corpora": {
    "tiny-s": {
      "gold": 500,
      "paths": 692,
      "by_model": {
        "tiny-s": 692
      },
      "file": null
    },
    "tiny-m": {}
  },
  "complementarity": {
    "union": 692,
    "by_model": {
      "tiny-s": {
        "distinct": 692,
        "exclusive": 692,
        "marginal_gain": 1.0
      }
    },
    "overlap": {
      "tiny-s": {
        "tiny-s": 692
      }
    },
    "distinct_under": {
      "as_written": 692,
      "sorted_operands": 401
    }
  },
  "evaluation": {
    "tiny-s": {
      "sft": {
        "maj1@1": {
          "value": 0.202,
          "low": 0.17827757825342377,
          "high": 0.22800316980396712,
          "n": 1000
        }
      },
      "rft": {
        "maj1@1": {
          "value": 0.324,
          "low": 0.2957148222722109,
          "high": 0.35363219671470447,
          "n": 1000
        },
        "maj@k": {
          "value": 0.4,
          "low": 1e-05,
          "high": 0.5,
          "n": 1000,
          "k": 8
        }
      }
    }
  },
  "paired": {
    "tiny-s": {
      "rft_minus_sft": {
        "value": 0.122,
        "low": 0.09169777288319497,
        "high": 0.15181520116870123,
        "n": 1000
      }
    }
  },
  "finished": true,
  "stages": [
    {
      "name": "problems",
      "seconds": 0.246,
      "gold": 500,
      "paths": 0,
      "by_model": {}
    },
    {
      "name": "sample",
      "seconds": 990.771,
      "shards": 120
    },
    {
      "name": "evaluate",
      "seconds": 87.947
    }
  ],
  "seconds": 1078.964
}"""

OLD = """{
  "run": "demo", "fingerprint": "9429783691c4d693", "problems": {"train": 20, "test": 10}, "models": [],
  "ledger": {"a": {"planned": 8, "skipped": 0, "missing": 2, "sampled": 6, "accepted": 6, "rejected": {},
    "ungraded": 0, "distinct_paths": 3, "tokens": 90, "tokens_per_s": 4.5}},
  "corpus": {}, "evaluation": {}, "paired": {}, "finished": false,
  "stages": [{"name": "sft", "seconds": 3.5, "trained": 1}], "seconds": 3.5
}"""
"""As the first version wrote it: without samplers, quarantine, own corpora and complementarity."""


def test_a_summary_is_read_and_written_back_with_the_same_bytes() -> None:
    data = STORED.encode()
    summary = parse_summary(data)
    assert summary_json(summary) == data
    assert summary.evaluation["tiny-s"]["rft"]["maj@k"] == Metric(0.4, 1e-05, 0.5, 1000, 8)
    assert summary.corpus == Corpus(500, 692, {"tiny-s": 692}, "corpus/f47cf88399dec590.jsonl")
    assert summary.own_corpora["tiny-m"] is None
    assert summary.stages[1] == StageTime("sample", 990.771, {"shards": 120})


def test_a_summary_without_the_keys_of_newer_versions_is_read() -> None:
    summary = parse_summary(OLD.encode())
    assert summary.ledger["a"].quarantined == 0
    assert (summary.samplers, summary.quarantine, summary.own_corpora) == ({}, (), {})
    assert summary.complementarity == Complementarity()
    assert summary.corpus is None
    assert parse_summary(summary_json(summary)) == summary


def test_a_summary_that_was_written_is_read_as_the_same(tmp_path: Path) -> None:
    _, store = make_run(tmp_path)
    data = store.read("summary.json")
    summary = read_summary(store)
    assert summary is not None
    assert summary_json(summary) == data
    assert samplers_of(store) == summary.samplers


def test_the_seconds_of_a_run_that_ended_before_its_corpus_are_carried_over(tmp_path: Path) -> None:
    """A run that ended with quarantined shards writes its summary while sampling."""
    plan, store = make_run(tmp_path)
    summary = summarize(store, plan)
    other = replace(summary, fingerprint="0" * 16)
    assert made_same_corpus(replace(summary, corpus=None), plan)
    assert made_same_corpus(other, plan)
    assert not made_same_corpus(replace(other, corpus=None), plan)


def test_a_bad_place_is_in_the_summary_where_others_have_sampled_with_the_model(tmp_path: Path) -> None:
    plan, store = make_run(tmp_path)
    assert b"bad_places" not in store.read("summary.json")
    sft = [job.sampling.model for job in plan.collected]
    for model in (*(model.fingerprint for model in sft), "0" * 16):
        note(store, LoadFailure(model, Place("5f0c" * 4, "10.0.0.7", ("3",)), "no kernel image"))
    bad = BadPlace("10.0.0.7 (node 5f0c5f0c) GPU 3", ("a (sft)", "b (sft)"), "no kernel image")
    summary = summarize(store, plan)
    assert summary.bad_places == (bad,)
    assert parse_summary(summary_json(summary)) == summary


@pytest.mark.parametrize(
    ("data", "job"),
    [
        (b"{", None),
        (b"\xff", None),
        (b"[]", None),
        (b'{"finished": true}', "pipeline"),
        (STORED.replace('"planned": 16000', '"planned": "many"').encode(), "pipeline"),
        (STORED.replace('"name": "sample",', "").encode(), "pipeline"),
        (b'{"job": "verify", "ledger": {}, "corpus": {}}', "verify"),
    ],
)
def test_what_is_no_summary_of_a_run_counts_as_none(tmp_path: Path, data: bytes, job: str | None) -> None:
    store = open_store(str(tmp_path))
    store.replace("summary.json", data)
    assert read_summary(store) is None
    assert samplers_of(store) == {}
    assert job_of(store) == job
    words = "`rft-ray verify`, which has no report" if job == "verify" else "is damaged"
    with pytest.raises(StoreError, match=words):
        write_report(store)
    words = "`rft-ray verify`, which trains no models" if job == "verify" else "is damaged"
    with pytest.raises(StoreError, match=words):
        choose(store, "a", "rft")


def test_only_a_model_behind_an_endpoint_has_what_was_charged() -> None:
    summary = parse_summary(STORED.encode())
    name, account = next(iter(summary.ledger.items()))
    assert account.charged is None
    charged = replace(account, charged=Charged(120_000, 450_000, 4.8))
    written = summary_json(replace(summary, ledger={name: charged}))
    assert json.loads(written)["ledger"][name]["charged"]["cost"] == 4.8
    assert parse_summary(written).ledger[name] == charged


def test_only_a_model_with_statistics_of_its_engines_has_their_load() -> None:
    summary = parse_summary(STORED.encode())
    name, account = next(iter(summary.ledger.items()))
    assert account.load is None
    assert b'"load"' not in summary_json(summary)
    loaded = replace(account, load=EngineLoad(256, 1_744, 0.83, 12))
    written = summary_json(replace(summary, ledger={name: loaded}))
    assert json.loads(written)["ledger"][name]["load"]["preemptions"] == 12
    assert parse_summary(written).ledger[name] == loaded


def test_only_samples_with_unread_equations_are_counted_as_partly_read() -> None:
    summary = parse_summary(STORED.encode())
    name, account = next(iter(summary.ledger.items()))
    assert account.partly_read == 0
    assert b"partly_read" not in summary_json(summary)
    written = summary_json(replace(summary, ledger={name: replace(account, partly_read=3)}))
    assert json.loads(written)["ledger"][name]["partly_read"] == 3
    assert parse_summary(written).ledger[name].partly_read == 3


def test_a_cost_is_counted_by_the_price_of_both_kinds_of_tokens() -> None:
    endpoint = Endpoint(price_per_million_tokens=TokenPrice(prompt=1, completion=8))
    counts = {"prompt_tokens": 1_000_000, "completion_tokens": 500_000}
    assert charged_for(counts, endpoint) == Charged(1_000_000, 500_000, 5.0)
    assert charged_for(counts, Endpoint()).cost is None


def test_an_account_in_words_names_every_sample_that_was_not_accepted() -> None:
    counts = {"wrong_answer": 1200, "no_answer": 0, "truncated": 3}
    account = Account(
        planned=2000,
        skipped=4,
        missing=0,
        sampled=1996,
        accepted=793,
        rejected=counts,
        ungraded=0,
        distinct_paths=3,
        tokens=412,
        tokens_per_s=96.1,
    )
    assert account.in_words() == "793 of 2,000 samples accepted (1,200 wrong_answer, 3 truncated, 4 skipped)"
    assert account.planned == account.accepted + 1200 + 3 + 4
