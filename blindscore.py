"""The command line: maps each subcommand to its package, imported only when it is used."""


def main() -> None:
    """Run the `blindscore` command."""
