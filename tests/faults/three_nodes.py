"""Axon on a cluster of three nodes on one machine, until a signal ends it.

`test_cluster.py` runs it as a process: `python -m tests.faults.three_nodes CONFIG PORT`.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import yaml

from deployments.host import make_run_folder, prepare_environment

NODES = 3
CPUS_OF_A_NODE = 2


def main(config: Path, port: int) -> None:
    """Start the nodes and the application.

    Only the head node has a front proxy, because all nodes share one address.
    """
    prepare_environment(make_run_folder(config.parent / "state"))
    from ray import init, serve  # noqa: PLC0415  # reads the environment that was just prepared
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    from deployments.app import build  # noqa: PLC0415

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS_OF_A_NODE})
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=CPUS_OF_A_NODE)
    init(address=cluster.address, log_to_driver=False)
    settings = yaml.safe_load(config.read_text())
    serve.start(
        proxy_location="HeadOnly",
        http_options=settings["http_options"] | {"port": port},
        logging_config=settings["logging_config"],
    )
    serve.run(
        build(settings["applications"][0]["args"]),
        name="axon",
        route_prefix="/",
        logging_config=settings["logging_config"],
    )
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    serve.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
