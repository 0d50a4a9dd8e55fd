"""``mesh migrate``: what a move from KServe ModelMesh means."""

from collections.abc import Iterator, Mapping

import click


@click.command()
@click.option("--namespace", "-n", default="modelmesh-serving", show_default=True, help="With the models.")
@click.option("--controller-namespace", help="With ModelMesh's controller; default the same.")
@click.option("--etcd-secret", default="model-serving-etcd", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(*, namespace: str, controller_namespace: str | None, etcd_secret: str, as_json: bool) -> None:
    """Look at an installation of KServe ModelMesh, and tell what of it works here as it is.

    Reads custom resources, ConfigMaps and Secrets by your kubeconfig, and etcd where it can be reached from here.
    Changes nothing. Ends with status 1 where something is to be done before the move.
    """
    import asyncio

    try:
        from mesh.controller.cluster import ClusterError
        from mesh.controller.migration import Verdict, assess
        from mesh.controller.process import NoCluster, look_at_installation
    except ImportError as missing:
        raise click.ClickException(
            f"{missing}: install the controller's libraries with `pip install 'model-mesh[controller]'`"
        ) from None
    from mesh.cli.screen import show_json

    try:
        installation = asyncio.run(
            look_at_installation(controller_namespace or namespace, namespace, etcd_secret=etcd_secret)
        )
    except (ClusterError, NoCluster) as problem:
        raise click.ClickException(str(problem)) from None
    findings = assess(installation, _variables_without_effect)
    if as_json:
        show_json([{"subject": f.subject, "verdict": str(f.verdict), "message": f.message} for f in findings])
    else:
        for finding in findings:
            click.echo(f"{finding.verdict:<8} {finding.subject}: {finding.message}")
    if any(finding.verdict is Verdict.ACT for finding in findings):
        raise click.exceptions.Exit(1)


def _variables_without_effect(variables: Mapping[str, str]) -> Iterator[str]:
    from mesh.instance.settings import SettingError
    from mesh.instance.unsupported import check_unsupported

    try:
        yield from check_unsupported(variables)
    except SettingError as refused:
        yield str(refused)
