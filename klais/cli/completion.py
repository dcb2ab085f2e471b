"""``klais completion``: shell completion of commands, options and device ids."""

import click

from klais.cli.printing import say_text


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script for shell completion of klais commands.

    Device ids come from the worker at KLAIS_WEB_BIND:KLAIS_WEB_PORT, if it answers within 0.3 s.

    \b
    Examples:
      eval "$(klais completion bash)"                                 in ~/.bashrc
      eval "$(klais completion zsh)"                                  in ~/.zshrc
      klais completion fish > ~/.config/fish/completions/klais.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"click has no completion for {shell}")
    say_text(found(ctx.find_root().command, {}, "klais", "_KLAIS_COMPLETE").source())
