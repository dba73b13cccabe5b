"""``rproxy completion``: the script by which a shell completes what is typed."""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    # Filled to the width of the terminal, the command would be broken at a hyphen, and couldn't be copied.
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Print the script by which a shell completes the commands and options of rproxy.\n"
        "For bash: rproxy completion bash > ~/.local/share/bash-completion/completions/rproxy"
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")


def run(args: argparse.Namespace) -> int:
    """Print it, and return the exit code."""
    import shtab

    print(shtab.complete(args.parser, args.shell))
    return 0
