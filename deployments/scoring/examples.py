"""Examples of events and responses, for the OpenAPI document and the tests.

`VERDICT` is the response to examples/ddos_flow.json with the shipped models, its scores rounded.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["ATTACK", "BENIGN", "PREDICTION", "SHELL", "VERDICT"]

BENIGN: Final = [
    443, 5481528, 10, 8, 406, 3729, 236, 0, 41.66, 82.79, 1692, 0, 502.45, 730.06, 757.26, 3.19,
    335078.53, 1291627.68, 5244250, 2, 5481528, 620478.93, 1750798.21, 5244250, 6, 5445886,
    846451.16, 2089954.79, 5328397, 14, 3, 3, 0, 0, 257, 198, 1.82, 1.37, 0, 1692, 238.36,
    522.0, 277476.18, 2, 2, 1, 6, 16, 0, 0, 0, 0.76, 238.36, 41.66, 502.45, 257, 0, 0, 0, 0, 0,
    0, 0, 23, 0, 214, 16945, 612, 3, 21, 188527.08, 0.0, 188527, 188527, 5244250.5, 0.0,
    5244250, 5244250,
]  # fmt: skip  # a flow of CICIDS2017 to a web server
ATTACK: Final = [
    80, 6871944, 8, 5, 20, 11595, 20, 0, 2.48, 7.03, 8210, 0, 2222.38, 3682.7, 1727.81, 1.99,
    556479.41, 1880417.03, 6631185, 2, 6871944, 968758.87, 2471566.05, 6631185, 2, 233095,
    55230.02, 111965.15, 230742, 12, 1, 1, 0, 0, 175, 117, 1.21, 0.78, 0, 8210, 871.83, 2434.78,
    6126368.38, 1, 2, 1, 2, 12, 0, 0, 0, 0.65, 871.83, 2.48, 2222.38, 175, 0, 0, 0, 0, 0, 0, 0,
    1, 0, 870, 8192, 229, 1, 20, 240759.17, 0.0, 240759, 240759, 6631185.33, 0.0, 6631185,
    6631185,
]  # fmt: skip  # a distributed denial of service of CICIDS2017
SHELL: Final[dict[str, Any]] = {
    "kind": "process",
    "id": "shell",
    "host": "web-1",
    "user": "User5",
    "name": "perl",
    "parent": "sh",
    "command_line": 'perl -e "exec q(/bin/sh)"',
}
VERDICT: Final[dict[str, Any]] = {
    "id": "ddos",
    "score": 0.988,
    "low": 0.988,
    "high": 0.988,
    "verdict": "malicious",
    "severity": "critical",
    "coverage": 1.0,
    "degraded": False,
    "status": "FULLY_OPERATIONAL",
    "layers": [
        {"layer": "anomaly", "score": 0.226, "status": "live", "version": "2", "reason": ""},
        {"layer": "behavior", "score": 0.995, "status": "live", "version": "2", "reason": ""},
        {"layer": "classifier", "score": 0.998, "status": "live", "version": "1", "reason": ""},
        {
            "layer": "resilience",
            "score": 0.925,
            "status": "live",
            "version": "1.1",
            "reason": "epss stale: 107 days; kev stale: 701 days; cvss stale: 644 days",
        },
    ],
    "elapsed_ms": 5.2,
    "release": "default/4",
    "release_sha256": "898c6f2793242e65be5014e08cdbc1e4b5c5f2e4c2d1072a0501bd35f8101e7f",
    "input_sha256": "7dd97bc60fbde26f3cc9ad5e0f397fbc4de824e970ffe5bb7bc0027955c25925",
    "scored_at": "2026-12-01T04:57:01.190Z",
}
PREDICTION: Final[dict[str, Any]] = {
    "prediction": "DDoS",
    "confidence": 0.97,
    "probabilities": {"BENIGN": 0.03, "DDoS": 0.97},
    "model_name": "random_forest",
    "model_version": "1",
    "inference_time_ms": 3.1,
    "timestamp": "2026-11-25T08:15:00.000Z",
}
