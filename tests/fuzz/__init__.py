"""What a stranger may send, found by looking for it: targets, and the command that lets atheris loose on them."""
