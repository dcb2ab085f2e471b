"""Groups of commands that suggest what a mistyped name may have meant."""

import click

from klais.text import near_names


class SuggestingGroup(click.Group):
    """A click group whose error for an unknown command names the ones that look like it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with suggestions in the error."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = near_names(args[0], self.list_commands(ctx), n=3)
            if close and self.get_command(ctx, args[0]) is None:
                error.message += f" Did you mean {' or '.join(close)}?"
            raise
