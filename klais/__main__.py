"""``python -m klais`` is the ``klais`` command."""

from klais.cli.main import main

if __name__ == "__main__":
    main()
