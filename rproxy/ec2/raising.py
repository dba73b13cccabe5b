"""``rproxy ec2 up``: makes a stack, or changes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import frozen

from rproxy.ec2 import equivalents, parameters, showing, templates
from rproxy.ec2.buckets import Bucket, template_key, wheel_key
from rproxy.ec2.clouds import Cloud
from rproxy.ec2.errors import FailedError
from rproxy.ec2.events import failures
from rproxy.ec2.stacks import OWNER_TAG, TEMPLATE_TAG, Change, Stack, Stacks
from rproxy.ec2.templates import Template
from rproxy.ec2.terminal import Terminal
from rproxy.ec2.watching import Watch


@frozen
class Wish:
    """What a stack is asked to be.

    :ivar template: the name of one, None for what it has.
    :ivar wheel: the file of the rproxy to install, None for what the parameters say.
    :ivar given: parameters that are said.
    """

    name: str
    template: str | None
    wheel: Path | None
    given: Mapping[str, str]


class Raising:
    """Makes or changes one stack.

    :param sleep: called with the seconds between two looks.
    """

    def __init__(
        self,
        cloud: Cloud,
        terminal: Terminal,
        wish: Wish,
        sleep: Callable[[float], None],
        load: Callable[[str], Template] = templates.load,
    ) -> None:
        self._cloud = cloud
        self._stacks = Stacks(cloud.cloudformation)
        self._bucket = Bucket(cloud, wish.name)
        self._terminal = terminal
        self._wish = wish
        self._sleep = sleep
        self._stack = self._find()
        of_stack = None if self._stack is None else self._stack.tags.get(TEMPLATE_TAG)
        self._template = load(wish.template or of_stack or templates.NAMES[0])
        self._given = dict(wish.given)
        if wish.wheel is not None:
            self._given[parameters.WHEEL] = f"s3://{self._bucket.name}/{wheel_key(wish.wheel)}"
        self._parameters = self._resolve()

    def _find(self) -> Stack | None:
        stack = self._stacks.find(self._wish.name)
        if stack is None:
            return None
        if not stack.is_ours:
            raise FailedError(f"the stack {stack.name} isn't of rproxy ec2: it has no tag {OWNER_TAG}={stack.name}")
        if stack.is_dead:
            raise FailedError(
                f"the stack {stack.name} is {stack.state} and can only be deleted: rproxy ec2 down {stack.name}"
            )
        if not stack.has_settled:
            raise FailedError(f"the stack {stack.name} is {stack.state}: see rproxy ec2 status {stack.name}")
        return stack

    def _resolve(self) -> list[dict[str, object]]:
        if self._stack is None:
            return parameters.for_creation(self._given, self._template.defaults)
        return parameters.for_change(self._given, self._template.defaults, self._stack.parameters)

    def tell(self) -> int:
        """Print the aws commands that do the same, and return the exit code; nothing is changed."""
        wish, region, template = self._wish, self._cloud.region, self._template
        commands: list[list[str]] = []
        if wish.wheel is not None or template.is_large:
            commands += equivalents.bucket_commands(self._bucket.name, wish.name, region)
        if wish.wheel is not None:
            commands.append(equivalents.upload_command(wish.wheel, self._given[parameters.WHEEL], region))
        large = self._bucket.name if template.is_large else None
        commands.append(equivalents.deploy_command(wish.name, template, self._given, region, large))
        what = "make" if self._stack is None else "change"
        lines = [f"# This would {what} the stack {wish.name} in {region}, as these commands do:"]
        self._terminal.end([*lines, *map(equivalents.as_line, commands)], {"does": what, "commands": commands})
        return 0

    def raise_it(self, *, wait: bool) -> int:
        """Make or change it, and return the exit code.

        :param wait: until it has settled; what happens is told meanwhile.
        """
        change = Change(self._wish.name, self._template.name, self._upload(), self._parameters)
        watch = Watch(self._stacks, None if self._stack is None else self._stack.id, self._terminal, self._sleep)
        if self._stack is None:
            self._terminal.say(f"Making the stack {change.name} in {self._cloud.region}")
            stack_id = self._stacks.create(change)
        else:
            stack_id = self._stack.id
            self._terminal.say(f"Changing the stack {change.name} in {self._cloud.region}")
            if not self._stacks.update(change):
                return self._done(self._stack, changed=False)
        if not wait:
            self._terminal.end(
                [f"It goes on by itself. To see how: rproxy ec2 status {change.name}"],
                {"name": change.name, "id": stack_id, "changed": True},
            )
            return 0
        stack, events = watch.follow(stack_id)
        if stack is None or stack.has_failed:
            return self._failed(
                stack, showing.failure_lines(failures(events)), showing.stack_value(stack, failures(events))
            )
        return self._done(stack, changed=True)

    def _upload(self) -> tuple[str, str]:
        """Put what goes there into the bucket; return how the template is passed."""
        wheel, template = self._wish.wheel, self._template
        if wheel is None and not template.is_large:
            return "TemplateBody", template.body
        if self._bucket.make():
            self._terminal.say(f"Made the bucket {self._bucket.name}, which goes by: rproxy ec2 down {self._wish.name}")
        if wheel is not None:
            key = wheel_key(wheel)
            new = self._bucket.put(key, wheel.read_bytes())
            self._terminal.say(f"{'Uploaded' if new else 'Already there:'} {self._given[parameters.WHEEL]}")
        if not template.is_large:
            return "TemplateBody", template.body
        key = template_key(template.body)
        self._bucket.put(key, template.body.encode())
        return "TemplateURL", self._bucket.url(key)

    def _done(self, stack: Stack, *, changed: bool) -> int:
        begin = f"{stack.name} is {stack.state}" if changed else f"Nothing to change: {stack.name} is {stack.state}"
        lines = ["", begin, *showing.outputs(stack), "", *showing.next_steps(stack)]
        self._terminal.end(lines, {**showing.stack_value(stack, []), "changed": changed})
        return 0

    def _failed(self, stack: Stack | None, causes: list[str], value: dict[str, object]) -> int:
        name = self._wish.name
        lines = ["", f"{name} is {'gone' if stack is None else stack.state}", *causes]
        if stack is not None and stack.is_dead:
            lines.append(f"What is left of it goes by: rproxy ec2 down {name}")
        elif stack is not None and stack.state == "UPDATE_ROLLBACK_COMPLETE":
            lines.append("It is as it was before.")
        elif stack is not None:
            lines.append(f"When that is put right: aws cloudformation continue-update-rollback --stack-name {name}")
        self._terminal.end(lines, value)
        return 1
