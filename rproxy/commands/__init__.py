"""The commands that ask and tell a running proxy, by its admin listener (docs/operating.rst), and shell completion.

``asking`` is the way there and back, ``showing`` makes what is answered text; each of the others is a command.
"""
