"""What came of the jobs of a sweep."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from imagegen.json_files import read_json, write_json


class SweepTable(Callback):
    """Keep a file for each job that ends, well or not, in the folder of the sweep; print and keep a table at the end.

    The table also comes where a job has failed, which makes Hydra leave by an exception.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first job."""
        atexit.register(show_table, Path(config.hydra.sweep.dir).absolute(), str(config.optimized_metric))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """After each job, in its process."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        cfg, value = job_return.cfg, job_return._return_value
        is_done = job_return.status == JobStatus.COMPLETED
        run = None if cfg is None or cfg.run_dir is None else str(cfg.run_dir)
        entry = {
            "overrides": list(job_return.overrides or []),
            "state": "finished" if is_done else "failed",
            "score": value if is_done else None,
            "reason": None if is_done else (str(value).splitlines() or [type(value).__name__])[0],
            "run": run,
        }
        if is_done and value is None and run and (scores := read_json(Path(run) / "scores.json")):
            known = ", ".join(name for name in scores if name.startswith("test/") and not name.endswith("_se"))
            print(f"optimized_metric: no {config.optimized_metric} among the scores: {known}")
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"job_{int(config.hydra.job.num):04d}.json", entry)


def show_table(folder: Path, metric: str) -> None:
    """Print the table of the jobs that have left files in `folder`, and write it to `sweep.md` there."""
    jobs = [read_json(path) for path in sorted(folder.glob("job_*.json"))]
    if not jobs:
        return
    table = sweep_table(jobs, metric)
    (folder / "sweep.md").write_text(table + "\n")
    print(f"\n{table}\n{folder / 'sweep.md'}")


def sweep_table(jobs: list[dict[str, Any]], metric: str) -> str:
    """A Markdown table: what is different about each job, its score, and its folder or why it failed."""
    common = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    lines = [f"| job | overrides | state | {metric} | run folder |", "|---|---|---|---|---|"]
    for number, job in enumerate(jobs):
        own = " ".join(text for text in job["overrides"] if text not in common)
        score = "" if job["score"] is None else f"{job['score']:.4g}"
        where = job["run"] if job["state"] == "finished" else f"{job['reason']} ({job['run'] or 'no folder'})"
        lines.append(f"| {number} | {own} | {job['state']} | {score} | {where} |")
    return "\n".join(lines)
