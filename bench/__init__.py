"""What a message costs rproxy, beside its peers on the same machine: see README.rst in this folder.

Nothing here is imported by rproxy. Nothing but the standard library is needed; where there is matplotlib it is used.
"""
