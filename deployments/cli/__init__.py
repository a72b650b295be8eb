"""The terminal: `axon VERB`. Says how each verb is called; what it does is in `deployments.commands`.

Nothing heavy is imported before a verb runs: `axon --help` answers at once, and `axon serve` sets
the environment before Ray is read.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.console import TenantOption as Tenant
from deployments.cli.console import err, out
from deployments.cli.console import fail as _fail
from deployments.cli.errors import user_errors
from deployments.cli.keys_verbs import keys
from deployments.cli.models_verbs import models
from deployments.cli.replay_verb import replay

__all__ = ["main"]

SERVICE = "http://127.0.0.1:8000"
app = typer.Typer(
    name="axon",
    help="One threat score from several detectors, and an honest word on how many of them looked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
train = typer.Typer(
    help="Train a model, write its card, publish it, and promote the release that holds it.",
    no_args_is_help=True,
)
trust = typer.Typer(help="Who may publish models that this Axon loads.", no_args_is_help=True)
layers = typer.Typer(
    help="The layers of a running service, and their switches.", invoke_without_command=True
)
app.add_typer(train, name="train")
app.add_typer(models, name="models")
app.add_typer(layers, name="layers")
app.add_typer(trust, name="trust")
app.add_typer(keys, name="keys")
retro = typer.Typer(
    help="What was scored while the ensemble was degraded, and scored again.", no_args_is_help=True
)
app.add_typer(retro, name="retro")
app.command()(replay)


class Auth(StrEnum):
    """Who may ask."""

    KEYS = "keys"
    OFF = "off"


class Output(StrEnum):
    """How verdicts are printed."""

    TABLE = "table"
    JSONL = "jsonl"


Seed = Annotated[
    int, typer.Option(help="Of everything random: the same rows and seed give the same model.")
]
Into = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="Folder to publish into instead of the state folder (var/).",
        file_okay=False,
    ),
]
Older = Annotated[
    Path, typer.Argument(help="Folder of an older engine's model files, and checksums.txt.")
]
OlderBenign = Annotated[
    Path | None, typer.Option(help="CSV of benign flows that the older models were not trained on.")
]
Url = Annotated[str, typer.Option(help="The service to ask.")]
Layer = Annotated[
    str, typer.Argument(help="Name of the layer, e.g. behavior; `axon layers` lists them.")
]
Publish = Annotated[
    bool,
    typer.Option(
        "--publish/--no-publish", help="Publish what was trained as a new release, or only report."
    ),
]
Promote = Annotated[
    bool, typer.Option("--promote/--no-promote", help="Also point the tenant to the new release.")
]


@app.command("serve")
def start_service(
    *,
    config: Annotated[Path, typer.Option(help="A Serve config file, as for `serve run`.")] = Path(
        "serve_config.yaml"
    ),
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; the file's unless said otherwise.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port to listen on; the file's unless said otherwise."),
    ] = None,
    auth: Annotated[
        Auth | None,
        typer.Option(
            help="`keys`, or `off`: anybody on this machine may ask, refused on any address but loopback."
        ),
    ] = None,
) -> None:
    """Start Ray, the layers and the ingress on this machine, until Ctrl-C."""
    from deployments.cli.serve import ServeRefused, serve_forever

    try:
        with user_errors(err):
            serve_forever(config, host=host, port=port, auth=auth, console=out)
    except ServeRefused as refusal:
        _fail(str(refusal))


@app.command("score")
def score_events(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV of flows (any CICFlowMeter dialect, .gz too), or JSONL of events."
        ),
    ],
    *,
    url: Annotated[str, typer.Option(help="The service to ask.")] = SERVICE,
    local: Annotated[
        bool, typer.Option("--local", help="Score in this process; no service needed.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also say what moved each layer.")
    ] = False,
    output: Annotated[
        Output,
        typer.Option(help="A table of the highest scores, or every verdict as a line of JSON."),
    ] = Output.TABLE,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many verdicts.")] = None,
) -> None:
    """Score a file of events. A bad line is named and passed over; the exit code is then 1."""
    from deployments.cli.score import score_file

    with user_errors(err):
        done = score_file(
            file,
            url=None if local else url,
            explain=explain,
            as_jsonl=output is Output.JSONL,
            limit=limit,
            out=out,
            err=err,
        )
        if done.bad:
            err.print(f"{done.bad} lines could not be scored; {done.events} could", highlight=False)
            raise typer.Exit(1)


@app.command("evaluate")
def evaluate_flows(
    *,
    data: Annotated[
        Path, typer.Option(help="Labelled CSV of flows, or a folder with flows.csv.gz.")
    ],
    url: Annotated[
        str | None, typer.Option(help="Score through this service instead of in this process.")
    ] = None,
    tenant: Tenant = None,
    last: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.99, help="Judge only this last share of each (day, label) by time."
        ),
    ] = None,
) -> None:
    """How well labelled flows are told apart.

    AUROC, AUPRC and true-positive rates, per layer, fused and by family.
    """
    from deployments.cli.evaluate import evaluate as run

    with user_errors(err):
        run(data, url=url, tenant=tenant, last=last, console=out, err=err)


@app.command()
def calibrate(
    *,
    benign: Annotated[
        Path,
        typer.Option(help="CSV of benign flows of your own network that no model was trained on."),
    ],
    fpr: Annotated[
        float,
        typer.Option(
            help="Share of benign flows above `malicious`; `suspicious` gets ten times as many."
        ),
    ] = 0.001,
    tenant: Tenant = None,
    store: Into = None,
    publish: Publish = True,
    promote: Promote = True,
) -> None:
    """Set thresholds for your own network, as a new release; the models stay as they are."""
    from deployments.cli.publish_target import PublishTarget
    from deployments.cli.train_flows import calibrate as run

    with user_errors(err):
        run(
            benign,
            PublishTarget(tenant, store, publish=publish, promote=promote),
            rate=fpr,
            console=out,
            err=err,
        )


@app.command("import")
def import_older(
    folder: Older,
    *,
    benign: OlderBenign = None,
    tenant: Tenant = None,
    publish: Publish = False,
    promote: Promote = True,
) -> None:
    """Take over an older Axon Engine's model files, decoded in a process of their own.

    The exit code is 1 where a layer failed.
    """
    from deployments.cli.import_legacy import import_models

    with user_errors(err):
        raise typer.Exit(
            0
            if import_models(
                folder, benign, tenant, publish=publish, promote=promote, console=out, err=err
            )
            else 1
        )


@app.command("export")
def export_older(folder: Older, *, tenant: Tenant = None) -> None:
    """Write the current models as the four files of an older Axon Engine, and say what they cannot hold; nothing is replaced."""
    from deployments.cli.export_legacy import export_models

    with user_errors(err):
        raise typer.Exit(0 if export_models(folder, tenant, console=out, err=err) else 1)


@train.command("flows")
def train_flows(
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Labelled CSV of flows, or a folder with flows.csv.gz: trains both layers and the fusion."
        ),
    ] = None,
    benign: Annotated[
        Path | None,
        typer.Option(
            help="CSV of your own benign flows: trains the anomaly layer alone, no labels needed."
        ),
    ] = None,
    first: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=0.95, help="Train only on this first share of each (day, label) by time."
        ),
    ] = None,
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate/--no-evaluate", help="Measure for the card, leaving families out; minutes."
        ),
    ] = True,
    seed: Seed = 0,
    tenant: Tenant = None,
    store: Into = None,
    publish: Publish = False,
    promote: Promote = True,
) -> None:
    """Train the flow layers.

    On labelled flows (--data), or the anomaly layer on your own benign ones (--benign).
    """
    from deployments.cli.publish_target import PublishTarget
    from deployments.cli.train_flows import train_benign_flows
    from deployments.cli.train_flows import train_flows as run

    with user_errors(err):
        target = PublishTarget(tenant, store, publish=publish, promote=promote)
        if (data is None) == (benign is None):
            _fail("say either --data (labelled flows) or --benign (your own benign flows)")
        if data is not None:
            run(data, target, seed=seed, first=first, evaluate=evaluate, console=out, err=err)
        elif benign is not None:
            train_benign_flows(benign, target, seed=seed, console=out, err=err)


@train.command("processes")
def train_processes(
    *,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder that holds process_masquerade: the model that is shipped."),
    ] = None,
    benign: Annotated[
        Path | None,
        typer.Option(
            help="JSONL or CSV of your own process starts: name, parent, command_line, user, host."
        ),
    ] = None,
    seed: Seed = 0,
    tenant: Tenant = None,
    store: Into = None,
    publish: Publish = False,
    promote: Promote = True,
) -> None:
    """Train process rarity, and on your own processes the command-line forest too."""
    from deployments.cli.publish_target import PublishTarget
    from deployments.cli.train_processes import train_benign_processes, train_shipped_processes

    with user_errors(err):
        target = PublishTarget(tenant, store, publish=publish, promote=promote)
        if (data is None) == (benign is None):
            _fail(
                "say either --data (the folder of process_masquerade) or --benign (your own processes)"
            )
        if data is not None:
            train_shipped_processes(data, target, seed=seed, console=out, err=err)
        elif benign is not None:
            train_benign_processes(benign, target, seed=seed, console=out, err=err)


@train.command("posture")
def train_posture(
    *,
    inventory: Annotated[
        Path, typer.Option(help="Your hosts: CSV, JSON, or a Trivy JSON report of one host.")
    ],
    epss: Annotated[
        Path | None,
        typer.Option(
            help="EPSS as CSV from FIRST.org; without any source the current knowledge stays."
        ),
    ] = None,
    kev: Annotated[Path | None, typer.Option(help="KEV as CSV or JSON from CISA.")] = None,
    cvss: Annotated[
        Path | None, typer.Option(help="CVSS vectors and scores from NVD, as CSV.")
    ] = None,
    epss_date: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Day of the EPSS file, where it does not say it."),
    ] = None,
    kev_date: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day of the KEV file, likewise.")
    ] = None,
    cvss_date: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day of the CVSS file, likewise.")
    ] = None,
    trivy_host: Annotated[
        str, typer.Option(help="With a Trivy report: the host's name in events.")
    ] = "",
    trivy_exposure: Annotated[
        str | None, typer.Option(help="With a Trivy report: isolated, internal or internet.")
    ] = None,
    trivy_criticality: Annotated[
        str, typer.Option(help="With a Trivy report: low, medium, high or critical.")
    ] = "medium",
    tenant: Tenant = None,
    store: Into = None,
    publish: Publish = False,
    promote: Promote = True,
) -> None:
    """Tell the resilience layer about vulnerabilities and about your hosts."""
    from deployments.cli.publish_target import PublishTarget
    from deployments.cli.train_posture import Sources
    from deployments.cli.train_posture import train_posture as run
    from ensemble.training.recipes.host_inventory import TrivyHost

    with user_errors(err):
        days = [None if day is None else day.date() for day in (epss_date, kev_date, cvss_date)]
        trivy = (
            None
            if trivy_exposure is None
            else TrivyHost(trivy_exposure, trivy_criticality, host=trivy_host)
        )
        run(
            inventory,
            Sources(epss, kev, cvss, *days),
            trivy,
            PublishTarget(tenant, store, publish=publish, promote=promote),
            out,
        )


@trust.command("init")
def trust_init(
    key: Annotated[
        Path | None,
        typer.Option(
            help="File of the private key, outside the repository; ~/.config/axon/signing.key unless said otherwise."
        ),
    ] = None,
) -> None:
    """Make a key to sign models with, and put its public half on the trust list.

    A key that is there is kept.
    """
    from deployments.cli.trust import init

    with user_errors(err):
        init(key, out)


@trust.command("show")
def trust_show() -> None:
    """The keys and the pinned files that this Axon believes."""
    from deployments.cli.trust import show

    with user_errors(err):
        show(out)


@trust.command("pin")
def trust_pin() -> None:
    """For who ships Axon.

    Pin every pointer, release and manifest of the shipped models as they lie there now.
    """
    from deployments.cli.trust import pin

    with user_errors(err):
        pin(out)


@app.command("status")
def service_status(
    *,
    url: Url = SERVICE,
    as_json: Annotated[
        bool, typer.Option("--json", help="The whole of GET /v1/status, for programs.")
    ] = False,
) -> None:
    """How a running service stands. Exit code 0: all of it speaks; 1: degraded; 2: no answer."""
    from deployments.cli.status import show_status

    with user_errors(err):
        if not show_status(url, as_json=as_json, console=out):
            raise typer.Exit(1)


@layers.callback()
def list_layers(context: typer.Context, url: Url = SERVICE) -> None:
    """The layers of a running service: enabled or not, with a model or not."""
    if context.invoked_subcommand is None:
        from deployments.cli.status import show_layers

        with user_errors(err):
            show_layers(url, out)


@layers.command("disable")
def disable_layer(layer: Layer, url: Url = SERVICE) -> None:
    """Switch a layer off.

    At once, kept over restarts. It is not asked and weighs nothing until it is enabled.
    """
    _switch(url, layer, "disable")


@layers.command("enable")
def enable_layer(layer: Layer, url: Url = SERVICE) -> None:
    """Switch a layer on again, without a restart."""
    _switch(url, layer, "enable")


@layers.command("reset")
def reset_layer(layer: Layer, url: Url = SERVICE) -> None:
    """Clear what is remembered of a layer's failures.

    Its breaker closes, its backoff begins anew.
    """
    _switch(url, layer, "reset")


@layers.command("test")
def try_layer(layer: Layer, url: Url = SERVICE) -> None:
    """Load a layer's models beside those that serve, prove them and throw them away.

    Exit code 1: one would not serve.
    """
    from deployments.cli.status import try_layer as run

    with user_errors(err):
        if not run(url, layer, out):
            raise typer.Exit(1)


def _switch(url: str, layer: str, switch: str) -> None:
    from deployments.cli.status import switch_layer

    with user_errors(err):
        switch_layer(url, layer, switch, out)


@retro.callback()
def about_retro() -> None:
    """Events that turned hostile at a second look."""


@retro.command("findings")
def retro_findings(
    *,
    output: Annotated[
        Output, typer.Option(help="A table, or every finding as a line of JSON.")
    ] = Output.TABLE,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the newest so many.")] = None,
) -> None:
    """What turned hostile when more of the ensemble looked, with the time it came."""
    from deployments.cli.retro import show_findings

    with user_errors(err):
        show_findings(as_jsonl=output is Output.JSONL, limit=limit, out=out, err=err)


def main() -> None:
    """The console script."""
    app(prog_name="axon")


if __name__ == "__main__":
    main()
