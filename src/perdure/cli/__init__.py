"""The command line: `perdure run`, and what else an app is managed with.

The parent of a server imports little: `main` loads the commands, and the supervisor stays small
beside the server it watches.
"""


def main() -> None:
    """The `perdure` command."""
    from perdure.cli.commands import run_command_line

    run_command_line()
