"""What any service does about its process: to be put beside it, each a service of its own.

``signals`` has it stop in order and read files again, ``openfiles`` lets it have many, ``collecting`` tells the garbage
collector what it is like, ``lag`` measures how busy it is, and ``sweeping`` calls what comes round. Only ``children``
is no service: it is for those that start processes.
"""
