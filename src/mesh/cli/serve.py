"""``mesh serve``: the instance of one pod."""

import asyncio
import sys

import click


class _HelpWithSettings(click.Command):
    """A command whose help lists the settings of an instance."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from mesh.instance.settings import describe

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
    from mesh.instance import Settings
    from mesh.instance import serve as serve_instance
    from mesh.instance.settings import SettingError

    try:
        settings = Settings.from_environment()
    except SettingError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(asyncio.run(serve_instance(settings)))
