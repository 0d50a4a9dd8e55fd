"""``mesh serve``: the instance of one pod."""

import click


class _HelpWithSettings(click.Command):
    """A command whose help lists the settings of an instance."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from mesh.instance import describe

        with formatter.section("Environment variables"):
            formatter.write_dl(
                [
                    (one.name, f"{one.meaning}  [default: {one.default}]" if one.default else one.meaning)
                    for one in describe()
                ],
                col_max=34,
            )


@click.command(cls=_HelpWithSettings)
def serve() -> None:
    """Run one instance beside a model server, as in a pod, until SIGTERM.

    Settings come from the environment, by the names that KServe ModelMesh has.
    """
    from mesh.instance import SettingError, StartRefused, run
    from mesh.registry import RegistryError
    from mesh.runtimes import RuntimeFailure

    try:
        run()
    except (SettingError, StartRefused, RegistryError, RuntimeFailure, TimeoutError, OSError) as error:
        raise click.ClickException(str(error) or type(error).__name__) from None
