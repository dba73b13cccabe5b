"""What processes say, line by line (docs/logs.rst).

``lines`` has what a line of the service's log says, ``service`` how it is written; ``quiet`` keeps lines few that
strangers can cause, and ``packets`` shows packets. ``access`` makes the lines of the access log, ``accessfile`` writes
them.
"""
