"""``mesh controller``: the Kubernetes controller."""

import click


@click.command()
@click.option(
    "--metrics-addr", default=":8080", show_default=True, help="Where /metrics is served; :0 for nowhere."
)
@click.option(
    "--health-probe-bind-address",
    default=":8081",
    show_default=True,
    help="Where /healthz and /readyz are served; :0 for nowhere.",
)
@click.option("--enable-leader-election", is_flag=True, help="Of several controllers, let one lead.")
@click.option("--leader-elect-type", type=click.Choice(["lease"]), default="lease", show_default=True)
@click.option(
    "--leader-elect-lease-duration-sec",
    "lease",
    default="15s",
    show_default=True,
    help="Another may lead when the Lease was not renewed for so long.",
)
@click.option("--leader-elect-lease-renew-deadline-sec", "renew", default="10s", show_default=True)
@click.option("--leader-elect-retry-period-sec", "retry", default="2s", show_default=True)
@click.option(
    "--webhook-port", type=click.IntRange(0, 65535), default=0, help="Serve the webhook; 0 for not."
)
@click.option(
    "--webhook-certificates",
    type=click.Path(file_okay=False),
    help="Directory of tls.crt and tls.key, read again when they change.",
)
@click.option(
    "--webhook-self-signed",
    is_flag=True,
    help="Make the webhook's certificate, keep it in a Secret, and have the API server trust it.",
)
def controller(
    *,
    metrics_addr: str,
    health_probe_bind_address: str,
    enable_leader_election: bool,
    leader_elect_type: str,
    lease: str,
    renew: str,
    retry: str,
    webhook_port: int,
    webhook_certificates: str | None,
    webhook_self_signed: bool,
) -> None:
    """Run meshes in a Kubernetes cluster: for annotated InferenceServices, Predictors and ServingRuntimes.

    Outside a cluster it uses your kubeconfig. Settings come from the environment by the names of KServe ModelMesh:
    NAMESPACE, POD_NAME, CONTROLLER_DEPLOYMENT, ETCD_SECRET_NAME, NAMESPACE_SCOPE, ENABLE_ISVC_WATCH, ENABLE_CSR_WATCH,
    ENABLE_SECRET_WATCH, DEV_MODE_LOGGING; of our own CONFIG_DEFAULTS_FILE.
    """
    import os
    from pathlib import Path

    try:
        from mesh.controller.cluster import Terms
        from mesh.controller.process import run_controller
    except ImportError as missing:
        raise click.ClickException(
            f"{missing}: install the controller's libraries with `pip install 'model-mesh[controller]'`"
        ) from None
    from mesh.controller.settings import InvalidSetting, read_address, read_duration, read_settings
    from mesh.instance.logs import configure

    if webhook_port and (webhook_certificates is None) == (not webhook_self_signed):
        raise click.UsageError("--webhook-port needs either --webhook-certificates or --webhook-self-signed")
    try:
        election = Terms(read_duration(lease), read_duration(renew), read_duration(retry))
        settings = read_settings(
            os.environ,
            metrics_address=read_address(metrics_addr),
            probe_address=read_address(health_probe_bind_address),
            election=election if enable_leader_election else None,
            webhook_port=webhook_port,
            webhook_certificates=Path(webhook_certificates) if webhook_certificates else None,
        )
    except InvalidSetting as problem:
        raise click.ClickException(str(problem)) from None
    configure("DEBUG" if "DEV_MODE_LOGGING" in os.environ else "INFO")
    problem_told = run_controller(settings)
    if problem_told:
        raise click.ClickException(problem_told)
