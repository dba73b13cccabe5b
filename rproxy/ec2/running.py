"""From arguments to one of the three commands, ``status`` itself, and from how a command ends to an exit code."""

from __future__ import annotations

import argparse
import sys
import time

from rproxy.ec2 import parameters, showing
from rproxy.ec2.clouds import Cloud, connect, refusals
from rproxy.ec2.errors import FailedError, UsageError
from rproxy.ec2.events import failures, last_operation
from rproxy.ec2.groups import GROUP, instances
from rproxy.ec2.raising import Raising, Wish
from rproxy.ec2.removing import Removing
from rproxy.ec2.stacks import Stacks
from rproxy.ec2.terminal import Terminal

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130


def run_action(args: argparse.Namespace) -> int:
    """Do what the arguments say, and return the exit code."""
    terminal = Terminal(sys.stdout, sys.stderr, args.json)
    try:
        return _run(args, terminal)
    except UsageError as error:
        terminal.fail(str(error))
        return BAD_USAGE
    except FailedError as error:
        terminal.fail(str(error))
        return FAILED
    except KeyboardInterrupt:
        terminal.fail("interrupted")
        return INTERRUPTED


def _run(args: argparse.Namespace, terminal: Terminal) -> int:
    # What can be seen to be wrong without AWS is told first.
    wish = Wish(args.name, args.template, args.wheel, parameters.chosen(args)) if args.action == "up" else None
    cloud = connect(args.region)
    with refusals():
        if wish is not None:
            raising = Raising(cloud, terminal, wish, time.sleep)
            return raising.tell() if args.dry_run else raising.raise_it(wait=not args.no_wait)
        if args.action == "down":
            removing = Removing(cloud, terminal, args.name, time.sleep)
            return removing.remove(_always if args.yes else _ask, wait=not args.no_wait)
        return look(cloud, terminal, args.name)


def look(cloud: Cloud, terminal: Terminal, name: str) -> int:
    """Show a stack, and return the exit code: 1 if what was last asked of it failed.

    :raises FailedError: there is none.
    """
    stacks = Stacks(cloud.cloudformation)
    stack = stacks.find(name)
    if stack is None:
        raise FailedError(f"there is no stack {name} in {cloud.region}")
    groups = {physical: logical for logical, kind, physical in stacks.resources(stack.id) if kind == GROUP and physical}
    found = instances(cloud, groups)
    failed = failures(last_operation(stacks.events(stack.id)))
    terminal.end(showing.status_lines(stack, found, failed), showing.status_value(stack, found, failed))
    return 1 if stack.has_failed else 0


def _always(question: str) -> bool:
    return True


def _ask(question: str) -> bool:
    """Ask whoever runs the command.

    :raises UsageError: nobody answers.
    """
    print(question, end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
        raise UsageError("nobody answers: give --yes")
    return answer.strip().lower() in {"y", "yes"}
