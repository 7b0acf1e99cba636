"""The mutants of `tests.chaos.mutants`: what each changes, and which tests should notice."""

from __future__ import annotations

from dataclasses import dataclass

LOCAL, PARQUET = "tests/unit/store/test_local.py", "tests/unit/store/test_parquet.py"
DURABLE = "tests/unit/store/test_durability.py"
NAMES = "tests/unit/store/test_names.py"
SHARDS = "tests/unit/store/test_shards.py"
LOCK = "tests/unit/store/test_run_lock.py"
CLI, PRUNE = "tests/unit/cli/test_store.py", "tests/unit/cli/test_prune.py"
REPAIR = "tests/chaos/test_repair.py"
HISTORIES = "tests/chaos/test_histories.py"
LIMITS = "tests/serve/access/test_rate_limits.py"
GUARD = "tests/serve/access/test_guard.py"
GATEWAYS = "tests/chaos/test_gateways.py::test_two_jobs_through_two_gateways_and_a_repair_lose_nothing"


@dataclass(frozen=True)
class Mutant:
    """One fault: a text of a file, once in it, and what stands there instead.

    Example: Mutant("all-won", "every writer is told that it won", "rft_ray/store/…", "return a", "return True", ())
    """

    name: str
    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "no-file-sync",
        "the content of a commit is not synced",
        "rft_ray/store/backends/local.py",
        "os.fsync(file.fileno())",
        "pass",
        (DURABLE,),
    ),
    Mutant(
        "no-folder-sync",
        "names in folders, and checkpoints, are not synced",
        "rft_ray/store/base.py",
        "            os.fsync(descriptor)",
        "            pass",
        (DURABLE,),
    ),
    Mutant(
        "final-name",
        "a commit writes straight to its final name",
        "rft_ray/store/backends/local.py",
        "os.link(temp, final)",
        "shutil.copyfile(temp, final)",
        (DURABLE, LOCAL),
    ),
    Mutant(
        "last-wins",
        "the second commit of a key replaces the first",
        "rft_ray/store/backends/local.py",
        "            with suppress(FileExistsError):\n                os.link(temp, final)",
        "            final.unlink(missing_ok=True)\n            os.link(temp, final)",
        (LOCAL,),
    ),
    Mutant(
        "all-won",
        "every writer is told that it won",
        "rft_ray/store/backends/local.py",
        "return os.path.samefile(temp, final)",
        "return True",
        (LOCAL,),
    ),
    Mutant(
        "other-error",
        "an error of the disk is a KeyError, no StoreError",
        "rft_ray/store/backends/local.py",
        "raise explain_os_error(error, key, self.url) from error",
        "raise KeyError(key) from error",
        (LOCAL,),
    ),
    Mutant(
        "verdicts-of-others",
        "verdicts count for whatever completions have their name: those of the loser of two writers too",
        "rft_ray/corpus/graded.py",
        'if about["completions"] != content:',
        "if False:",
        (
            f"{HISTORIES}::test_a_job_that_wakes_after_its_samples_were_voided_mixes_nothing",
            "tests/unit/corpus/test_graded.py",
        ),
    ),
    Mutant(
        "bytes-unchecked",
        "a table's rows are not compared with their hash",
        "rft_ray/store/parquet.py",
        "if content != content_hash(table):",
        "if False:",
        (PARQUET,),
    ),
    Mutant(
        "void-counts",
        "a void file counts",
        "rft_ray/store/names.py",
        "if (stem, generation) not in void and not record_kind(key):",
        "if not record_kind(key):",
        (NAMES, SHARDS),
    ),
    Mutant(
        "no-next-generation",
        "what is made again gets the generation of the newest tombstone",
        "rft_ray/store/names.py",
        "default=-1) + 1",
        "default=0)",
        (NAMES, SHARDS),
    ),
    Mutant(
        "last-generation",
        "the newest generation counts, not the first that is not void",
        "rft_ray/store/names.py",
        "first[stem, ending] = min(",
        "first[stem, ending] = max(",
        (NAMES, SHARDS),
    ),
    Mutant(
        "cause-first",
        "a repair voids the damaged file before those made from it",
        "rft_ray/store/repair.py",
        "for finding in reversed(findings) if can_be_void(finding)]",
        "for finding in findings if can_be_void(finding)]",
        (REPAIR,),
    ),
    Mutant(
        "no-followers",
        "a repair leaves what was made from void completions",
        "rft_ray/store/repair.py",
        "stale = {file.stem: why for file in sound if (why := _stale(file, by_stem, lost))}",
        "stale: dict[str, str] = {}",
        (REPAIR,),
    ),
    Mutant(
        "voids-models",
        "a repair voids a damaged model, and with it the samples that were drawn while it was whole",
        "rft_ray/store/repair.py",
        'not (finding.corrupt and finding.key.startswith("models/"))',
        "True",
        (REPAIR,),
    ),
    Mutant(
        "weights-unknown",
        "samples do not record which files of a model they came from",
        "rft_ray/sampling/engine_host.py",
        "replace(self._source, weights=weights)",
        'replace(self._source, weights="")',
        ("tests/unit/sampling/test_engine_host.py",),
    ),
    Mutant(
        "marker-unchecked",
        "a commit does not look for the run's marker",
        "rft_ray/store/backends/local.py",
        "            self._check_marker()",
        "            pass",
        (LOCAL,),
    ),
    Mutant(
        "root-again",
        "a root that went away is created again",
        "rft_ray/store/backends/local.py",
        "            self._was_open = True",
        "            pass",
        (LOCAL,),
    ),
    Mutant(
        "any-folder",
        "a folder without a marker is read as a run",
        "rft_ray/store/runs.py",
        "raise NotARun(_refusal(store))",
        "pass",
        ("tests/unit/store/test_runs.py", CLI),
    ),
    Mutant(
        "repair-unasked",
        "a repair voids without --yes",
        "rft_ray/cli/store.py",
        'of these would be void: add --yes")\n        return 1',
        'of these would be void: add --yes")',
        (CLI,),
    ),
    Mutant(
        "restores-stale",
        "void files are taken back although they are damaged, or made from such files",
        "rft_ray/store/repair.py",
        "if stem not in wrong}",
        "if stem}",
        (CLI,),
    ),
    Mutant(
        "one-plan",
        "prune keeps the files of the last saved plan only",
        "rft_ray/store/prune.py",
        "for plan in plans if plan.name not in forgotten",
        "for plan in list(plans)[-1:]",
        (PRUNE,),
    ),
    Mutant(
        "prune-unlocked",
        "prune does not hold the run's lock",
        "rft_ray/cli/store.py",
        'with run_lock(store, "prune", others_ended=options.no_job_runs):',
        "if True:",
        (PRUNE,),
    ),
    Mutant(
        "prunes-work",
        "prune deletes checkpoints of models that are not committed",
        "rft_ray/store/prune.py",
        'if key.startswith("work/") and recipe_of(key) in committed:',
        'if key.startswith("work/"):',
        (REPAIR,),
    ),
    Mutant(
        "removes-others-work",
        "the job that finishes a model deletes the checkpoints of another that trains it",
        "rft_ray/training/checkpoints.py",
        'if name == attempt or not _may_run(store, f"{root}{name}")}',
        "}",
        ("tests/unit/training/test_checkpoints.py",),
    ),
    Mutant(
        "jobs-see-no-repair",
        "a job begins while a repair runs",
        "rft_ray/store/run_lock.py",
        'if others_ended or kind != "job" or holder.kind != "job"]',
        'if others_ended or kind != "job"]',
        (LOCK,),
    ),
    Mutant(
        "hidden-is-dead",
        "a process that /proc hides counts as ended",
        "rft_ray/store/processes.py",
        "return now != since if now else _shows_all_processes()",
        "return now != since",
        (LOCK,),
    ),
    Mutant(
        "flag-ends-living",
        "--no-job-runs ends jobs that are seen to work",
        "rft_ray/store/run_lock.py",
        "if _is_this_machines(holder) and started(int(holder.pid)):",
        "if _is_this_machines(holder) and started(int(holder.pid)) and not others_ended:",
        (LOCK,),
    ),
    Mutant(
        "no-renewal",
        "a lease is not renewed",
        "rft_ray/store/run_lock.py",
        "while not ended.wait(wait_s):",
        "while not ended.wait(3600):",
        (LOCK,),
    ),
    Mutant(
        "weak-probe",
        "the check for create-only writes tries one key with two writers",
        "rft_ray/store/base.py",
        "PROBE_ROUNDS, PROBE_WRITERS, PROBE_BYTES = 10, 4, 16 << 10",
        "PROBE_ROUNDS, PROBE_WRITERS, PROBE_BYTES = 1, 2, 16",
        ("tests/integration/test_s3_servers.py",),
    ),
    Mutant(
        "s3-overwrites",
        "a commit on S3 replaces the object that is there",
        "rft_ray/store/backends/s3.py",
        'Body=body, IfNoneMatch="*", Metadata=',
        "Body=body, Metadata=",
        (GATEWAYS,),
    ),
    Mutant(
        "s3-all-won",
        "a writer on S3 that has no answer, or 412, is told that it won",
        "rft_ray/store/backends/s3.py",
        "return winner == writer",
        "return True",
        (GATEWAYS,),
    ),
    Mutant(
        "no-patience",
        "an outage of the store throws a sampled shard away",
        "rft_ray/store/outages.py",
        "if error.waited_out or left_s <= 0:",
        "if True:",
        ("tests/unit/store/test_tables.py",),
    ),
    Mutant(
        "records-as-text",
        "records of failures are sorted as text, so that the thousandth comes before the second",
        "rft_ray/sampling/quarantine.py",
        'key=lambda record: int(record["number"])',
        "key=lambda record: record.string",
        ("tests/unit/sampling/test_quarantine.py",),
    ),
    Mutant(
        "one-name-two-contents",
        "the gold corpora of both modes have one name",
        "rft_ray/plan/jobs.py",
        'elif self.gold_mode != "paper":',
        "elif False:",
        ("tests/unit/config/test_identity.py",),
    ),
    Mutant(
        "settled-lives",
        "a late renewal brings a settled lease back",
        "serve/access/rate_limits.py",
        "            if lease.id not in self._settled:",
        "            if True:",
        (LIMITS,),
    ),
    Mutant(
        "one-too-many",
        "a key may have one request more at once than its limit",
        "serve/access/rate_limits.py",
        "len(usage.ends) >= limits.concurrency",
        "len(usage.ends) > limits.concurrency",
        (LIMITS,),
    ),
    Mutant(
        "nothing-given-back",
        "reserved tokens that were not generated stay charged",
        "serve/access/rate_limits.py",
        'usage.buckets["tokens"].level += lease.tokens - tokens',
        "pass",
        (LIMITS,),
    ),
    Mutant(
        "last-key-stays",
        "a key file without keys accepts every caller of this machine",
        "serve/access/api_keys.py",
        "return bool(self.digests) or self.file is not None",
        "return bool(self.digests)",
        (LIMITS, GUARD),
    ),
    Mutant(
        "half-a-key",
        "a half-written line is a key",
        "serve/access/api_keys.py",
        'if not line.endswith("\\n"):',
        "if False:",
        (LIMITS, GUARD),
    ),
    Mutant(
        "any-scheme",
        "a key is accepted in any authorization scheme",
        "serve/access/api_keys.py",
        'return presented if scheme.lower() == "bearer" and any(matches) else None',
        "return presented if any(matches) else None",
        (LIMITS, GUARD),
    ),
    Mutant(
        "proxies-are-local",
        "without keys, requests that a proxy forwards are answered",
        "serve/access/guard.py",
        "if not forwarded and is_loopback(",
        "if is_loopback(",
        (GUARD,),
    ),
    Mutant(
        "two-hosts",
        "a request with two Host headers is answered",
        "serve/access/guard.py",
        "if hosts > 1:",
        "if hosts > 9:",
        (GUARD,),
    ),
    Mutant(
        "room-is-lost",
        "a request's paths are counted for ever",
        "serve/access/admission.py",
        "            self.active[model] -= paths",
        "            pass",
        ("tests/serve/test_ingress.py", "tests/serve/access"),
    ),
)
