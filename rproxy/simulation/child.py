"""``python -m rproxy.simulation.child ARGUMENTS``: twistd, for as long as whoever started it is there.

A process that is killed can't stop its children. But the kernel closes its end of the pipe that is their standard
input, and that is what each of them waits for.
"""

import os
import threading

_STANDARD_INPUT = 0


def follow_parent() -> None:
    """Wait until standard input ends, and then end this process."""
    while os.read(_STANDARD_INPUT, 1024):
        pass
    os._exit(1)


def main() -> None:
    """Run twistd in a process group of its own, so that a terminal's Ctrl-C is for the simulation alone."""
    os.setpgrp()
    threading.Thread(target=follow_parent, daemon=True).start()
    # Loading twistd takes most of the start, in which the parent may also go.
    from twisted.scripts.twistd import run

    run()


if __name__ == "__main__":
    main()
