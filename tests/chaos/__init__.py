"""Chaos: a proxy with its servers and clients, faults that a seed decides, and whether every promise was kept.

``python -m tests.chaos --seed 7 --seconds 60`` starts real processes that talk over real sockets, and disturbs them.
Each step is a module of its own, and the next one knows only its outcome:

==============  ======================================================================================================
``plan``        what the seed decides before anything starts: who takes part, what is sent, which fault strikes whom
``running``     has a plan carried out, and hands back its history
``processes``   the proxy and the servers as processes that can be killed, stopped and started again
``faultserver`` a server that resets, answers late or answers garbage when it is ordered to; runs without the project
``journaling``  the handler that makes the real pool server keep a journal
``journal``     what a server received, in a file that outlives it
``clients``     clients that send in bursts, vanish half way, and come back
``rollcall``    whether every worker knows every server in the end
``openfiles``   what a process has open, and which peer explains it
``views``       what the proxy shows of itself, asked from outside in all the ways that there are
``history``     everything that was seen, in one value
``oracle``      what in a history breaks a promise; it knows no process and no socket
``comparing``   whether all views show the same
``agreement``   whether what they show adds up, and is what clients and servers saw
``report``      a run in one line, and a violation with all that led to it
==============  ======================================================================================================
"""
