"""Several proxy processes behind the same listeners: one that supervises, and those that it starts, the workers.

The parent binds, starts the workers, and never accepts. Each worker (:mod:`rproxy.worker`) is a whole proxy that
accepts from the parent's sockets. They talk over a :mod:`rproxy.workers.channel`; what a worker has to say in the log
goes to the parent (:mod:`rproxy.workers.relaying`), so that a log has one writer.
"""
