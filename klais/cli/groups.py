"""Command groups that suggest similar names for a mistyped one."""

import click

from klais.text import near_names


class SuggestingGroup(click.Group):
    """A click group whose error for an unknown command suggests similar names."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command like click, with suggestions in the error."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = near_names(args[0], self.list_commands(ctx), n=3)
            if close and self.get_command(ctx, args[0]) is None:
                error.message += f" Did you mean {' or '.join(close)}?"
            raise
