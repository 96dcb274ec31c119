"""`recall-evals sweep --ray` on a cluster of four nodes, started here: the same rows from 1, 2 and 4 workers."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.sweeping import PROMPTS, answers, found, run, workplace, write_suite
from recall_evals.evals.sweep import ray_pool
from recall_evals.evals.sweep.yaml_lines import SuiteError

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("ray")]
pytest.importorskip("ray", reason="no ray (pip install 'recall-evals[ray]'): would have run a sweep on four nodes")

Place = tuple[Any, Path, str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A cluster, a folder, and a suite of one job, which is split where there is more than one worker."""
    from ray.cluster_utils import Cluster

    root = tmp_path_factory.mktemp("ray")
    workplace(root)
    models = [{"name": "tiny", "pretrained": str(root / "model")}]
    suite = write_suite(root / "one.yaml", models=models, tasks=["local_fda"], batch_size=2, shard_prompts=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
        try:
            for _ in range(3):
                cluster.add_node(num_cpus=1, num_gpus=0)
            patch.setenv("RECALL_EVALS_DATA", str(root / "documents"))  # the nodes are told by the sweep
            patch.setenv("HF_HUB_OFFLINE", "1")
            yield cluster, root, suite
        finally:
            cluster.shutdown()


def parts(output: Path) -> list[tuple[str, str]]:
    """Each part that ended, and where."""
    lines = (output / ".sweep" / "ledger.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert {record["status"] for record in records} == {"finished"}
    return [(record["part"], record["host"]) for record in records]


@pytest.fixture(scope="module")
def here(place: Place) -> Any:
    """What comes of it without Ray."""
    _, root, suite = place
    assert run(suite, root / "here", workers=1)
    assert parts(root / "here")[0][0] == "whole"
    return found(root / "here")


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_same_rows_from_any_number_of_workers(place: Place, here: Any, workers: int) -> None:
    cluster, root, suite = place
    output = root / f"of-{workers}"
    assert run(suite, output, workers=workers, ray=cluster.address)
    assert found(output) == here
    ended = parts(output)
    print(workers, ended)
    shards = [f"shard-{number + 1}-of-{workers}" for number in range(workers)] if workers > 1 else []
    assert sorted(part for part, _ in ended) == [*shards, "whole"]
    assert len({host for _, host in ended}) >= min(2, workers)
    (results,) = output.glob("*-*/**/results_*.json")
    measured = json.loads(results.read_text())["config"]
    assert measured["state_bytes"] > 0 and measured["decode_tokens_per_second"] > 0  # of the shards
    log = next(output.glob(".sweep/*/whole.log")).read_text()
    assert f"Cached requests: {PROMPTS if workers > 1 else 0}," in log  # the whole only puts together


def test_a_node_that_dies(place: Place, here: Any) -> None:
    cluster, root, suite = place
    node = cluster.add_node(num_cpus=4, num_gpus=0)
    output = root / "dying"

    def die() -> None:
        while answers(output) < PROMPTS // 4:
            stop.wait(0.05)
        cluster.remove_node(node, allow_graceful=False)

    stop = threading.Event()
    death = threading.Thread(target=die)
    death.start()
    assert run(suite, output, workers=5, ray=cluster.address)
    death.join()
    assert found(output) == here


def test_what_cannot_run_there(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, root, suite = place
    with pytest.raises(SuiteError, match=r"--ray 127\.0\.0\.1:1: no cluster there"):
        run(suite, tmp_path / "none", ray="127.0.0.1:1")
    monkeypatch.setattr(ray_pool, "__version__", "0.0.0")
    with pytest.raises(SuiteError, match=r"has recall-evals \S+, here it is 0\.0\.0: install one"):
        run(suite, tmp_path / "version", ray=cluster.address)
