"""The list of verbs: the function, line of help and panel in `axon --help` of each verb."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ABOUT_AXON", "VERBS", "Verb"]


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb, or a group of verbs.

    Attributes:
        function: `module:function` in `deployments.cli`; empty for a group that does nothing
            without a verb.
        help: line of help; the docstring of the function begins with it.
        panel: heading above the verb in the help of its group.
    """

    function: str
    help: str
    panel: str = "Verbs"


ABOUT_AXON = Verb(
    "",
    """Score network flows and process starts with an ensemble of detectors, and say how much of
the ensemble has contributed to each score.

Start a service, then score a file through it:

- `axon serve --auth off`
- `axon score flows.csv`

`axon VERB --help` explains a verb. Exit codes: 0 done, 1 done but something is wrong or differs,
2 not done.""",
)
SCORE, TRAIN, MODELS, OPERATE = "Score", "Train", "Models", "Operate"
VERBS: Mapping[str, Verb] = {
    "score": Verb("score:score", "Score a file of events and print the verdicts.", SCORE),
    "evaluate": Verb(
        "evaluate:evaluate",
        "Measure how well the models separate attacks from benign flows.",
        SCORE,
    ),
    "replay": Verb(
        "replay:replay", "Score the event of a verdict again, with the release that made it.", SCORE
    ),
    "retro": Verb("", "Show events that turned hostile when they were scored again.", SCORE),
    "train": Verb("", "Train models; with --publish, make them a new release.", TRAIN),
    "calibrate": Verb(
        "calibrate:calibrate",
        "Fit the thresholds to your own network, or the weights of your own layers.",
        TRAIN,
    ),
    "import": Verb(
        "import_legacy:import_legacy", "Import the model files of an older Axon Engine.", TRAIN
    ),
    "export": Verb(
        "export_legacy:export_legacy",
        "Write the current models as files of an older Axon Engine.",
        TRAIN,
    ),
    "models": Verb(
        "models:list_models_and_releases", "List, promote, roll back and move models.", MODELS
    ),
    "trust": Verb("", "Choose the keys whose signed models Axon loads.", MODELS),
    "serve": Verb("serve:serve", "Start the service on this machine, until Ctrl-C.", OPERATE),
    "status": Verb("status:status", "Show the state of a running service.", OPERATE),
    "layers": Verb(
        "status:list_layers", "List and switch the layers of a running service.", OPERATE
    ),
    "keys": Verb("", "Create, list and revoke the API keys of callers.", OPERATE),
    "retro findings": Verb(
        "retro:findings", "List the events that turned hostile when they were scored again."
    ),
    "train flows": Verb(
        "train_flows:train_flows", "Train the flow layers, on labelled or on benign flows."
    ),
    "train processes": Verb("train_processes:train_processes", "Train the process layer."),
    "train posture": Verb(
        "train_posture:train_posture", "Train the resilience layer on vulnerabilities and hosts."
    ),
    "models info": Verb("models:info", "Describe one version of a model.", "Inspect"),
    "models versions": Verb(
        "models:versions", "List every version of one model, newest first.", "Inspect"
    ),
    "models audit": Verb(
        "storage:audit", "Show the audit log of the model store, newest first.", "Inspect"
    ),
    "models promote": Verb(
        "releases:promote", "Point a tenant to one of its releases, after a load check.", "Release"
    ),
    "models rollback": Verb(
        "releases:rollback",
        "Point a tenant back to an earlier release, at once.",
        "Release",
    ),
    "models challenger": Verb(
        "releases:challenger", "Show, set or clear the release that is scored in shadow.", "Release"
    ),
    "models alias": Verb(
        "releases:alias", "Show, set or clear the champion or challenger of a model.", "Release"
    ),
    "models export": Verb(
        "storage:export", "Write a release or one model into a signed file.", "Store"
    ),
    "models import": Verb(
        "storage:import_", "Import an exported file as new versions of this tenant.", "Store"
    ),
    "models delete": Verb("storage:delete", "Delete one model version permanently.", "Store"),
    "models delete-release": Verb(
        "storage:delete_release", "Delete one release permanently; its models stay.", "Store"
    ),
    "models retention": Verb(
        "storage:retention",
        "Delete unreferenced releases and model versions, keeping the newest N.",
        "Store",
    ),
    "models quarantine": Verb(
        "storage:quarantine", "Quarantine a model version, or list the quarantine.", "Store"
    ),
    "trust init": Verb("trust:init", "Make a signing key and add it to the trust list."),
    "trust show": Verb("trust:show", "Show the trusted keys and the pinned files."),
    "trust pin": Verb("trust:pin", "Pin the shipped models as they are now."),
    "layers disable": Verb("status:disable", "Disable a layer at once."),
    "layers enable": Verb("status:enable", "Enable a layer again, without a restart."),
    "layers reset": Verb("status:reset", "Clear the failures of a layer."),
    "layers test": Verb("status:check_layer", "Load the models of a layer as a test."),
    "keys create": Verb("keys:create", "Create an API key and print it once."),
    "keys list": Verb("keys:list_all", "List every API key, without its secret."),
    "keys revoke": Verb("keys:revoke", "Revoke an API key permanently."),
}
"""Every verb by its full name, in the order of the help."""
